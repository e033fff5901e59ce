//! Files: what is uploaded is what is got, by anybody who has its key, whole or in part, and as nothing
//! that a browser runs.

use sha2::{Digest, Sha256};

use crate::support::{
    Process, Server,
    collector::Collector,
    files::{Form, bytes, fetch, get, upload},
};

const MIB: usize = 1024 * 1024;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn what_is_uploaded_is_what_is_got() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let http = server.addresses.http;
    for length in [0, 1, 255 * 1024, 256 * 1024, 256 * 1024 + 1, 3 * MIB + 7] {
        let content = bytes(length);
        let answer = Form::named("图片 1.png", "image/png")
            .with("request_id", "upload-17")
            .upload(http, &alice, &content)
            .await;
        assert_eq!(answer.header("request_id"), "upload-17");
        assert_eq!(answer.header("content-type"), "application/json");
        let url = answer.json()["data"]["url"].clone();
        let url = url.as_str().expect("a URL");
        let key = url
            .strip_prefix("http://127.0.0.1:8081/file/")
            .expect("public_url");
        assert!(
            key.len() == 32 && key.bytes().all(|b| b.is_ascii_hexdigit()),
            "{key}"
        );

        let got = get(http, &answer.path()).await;
        assert_eq!(got.status, 200);
        assert!(got.body == content, "{length} bytes");
        assert_eq!(got.header("content-length"), length.to_string());
        assert_eq!(got.header("content-type"), "image/png");
        assert_eq!(got.header("x-content-type-options"), "nosniff");
        let name = "inline; filename*=UTF-8''%E5%9B%BE%E7%89%87%201.png";
        assert_eq!(got.header("content-disposition"), name);
        assert_eq!(
            got.header("content-security-policy"),
            "default-src 'none'; sandbox"
        );
        let checksum = hex(&Sha256::digest(&content));
        assert_eq!(got.header("etag"), format!("\"{checksum}\""));
        assert!(got.header("cache-control").contains("immutable"));
        assert!(!got.header("request_id").is_empty());

        let head = fetch(http, "HEAD", &answer.path(), &[]).await;
        assert_eq!((head.status, head.body.len()), (200, 0));
        for name in [
            "content-length",
            "content-type",
            "etag",
            "last-modified",
            "accept-ranges",
        ] {
            assert_eq!(head.header(name), got.header(name), "{name}");
        }
    }
}

#[tokio::test]
async fn files_outlive_a_restart() {
    let mut server = Server::start().await;
    let alice = server.new_user().await;
    let content = bytes(MIB);
    let path = upload(server.addresses.http, &alice, &content).await;
    server.restart().await;
    let got = get(server.addresses.http, &path).await;
    assert!(got.status == 200 && got.body == content, "{}", got.status);
}

#[tokio::test]
async fn parts_of_a_file_can_be_got() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let http = server.addresses.http;
    let content = bytes(MIB);
    let path = upload(http, &alice, &content).await;
    let (etag, modified) = {
        let head = fetch(http, "HEAD", &path, &[]).await;
        (
            head.header("etag").to_owned(),
            head.header("last-modified").to_owned(),
        )
    };
    let last = MIB - 1;
    for (range, first, end) in [
        ("bytes=0-0".to_owned(), 0, 1),
        (format!("bytes=100-{last}"), 100, MIB),
        ("bytes=300000-900000".to_owned(), 300_000, 900_001),
        ("bytes=-1".to_owned(), last, MIB),
        (format!("bytes={last}-"), last, MIB),
        ("bytes=5-99999999999999999999".to_owned(), 5, MIB),
    ] {
        for condition in [
            ("x-none", ""),
            ("if-range", &*etag),
            ("if-range", &*modified),
        ] {
            let part = fetch(http, "GET", &path, &[("range", &range), condition]).await;
            assert_eq!(part.status, 206, "{range}");
            assert!(part.body == content[first..end], "{range}");
            let of = format!("bytes {first}-{}/{MIB}", end - 1);
            assert_eq!(part.header("content-range"), of);
        }
        let changed = [("range", &*range), ("if-range", "\"another\"")];
        let whole = fetch(http, "GET", &path, &changed).await;
        assert!(whole.status == 200 && whole.body == content);
        let head = fetch(http, "HEAD", &path, &[("range", &range)]).await;
        assert_eq!(head.status, 200, "only GET has ranges");
    }
    let beyond = fetch(http, "GET", &path, &[("range", "bytes=1048576-")]).await;
    assert_eq!(beyond.status, 416);
    assert_eq!(beyond.header("content-range"), "bytes */1048576");
    for whole in ["bytes=0-1,5-6", "lines=1-2", "bytes=9-1"] {
        let answer = fetch(http, "GET", &path, &[("range", whole)]).await;
        assert!(answer.status == 200 && answer.body == content, "{whole}");
    }
}

#[tokio::test]
async fn what_a_client_has_is_not_sent_again() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let http = server.addresses.http;
    let path = upload(http, &alice, b"content").await;
    let head = fetch(http, "HEAD", &path, &[]).await;
    let weak = format!("\"x\", W/{}", head.header("etag"));
    for known in [
        ("if-none-match", head.header("etag")),
        ("if-none-match", &weak),
        ("if-none-match", "*"),
        ("if-modified-since", head.header("last-modified")),
    ] {
        for method in ["GET", "HEAD"] {
            let answer = fetch(http, method, &path, &[known]).await;
            assert_eq!((answer.status, answer.body.len()), (304, 0), "{known:?}");
            assert_eq!(answer.header("etag"), head.header("etag"));
        }
    }
    let other = fetch(http, "GET", &path, &[("if-none-match", "\"x\"")]).await;
    assert_eq!((other.status, &*other.body), (200, &b"content"[..]));
}

#[tokio::test]
async fn nothing_comes_back_as_something_a_browser_runs() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let http = server.addresses.http;
    let page = b"<html><script>alert(1)</script><svg xmlns='http://www.w3.org/2000/svg'/>";
    for content_type in [
        "text/html",
        "TEXT/HTML; charset=utf-8",
        "application/xhtml+xml",
        "image/svg+xml",
        "text/xml",
        "text/javascript",
        "application/pdf",
        "image/png, text/html",
        "image/png; x=\"\r\nContent-Type: text/html",
        "text/html\0",
        "nonsense",
        "",
    ] {
        for name in ["a.html", "a.svg", "a.png"] {
            let form = Form::named(name, content_type);
            let path = form.upload(http, &alice, page).await.path();
            let got = get(http, &path).await;
            assert_eq!(got.header("content-type"), "application/octet-stream");
            assert!(got.header("content-disposition").starts_with("attachment;"));
            assert_eq!(got.header("x-content-type-options"), "nosniff");
            assert!(got.header("content-security-policy").contains("sandbox"));
            assert_eq!(got.body, page);
        }
    }
    for (name, content_type, disposition) in [
        ("a.html", "image/png", "attachment"),
        ("a.SVG", "text/plain", "attachment"),
        ("a.zip", "application/zip", "attachment"),
        ("a.txt", "text/plain", "inline"),
        ("a.mp4", "video/mp4", "inline"),
    ] {
        let form = Form::named(name, content_type);
        let path = form.upload(http, &alice, page).await.path();
        let got = get(http, &path).await;
        assert_eq!(got.header("content-type"), content_type);
        let expected = format!("{disposition}; filename*=UTF-8''{name}");
        assert_eq!(got.header("content-disposition"), expected);
    }
}

#[tokio::test]
async fn hostile_names_are_only_told() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let http = server.addresses.http;
    let long = format!("{}.png", "n".repeat(10 * 1024));
    for (name, told) in [
        ("../../etc/passwd", "passwd".to_owned()),
        ("..\\..\\a.txt", "a.txt".into()),
        ("/", "file".into()),
        ("..", "file".into()),
        ("", "file".into()),
        ("a\0b.png", "ab.png".into()),
        ("a\\\"b;c.png", "a%22b%3Bc.png".into()),
        ("a%22b.png", "a%22b.png".into()),
        ("a\tb\u{202e}c.png", "abc.png".into()),
        ("é'*.png", "%C3%A9%27%2A.png".into()),
        (&long, "n".repeat(255)),
    ] {
        let path = Form::named(name, "image/png")
            .upload(http, &alice, b"x")
            .await;
        let got = get(http, &path.path()).await;
        let disposition = got.header("content-disposition");
        let given = disposition.split_once("UTF-8''").expect("a name").1;
        assert_eq!(given, told, "{name:?}");
    }
    for path in [
        "/file/../../etc/passwd",
        "/file/..%2f..%2fetc%2fpasswd",
        "/file/%2e%2e",
        "/file/im.db",
        "/file/00000000000000000000000000000000",
        "/file/0000000000000000000000000000000G",
        "/file/%00",
        "/file/a%20b",
    ] {
        let answer = get(http, path).await;
        assert_eq!(answer.status, 404, "{path}");
        if path.matches('/').count() == 2 {
            assert_eq!(answer.code(), 10017, "{path}");
            assert!(!answer.header("request_id").is_empty());
        }
    }
}

#[tokio::test]
async fn a_checksum_is_held_to() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let http = server.addresses.http;
    let right = hex(&Sha256::digest(b"content"));
    let form = Form::default().with("x-checksum-sha256", &right.to_uppercase());
    let path = form.upload(http, &alice, b"content").await.path();
    assert_eq!(
        get(http, &path).await.header("etag"),
        format!("\"{right}\"")
    );

    let wrong = hex(&Sha256::digest(b"other"));
    for (header, says) in [(&*wrong, "another"), ("abc", "64"), ("", "64")] {
        let form = Form::default().with("x-checksum-sha256", header);
        let answer = form.upload(http, &alice, b"content").await;
        assert_eq!((answer.status, answer.code()), (400, 10001));
        let message = answer.json()["message"].to_string();
        assert!(
            message.contains("x-checksum-sha256") && message.contains(says),
            "{message}"
        );
    }
    let of_part = format!("text/plain\r\nX-Checksum-Sha256: {wrong}");
    let answer = Form::named("a", &of_part)
        .upload(http, &alice, b"content")
        .await;
    assert_eq!((answer.status, answer.code()), (400, 10001));
}

/// Each is as long as it may be, and fits its column on every engine.
#[tokio::test]
async fn the_longest_names_and_types_are_kept() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let http = server.addresses.http;
    let essence = format!("{}/{}", "a".repeat(63), "b".repeat(63));
    let short = format!("a/b; charset={}", "c".repeat(63));
    for (name, said, told) in [
        (
            "n".repeat(300),
            format!("{essence}; charset=utf-8"),
            &essence,
        ),
        ("图".repeat(300), short.clone(), &short),
    ] {
        let answer = Form::named(&name, &said).upload(http, &alice, b"x").await;
        let got = get(http, &answer.path()).await;
        assert_eq!(got.status, 200);
        assert_eq!(got.header("content-type"), told);
    }
}

#[tokio::test]
async fn an_upload_is_in_the_trace_of_its_caller() {
    let collector = Collector::start().await;
    let server = Process::with(&[("IM_TRACING__OTLP_ENDPOINT", &collector.url())]).await;
    let alice = server.new_user().await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let answer = Form::default()
        .with("traceparent", &format!("00-{trace}-b7ad6b7169203331-01"))
        .with("request_id", "upload-17")
        .upload(server.addresses.http, &alice, b"x")
        .await;
    assert_eq!(answer.status, 200);
    let span = collector
        .span("the upload's span", |span| {
            span.get("request_id").as_deref() == Some("upload-17") && span.name() == "POST /upload"
        })
        .await;
    assert_eq!(span.trace(), trace);
    for (key, value) in [
        ("http.route", "/upload".to_owned()),
        ("user", alice.user_id.to_string()),
        ("device", alice.device_id.to_string()),
        ("client", "127.0.0.1".to_owned()),
    ] {
        assert_eq!(span.get(key), Some(value), "{key}");
    }
}
