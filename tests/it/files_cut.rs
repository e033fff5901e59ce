//! Uploads that do not end: whatever ends them, nothing of them is left, in the storage or in the
//! database; and a drain waits for those that do end.

use std::{sync::Arc, time::Duration};

use im::clock::{Clock, Manual, System};
use test_servers::Database;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    Api, Device, Process, Server,
    files::{Form, bytes, files_in, get, sizes_in},
    http::try_get,
    s3::S3,
    wait::{eventually, soon, within},
};

const MIB: usize = 1024 * 1024;
/// What is sent of an upload that does not end: more than one part of S3.
const HALF: usize = 7 * MIB;

/// Sends the head of an upload and half of its body.
async fn half(api: &Api, device: &Device, form: &Form) -> (TcpStream, Vec<u8>) {
    let body = form.body(&bytes(2 * HALF));
    let length = format!("Content-Length: {}", body.len());
    let head = form.head(api.addresses.http, device, &length);
    let mut socket = TcpStream::connect(api.addresses.http)
        .await
        .expect("connected");
    socket.write_all(head.as_bytes()).await.expect("sent");
    let sending = socket.write_all(&body[..HALF]);
    soon("the server takes it", sending).await.expect("sent");
    (socket, body[HALF..].to_vec())
}

/// The status of the answer to what was sent.
async fn status(socket: &mut TcpStream) -> String {
    let mut answer = String::new();
    let read = socket.read_to_string(&mut answer);
    soon("an answer", read).await.expect("an answer");
    answer.split(' ').nth(1).expect("a status").to_owned()
}

async fn rows(database: &Database) -> i64 {
    let rows = database.connect().await;
    rows.number("SELECT COUNT(*) FROM file").await
}

#[tokio::test]
async fn an_upload_whose_client_hangs_up_leaves_nothing_in_the_folder() {
    let (database, folder) = (
        Arc::new(Database::fresh().await),
        tempfile::tempdir().unwrap(),
    );
    let storage = folder.path().display().to_string();
    let server = Server::on(Arc::clone(&database), Arc::new(System), &[], |config| {
        config.files.storage = storage;
    })
    .await;
    let alice = server.new_user().await;
    let (socket, _) = half(&server, &alice, &Form::default()).await;
    eventually("it is being written", async || {
        (files_in(folder.path()) == 1 && rows(&database).await == 1).then_some(())
    })
    .await;
    drop(socket);
    eventually("nothing is left", async || {
        (files_in(folder.path()) == 0 && rows(&database).await == 0).then_some(())
    })
    .await;
    let page = crate::support::http::get(server.addresses.metrics, "/metrics").await;
    assert!(
        page.body
            .contains("im_uploads_total{result=\"cut_off\"} 1\n")
    );
}

#[tokio::test]
async fn an_upload_whose_client_hangs_up_leaves_nothing_in_s3() {
    let (database, s3) = (Arc::new(Database::fresh().await), S3::start().await);
    let server = Server::on(Arc::clone(&database), Arc::new(System), &[], |config| {
        s3.configure(config);
    })
    .await;
    let alice = server.new_user().await;
    let (socket, _) = half(&server, &alice, &Form::default()).await;
    eventually("a part is stored", async || (s3.parts() == 1).then_some(())).await;
    drop(socket);
    eventually("nothing is left", async || {
        let left = s3.parts() + s3.objects();
        (left == 0 && rows(&database).await == 0).then_some(())
    })
    .await;
}

/// The clock of a server that starts when uploads of the one before cannot be under way any more.
fn hours_later() -> Arc<dyn Clock> {
    Arc::new(Manual::at(System.now_ms() + 3 * 3_600_000))
}

#[tokio::test]
async fn what_a_killed_server_leaves_in_the_folder_is_removed() {
    let (database, folder) = (
        Arc::new(Database::fresh().await),
        tempfile::tempdir().unwrap(),
    );
    let storage = folder.path().display().to_string();
    let settings = [("files.storage", storage)];
    let mut server = Process::with_settings(Arc::clone(&database), &settings).await;
    let alice = server.new_user().await;
    let kept = crate::support::files::upload(server.addresses.http, &alice, b"kept").await;
    let (_socket, _) = half(&server, &alice, &Form::default()).await;
    eventually("it is being written", async || {
        (files_in(folder.path()) == 2).then_some(())
    })
    .await;
    server.kill();
    assert_eq!((files_in(folder.path()), rows(&database).await), (2, 2));
    let clock = hours_later();
    let storage = settings[0].1.clone();
    let later = Server::on(Arc::clone(&database), clock, &[], |config| {
        config.files.storage = storage;
    })
    .await;
    eventually("only what is whole is left", async || {
        (files_in(folder.path()) == 1 && rows(&database).await == 1).then_some(())
    })
    .await;
    assert_eq!(get(later.addresses.http, &kept).await.body, b"kept");
}

#[tokio::test]
async fn what_a_killed_server_leaves_in_s3_is_removed() {
    let (database, s3) = (Arc::new(Database::fresh().await), S3::start().await);
    let settings = s3.settings();
    let mut server = Process::with_settings(Arc::clone(&database), &settings).await;
    let alice = server.new_user().await;
    let (_socket, _) = half(&server, &alice, &Form::default()).await;
    eventually("a part is stored", async || (s3.parts() == 1).then_some(())).await;
    server.kill();
    assert_eq!((s3.parts(), rows(&database).await), (1, 1));
    let clock = hours_later();
    let _later = Server::on(Arc::clone(&database), clock, &[], |config| {
        s3.configure(config);
    })
    .await;
    eventually("nothing is left", async || {
        let left = s3.parts() + s3.objects();
        (left == 0 && rows(&database).await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_drain_waits_for_uploads_that_go_on_and_ends_those_that_do_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let storage = folder.path().display().to_string();
    let mut server = Process::with(&[("IM_FILES__STORAGE", &storage)]).await;
    let alice = server.new_user().await;
    let form = Form::default();
    let (mut goes_on, rest) = half(&server, &alice, &form).await;
    let (mut stalls, _) = half(&server, &alice, &form).await;
    // So near its end that a busy machine comes to it before the drain waits no longer.
    let (more, last) = rest.split_at(rest.len() - 1024);
    goes_on.write_all(more).await.expect("sent");
    eventually("both are written as far as they have come", async || {
        let written: u64 = sizes_in(folder.path()).iter().sum();
        (written as usize > 3 * HALF - MIB).then_some(())
    })
    .await;
    server.signal("TERM");
    let http = server.addresses.http;
    eventually("it drains", async || {
        let answer = try_get(http, "/readyz").await;
        answer
            .is_ok_and(|answer| answer.body.contains("draining"))
            .then_some(())
    })
    .await;
    let late = form.upload(http, &alice, b"late").await;
    assert_eq!((late.status, late.code()), (503, 10004));
    goes_on.write_all(last).await.expect("sent");
    assert_eq!(status(&mut goes_on).await, "200");
    assert_eq!(status(&mut stalls).await, "503");
    let ended = within(Duration::from_secs(20), "the end", server.ended()).await;
    assert_eq!(ended.code(), Some(0));
    assert_eq!(files_in(folder.path()), 1);
}

/// Uploads that hardly move, as many as there are turns and more.
#[tokio::test]
async fn one_user_does_not_keep_all_others_from_uploading() {
    let folder = tempfile::tempdir().expect("a folder");
    let storage = folder.path().display().to_string();
    let server = Server::with(|config| {
        config.files.storage = storage;
        config.files.uploads_burst = 1_000;
    })
    .await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let at = server.addresses.http;
    let form = Form::default();
    let body = form.body(&bytes(1_000));
    let head = form.head(at, &alice, &format!("Content-Length: {}", body.len()));
    let mut stalled = Vec::new();
    for _ in 0..70 {
        let mut socket = TcpStream::connect(at).await.expect("connected");
        let begun = [head.as_bytes(), &body[..body.len() / 2]].concat();
        socket.write_all(&begun).await.expect("sent");
        stalled.push(socket);
    }
    eventually("some have begun", async || {
        (files_in(folder.path()) >= 8).then_some(())
    })
    .await;
    assert_eq!(form.upload(at, &bob, b"x").await.status, 200);
    let refused = "im_uploads_total{result=\"refused\"}";
    eventually("all others are refused", async || {
        (server.metric(refused).await >= 62).then_some(())
    })
    .await;
    assert_eq!(form.upload(at, &bob, b"x").await.status, 200);
    drop(stalled);
}

/// The files are larger than all that the server may then have used.
#[tokio::test]
async fn no_file_is_ever_in_memory() {
    let server = Process::start().await;
    let alice = server.new_user().await;
    let http = server.addresses.http;
    // What the first ones need is needed once.
    let small = Form::default()
        .upload(http, &alice, &bytes(MIB))
        .await
        .path();
    assert_eq!(get(http, &small).await.status, 200);
    let before = server.resident_bytes();
    let content = bytes(60 * MIB);
    let path = Form::default().upload(http, &alice, &content).await.path();
    assert!(get(http, &path).await.body == content);
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < (30 * MIB) as u64, "{grown} bytes more");
}

/// A reader that takes nothing costs what fits the buffers of its connection.
#[tokio::test]
async fn slow_readers_hold_no_memory() {
    let server = Process::start().await;
    let alice = server.new_user().await;
    let http = server.addresses.http;
    let path = Form::default()
        .upload(http, &alice, &bytes(40 * MIB))
        .await
        .path();
    let before = server.resident_bytes();
    let mut readers = Vec::new();
    for _ in 0..20 {
        let mut socket = TcpStream::connect(http).await.expect("connected");
        let request = format!("GET {path} HTTP/1.1\r\nHost: im\r\n\r\n");
        socket.write_all(request.as_bytes()).await.expect("sent");
        let mut head = [0; 12];
        soon("an answer", socket.read_exact(&mut head))
            .await
            .expect("bytes");
        assert_eq!(&head, b"HTTP/1.1 200");
        readers.push(socket);
    }
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < (30 * MIB) as u64, "{grown} bytes more");
}
