//! Uploads that are refused: each is answered with its status and code, and leaves nothing behind.

use serde_json::json;

use crate::support::{
    Device, Server,
    files::{BOUNDARY, Form, bytes, credential, exchange, fetch, files_in, part, post},
    http,
    wait::eventually,
};

const MIB: usize = 1024 * 1024;

/// A server with its storage in a folder that the test knows.
async fn server() -> (Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let storage = folder.path().join("files").display().to_string();
    let server = Server::with(|config| {
        config.files.storage = storage;
        config.files.size_max_mib = 1;
    });
    (server.await, folder)
}

#[tokio::test]
async fn only_who_is_signed_in_uploads() {
    let (server, folder) = server().await;
    let alice = server.new_user().await;
    let bob = server.new_user().await;
    let at = server.addresses.http;
    let as_ = |change: &dyn Fn(&mut Device)| {
        let mut device = alice.clone();
        change(&mut device);
        device
    };
    for stranger in [
        as_(&|device| device.token.clear()),
        as_(&|device| device.token = bob.token.clone()),
        as_(&|device| device.user_id = bob.user_id),
        as_(&|device| device.device_id = bob.device_id),
        as_(&|device| device.user_id = 0),
        as_(&|device| device.user_id = -1),
    ] {
        // Large, so that the answer comes before all is sent.
        let answer = Form::default().upload(at, &stranger, &bytes(3 * MIB)).await;
        assert_eq!((answer.status, answer.code()), (401, 10000), "{stranger:?}");
        assert!(!answer.header("request_id").is_empty());
        let answer = post(at, &stranger, "/upload/presign", &json!({})).await;
        assert_eq!((answer.status, answer.code()), (401, 10000));
    }
    let nobody = fetch(at, "POST", "/upload", &[("content-length", "0")]).await;
    assert_eq!((nobody.status, nobody.code()), (401, 10000));
    assert_eq!(fetch(at, "GET", "/upload", &[]).await.status, 405);
    assert_eq!(files_in(folder.path()), 0);
}

#[tokio::test]
async fn the_size_limit_is_exact() {
    let (server, folder) = server().await;
    let alice = server.new_user().await;
    let at = server.addresses.http;
    for form in [Form::default(), Form::default().chunked()] {
        let fits = form.upload(at, &alice, &bytes(MIB)).await;
        assert_eq!(fits.status, 200, "{fits:?}");
        for excess in [1, 300 * 1024, 3 * MIB] {
            let answer = form.upload(at, &alice, &bytes(MIB + excess)).await;
            assert_eq!(
                (answer.status, answer.code()),
                (413, 10001),
                "{excess} more"
            );
            let message = answer.json()["message"].to_string();
            assert!(message.contains("1048576"), "{message}");
        }
    }
    assert_eq!(files_in(folder.path()), 2);
}

/// Nothing of the body is needed for that.
#[tokio::test]
async fn what_is_surely_too_large_is_refused_by_its_length() {
    let (server, _folder) = server().await;
    let alice = server.new_user().await;
    let at = server.addresses.http;
    let form = Form::default().with("Expect", "100-continue");
    let head = form.head(at, &alice, "Content-Length: 99999999999");
    let answer = exchange(at, &head, b"").await;
    assert_eq!((answer.status, answer.code()), (413, 10001));
}

#[tokio::test]
async fn bodies_that_are_no_form_with_one_file_are_refused() {
    let (server, folder) = server().await;
    let alice = server.new_user().await;
    let at = server.addresses.http;
    let end = format!("--{BOUNDARY}--\r\n").into_bytes();
    let file = part("a", "text/plain", b"content");
    let other = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"other\"\r\n\r\n{}\r\n",
        "o".repeat(10_000)
    )
    .into_bytes();
    let much = other.repeat(30);
    let bad: [(&str, Vec<u8>); 11] = [
        ("empty", Vec::new()),
        ("no parts", end.clone()),
        ("no field `file`", [&other[..], &end].concat()),
        ("two of them", [&file[..], &file, &end].concat()),
        ("no end", file.clone()),
        ("cut in its headers", file[..60].to_vec()),
        ("cut in its data", file[..file.len() - 4].to_vec()),
        ("another boundary", b"--x\r\n\r\n--x--".to_vec()),
        ("junk", bytes(200_000)),
        ("much junk", bytes(600_000)),
        ("much around it", [&much[..], &file, &end].concat()),
    ];
    for (what, body) in &bad {
        for form in [Form::default(), Form::default().chunked()] {
            let answer = form.send(at, &alice, body).await;
            assert_eq!((answer.status, answer.code()), (400, 10001), "{what}");
        }
    }
    for content_type in [
        "application/json",
        "multipart/form-data",
        "text/plain; boundary=x",
    ] {
        let head = format!(
            "POST /upload HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n{}Content-Length: 2\r\n\
             Content-Type: {content_type}\r\n\r\n",
            credential(&alice)
        );
        let answer = exchange(at, &head, b"{}").await;
        assert_eq!(
            (answer.status, answer.code()),
            (400, 10001),
            "{content_type}"
        );
    }
    assert_eq!(files_in(folder.path()), 0);

    let with_others = [&other[..], &file, &other, &end, b"epilogue"].concat();
    let answer = Form::default().send(at, &alice, &with_others).await;
    assert_eq!(
        answer.status, 200,
        "other fields are passed over: {answer:?}"
    );
    assert_eq!(files_in(folder.path()), 1);
}

#[tokio::test]
async fn uploads_of_a_user_are_limited_by_config() {
    let server = Server::with(|config| {
        config.files.uploads_burst = 3;
        config.files.uploads_per_min = 1;
    })
    .await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let another = server.another_device_of(&alice).await;
    let at = server.addresses.http;
    for device in [&alice, &another, &alice] {
        assert_eq!(Form::default().upload(at, device, b"x").await.status, 200);
    }
    for device in [&alice, &another] {
        let answer = Form::default().upload(at, device, b"x").await;
        assert_eq!((answer.status, answer.code()), (429, 10003));
    }
    assert_eq!(Form::default().upload(at, &bob, b"x").await.status, 200);

    let page = http::get(server.addresses.metrics, "/metrics").await.body;
    for line in [
        "im_uploads_total{result=\"ok\"} 4",
        "im_uploads_total{result=\"refused\"} 2",
        "im_upload_bytes_total 4",
    ] {
        assert!(page.lines().any(|l| l == line), "{line} in\n{page}");
    }
}

#[tokio::test]
async fn a_burst_of_sixty_passes_at_once() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let at = server.addresses.http;
    let uploads = (0..60).map(|_| {
        let alice = alice.clone();
        tokio::spawn(async move { Form::default().upload(at, &alice, b"x").await.status })
    });
    for upload in uploads.collect::<Vec<_>>() {
        assert_eq!(upload.await.expect("no panic"), 200);
    }
}

#[tokio::test]
async fn a_folder_takes_no_direct_uploads() {
    let (server, _folder) = server().await;
    let alice = server.new_user().await;
    let at = server.addresses.http;
    let sha256 = "0".repeat(64);
    for (path, request, says) in [
        (
            "/upload/presign",
            json!({"size": 1, "sha256": sha256}),
            "folder",
        ),
        (
            "/upload/presign",
            json!({"size": 2 * MIB, "sha256": sha256}),
            "size",
        ),
        (
            "/upload/presign",
            json!({"size": 1, "sha256": "x"}),
            "sha256",
        ),
        (
            "/upload/presign",
            json!({"size": -1, "sha256": sha256}),
            "body",
        ),
        ("/upload/presign", json!("x".repeat(100_000)), "body"),
        ("/upload/complete", json!({"key": "../../x"}), "key"),
    ] {
        let answer = post(at, &alice, path, &request).await;
        assert_eq!((answer.status, answer.code()), (400, 10001), "{says}");
        let message = answer.json()["message"].to_string();
        assert!(message.contains(says), "{message}");
    }
    let unknown = json!({"key": "0".repeat(32)});
    let answer = post(at, &alice, "/upload/complete", &unknown).await;
    assert_eq!((answer.status, answer.code()), (404, 10017));
}

#[tokio::test]
async fn a_storage_that_fails_is_answered_503_and_recovers() {
    let (server, folder) = server().await;
    let alice = server.new_user().await;
    let at = server.addresses.http;
    let storage = folder.path().join("files");
    std::fs::remove_dir(&storage).expect("an empty folder");
    std::fs::write(&storage, b"in the way").expect("a file");
    let answer = Form::default().upload(at, &alice, b"x").await;
    assert_eq!((answer.status, answer.code()), (503, 10004), "{answer:?}");
    std::fs::remove_file(&storage).expect("it is there");
    eventually("uploads work again", async || {
        let answer = Form::default().upload(at, &alice, b"x").await;
        (answer.status == 200).then_some(())
    })
    .await;
}
