//! Files in S3: through the server, and straight to the storage with a URL that takes one content only.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{
    Device, Server,
    files::{Form, bytes, fetch, get, post},
    s3::S3,
    wait::{eventually, soon},
};

const MIB: usize = 1024 * 1024;

async fn server(s3: &S3) -> Server {
    Server::with(|config| s3.configure(config)).await
}

#[tokio::test]
async fn what_is_uploaded_is_what_is_got() {
    let s3 = S3::start().await;
    let server = server(&s3).await;
    let alice = server.new_user().await;
    let http = server.addresses.http;
    for (number, length) in [0, 1, 5 * MIB, 5 * MIB + 1, 12 * MIB + 7]
        .into_iter()
        .enumerate()
    {
        let content = bytes(length);
        let path = Form::default().upload(http, &alice, &content).await.path();
        assert!(get(http, &path).await.body == content, "{length} bytes");
        assert_eq!((s3.objects(), s3.parts()), (number + 1, 0));
        assert!(std::fs::read(s3.object(&path)).expect("an object") == content);
        if length > 1 {
            let range = [("range", "bytes=1000-5000000")];
            let part = fetch(http, "GET", &path, &range).await;
            assert!(part.status == 206 && part.body == content[1_000..=5_000_000]);
        }
    }
}

#[tokio::test]
async fn a_storage_that_is_away_is_answered_503_and_comes_back() {
    let mut s3 = S3::start().await;
    let server = server(&s3).await;
    let alice = server.new_user().await;
    let http = server.addresses.http;
    let path = Form::default().upload(http, &alice, b"before").await.path();
    s3.stop().await;
    let answer = Form::default().upload(http, &alice, b"x").await;
    assert_eq!((answer.status, answer.code()), (503, 10004));
    let answer = get(http, &path).await;
    assert_eq!((answer.status, answer.code()), (503, 10004));
    let head = fetch(http, "HEAD", &path, &[]).await;
    assert_eq!(
        head.status, 200,
        "what is known of a file is in the database"
    );
    s3.serve().await;
    eventually("it works again", async || {
        let answer = Form::default().upload(http, &alice, b"x").await;
        (answer.status == 200).then_some(())
    })
    .await;
    assert_eq!(get(http, &path).await.body, b"before");
}

/// A ticket for a direct upload of `content`, said to have `size` bytes.
async fn ticket(server: &Server, device: &Device, content: &[u8], size: usize) -> Value {
    ticket_for(server, device, content, size, "image/png").await
}

async fn ticket_for(
    server: &Server,
    device: &Device,
    content: &[u8],
    size: usize,
    content_type: &str,
) -> Value {
    let sha256: String = Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let wish = json!({
        "name": "../a b.png", "content_type": content_type, "size": size, "sha256": sha256,
    });
    let answer = post(server.addresses.http, device, "/upload/presign", &wish).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let ticket = answer.json()["data"].clone();
    assert_eq!(
        (&ticket["method"], &ticket["expires_in_s"]),
        (&json!("PUT"), &json!(900))
    );
    ticket
}

/// Uses a ticket with `headers`, and returns the storage's status.
async fn put(ticket: &Value, headers: &Value, content: &[u8]) -> u16 {
    let url = ticket["upload_url"].as_str().expect("a URL");
    let mut request = reqwest::Client::new().put(url).body(content.to_vec());
    for (name, value) in headers.as_object().expect("headers") {
        request = request.header(name, value.as_str().expect("text"));
    }
    let answer = soon("the storage's answer", request.send()).await;
    answer.expect("an answer").status().as_u16()
}

async fn complete(server: &Server, device: &Device, ticket: &Value) -> (u16, Value) {
    let done = json!({"key": ticket["key"]});
    let answer = post(server.addresses.http, device, "/upload/complete", &done).await;
    (answer.status, answer.json())
}

#[tokio::test]
async fn a_file_goes_straight_to_the_storage() {
    let s3 = S3::start().await;
    let server = server(&s3).await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let http = server.addresses.http;
    let content = bytes(2 * MIB);
    let ticket = ticket(&server, &alice, &content, content.len()).await;
    let path = format!("/file/{}", ticket["key"].as_str().expect("a key"));
    let (status, refused) = complete(&server, &alice, &ticket).await;
    assert_eq!(
        (status, &refused["code"]),
        (404, &json!(10017)),
        "not there yet"
    );

    // The storage itself refuses whatever is not the file that was announced.
    let mut other = content.clone();
    other[7] ^= 1;
    assert_eq!(put(&ticket, &ticket["headers"], &other).await, 400);
    let lie = STANDARD.encode(Sha256::digest(&other));
    let lying = json!({"content-type": "image/png", "x-amz-checksum-sha256": lie});
    assert_eq!(put(&ticket, &lying, &other).await, 403);
    assert_ne!(put(&ticket, &json!({}), &other).await, 200);

    assert_eq!(put(&ticket, &ticket["headers"], &content).await, 200);
    assert_eq!(get(http, &path).await.status, 404, "it is not completed");
    let (status, _) = complete(&server, &bob, &ticket).await;
    assert_eq!(status, 404, "it is not his");
    for _ in 0..2 {
        let (status, done) = complete(&server, &alice, &ticket).await;
        assert_eq!((status, &done["data"]["url"]), (200, &ticket["url"]));
    }
    let got = get(http, &path).await;
    assert!(got.status == 200 && got.body == content);
    assert_eq!(got.header("content-type"), "image/png");
    let name = "inline; filename*=UTF-8''a%20b.png";
    assert_eq!(got.header("content-disposition"), name);

    // The URL is still good, for that very content.
    assert_eq!(put(&ticket, &ticket["headers"], &content).await, 200);
    assert!(get(http, &path).await.body == content);
}

#[tokio::test]
async fn a_direct_upload_of_another_size_is_removed() {
    let s3 = S3::start().await;
    let server = server(&s3).await;
    let alice = server.new_user().await;
    let content = bytes(3_000);
    let ticket = ticket(&server, &alice, &content, 10).await;
    assert_eq!(put(&ticket, &ticket["headers"], &content).await, 200);
    let (status, refused) = complete(&server, &alice, &ticket).await;
    assert_eq!(
        (status, &refused["code"]),
        (400, &json!(10001)),
        "{refused}"
    );
    assert_eq!(s3.objects(), 0);
    let (status, _) = complete(&server, &alice, &ticket).await;
    assert_eq!(status, 404);
}

/// Whoever gets files from the bucket itself, through a cache beside it, gets no page from it.
#[tokio::test]
async fn the_storage_is_told_no_type_that_a_browser_runs() {
    let s3 = S3::start().await;
    let server = server(&s3).await;
    let alice = server.new_user().await;
    let content = b"<script>alert(1)</script>";
    let ticket = ticket_for(&server, &alice, content, content.len(), "text/html").await;
    let told = "application/octet-stream";
    assert_eq!(ticket["headers"]["content-type"], told);
    let mut lying = ticket["headers"].clone();
    lying["content-type"] = json!("text/html");
    assert_eq!(put(&ticket, &lying, content).await, 403);
    assert_eq!(put(&ticket, &ticket["headers"], content).await, 200);
    assert_eq!(complete(&server, &alice, &ticket).await.0, 200);
}

#[tokio::test]
async fn a_direct_upload_is_counted_once() {
    let s3 = S3::start().await;
    let server = Server::with(|config| {
        s3.configure(config);
        config.files.uploads_burst = 1;
        config.files.uploads_per_min = 1;
    })
    .await;
    let alice = server.new_user().await;
    let ticket = ticket(&server, &alice, b"x", 1).await;
    assert_eq!(put(&ticket, &ticket["headers"], b"x").await, 200);
    for _ in 0..2 {
        assert_eq!(complete(&server, &alice, &ticket).await.0, 200);
    }
    let http = server.addresses.http;
    let another = Form::default().upload(http, &alice, b"x").await;
    assert_eq!((another.status, another.code()), (429, 10003));
}
