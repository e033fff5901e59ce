//! Log lines as machines read them: a request is followed by its id, from its errors to the devices that
//! it was pushed to, and what went wrong inside is told inside only.

use std::sync::Arc;

use im::pb::{
    AddFriendReq, Command, GetDeviceReq, GetUserReq, PackageType, PushToAllReq, PushToUsersReq,
    SyncInput,
};
use serde_json::Value;
use test_servers::{Database, Engine};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::support::{
    Process, Transport,
    messages::{ephemeral, text},
};

/// A server that logs for machines, on a file in which any column holds any value.
async fn server(level: &str) -> Process {
    let database = Arc::new(Database::of(Engine::Sqlite).await);
    Process::on(
        database,
        &[("IM_LOG__FORMAT", "json"), ("IM_LOG__LEVEL", level)],
    )
    .await
}

/// All lines so far; each is an object with what every line has.
fn lines(server: &Process) -> Vec<Value> {
    let lines = server.log_lines().into_iter().map(|line| {
        let value: Value = serde_json::from_str(&line).expect("an object a line");
        for key in ["timestamp", "level", "target", "message"] {
            assert!(value[key].is_string(), "{key} in {line}");
        }
        value
    });
    lines.collect()
}

/// The lines with a value of a field, once there is one.
async fn lines_with(server: &Process, key: &str, value: &str) -> Vec<Value> {
    let is_one = |line: &Value| line[key] == value;
    let parsed = |line: &str| serde_json::from_str(line).ok();
    server
        .logged("the line", |line| {
            parsed(line).is_some_and(|line| is_one(&line))
        })
        .await;
    lines(server).into_iter().filter(is_one).collect()
}

/// The one line with a value of a field.
async fn line_with(server: &Process, key: &str, value: &str) -> Value {
    let mut found = lines_with(server, key, value).await;
    assert_eq!(found.len(), 1, "it is told once: {found:?}");
    found.remove(0)
}

fn with_id<T>(message: T, id: &str) -> Request<T> {
    let mut request = Request::new(message);
    let id = id.parse().expect("ASCII");
    request.metadata_mut().insert("request_id", id);
    request
}

fn assert_internal(status: &Status, request_id: &str) {
    assert_eq!(status.code(), Code::Internal);
    let message = format!("internal error, logged under request id {request_id}");
    assert_eq!(status.message(), message);
    assert!(status.get_error_details().error_info().is_none());
    let metadata = status.metadata().get("request_id").expect("an id");
    assert_eq!(metadata.to_str().expect("ASCII"), request_id);
}

/// The places in a line, of which there is one at least.
fn trace(line: &Value) -> Vec<String> {
    let trace = line["trace"].as_array().expect("a list");
    let places = trace
        .iter()
        .map(|place| place.as_str().expect("text").to_owned());
    let places: Vec<String> = places.collect();
    assert!(places.iter().any(|place| place.contains(".rs:")), "{line}");
    places
}

#[tokio::test]
async fn a_device_is_told_the_request_id_and_the_log_the_rest() {
    let server = server("info").await;
    let alice = server.new_user().await;
    let database = server.database().connect().await;
    let broken = format!(
        "UPDATE auth_token SET token_hash = X'01' WHERE device_id = {}",
        alice.device_id
    );
    assert_eq!(database.execute(&broken).await, 1);
    let request = with_id(GetUserReq { user_id: 0 }, "order-1");
    let failed = server.users(&alice).get_user(request).await;
    let failed = failed.expect_err("the row is broken");
    assert_internal(&failed, "order-1");
    assert!(failed.details().is_empty());
    let line = line_with(&server, "request_id", "order-1").await;
    assert_eq!(line["level"], "ERROR");
    assert_eq!(line["method"], "/pb.UserExt/GetUser");
    assert_eq!(line["client"], "127.0.0.1");
    assert!(!line["error"].as_str().expect("a text").is_empty());
    trace(&line);
}

#[tokio::test]
async fn a_business_server_is_told_what_the_log_says() {
    let server = server("info").await;
    let device_id = server.register_device().await;
    let database = server.database().connect().await;
    let broken = format!("UPDATE device SET brand = X'FFFE' WHERE id = {device_id}");
    assert_eq!(database.execute(&broken).await, 1);
    let request = with_id(GetDeviceReq { device_id }, "order-2");
    let failed = server.internal().get_device(request).await;
    let failed = failed.expect_err("the row is broken");
    assert_internal(&failed, "order-2");
    let details = failed.get_error_details();
    let debug = details.debug_info().expect("DebugInfo");
    let line = line_with(&server, "request_id", "order-2").await;
    assert_eq!(debug.stack_entries, trace(&line));
    assert_eq!(line["error"], debug.detail.as_str());
    // The next call is served.
    let fine = server.register_device().await;
    let fine = GetDeviceReq { device_id: fine };
    server.internal().get_device(fine).await.expect("GetDevice");
}

#[tokio::test]
async fn a_long_connection_is_told_under_which_id_it_was_logged_and_goes_on() {
    let server = server("info").await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    server.send(&alice, text(bob.user_id, "x")).await;
    let database = server.database().connect().await;
    let broken = "UPDATE message SET content = 7, to_user_ids = X'FF', send_time = 'never'";
    assert_eq!(database.execute(broken).await, 1);
    let mut bobs = server.connect(Transport::Tcp, &bob).await;
    let sync = SyncInput::default();
    let answer = bobs.request(PackageType::PtSync, &sync).await;
    assert_eq!(answer.code, 13, "{answer:?}");
    let id = answer.message.strip_prefix("internal error, logged as ");
    let id = id.expect("the id").to_owned();
    let line = line_with(&server, "logged_as", &id).await;
    assert_eq!(line["level"], "ERROR");
    assert_eq!(line["request_id"], answer.request_id.to_string());
    assert_eq!(
        (&line["user"], &line["device"]),
        (&bob.user_id.into(), &bob.device_id.into())
    );
    trace(&line);
    bobs.heartbeat().await;
}

#[tokio::test]
async fn a_push_names_the_request_that_caused_it() {
    let server = server("info,im::push=debug").await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut bobs = server.connect(Transport::Tcp, &bob).await;
    let request = with_id(text(bob.user_id, "x"), "order-3");
    let mut logic = server.logic(&alice);
    logic.send_message(request).await.expect("SendMessage");
    let pushed = bobs.push().await;
    let line = line_with(&server, "request_id", "order-3").await;
    assert_eq!(
        (&line["message"], &line["target"]),
        (&"push".into(), &"im::push".into())
    );
    assert_eq!(
        (&line["user"], &line["device"]),
        (&bob.user_id.into(), &bob.device_id.into())
    );
    assert_eq!(line["seq"], pushed.seq);
    assert!(
        line["topic"]
            .as_str()
            .is_some_and(|topic| topic.contains(&bob.user_id.to_string()))
    );
}

#[tokio::test]
async fn whatever_a_request_leads_to_names_it() {
    let server = server("info,im::push=debug").await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut bobs = server.connect(Transport::Tcp, &bob).await;
    let mut logic = server.logic(&alice);
    let not_stored = with_id(ephemeral(bob.user_id, "x"), "ephemeral");
    logic.send_message(not_stored).await.expect("SendMessage");
    let wish = AddFriendReq {
        friend_id: bob.user_id,
        ..Default::default()
    };
    let wish = with_id(wish, "change");
    logic.add_friend(wish).await.expect("AddFriend");
    let command = Some(Command {
        code: 1000,
        data: b"x".to_vec().into(),
    });
    let mut internal = server.internal();
    for (id, is_persist) in [("users", true), ("users-now", false)] {
        let push = PushToUsersReq {
            user_ids: vec![bob.user_id],
            command: command.clone(),
            is_persist,
            ..Default::default()
        };
        let push = with_id(push, id);
        internal.push_to_users(push).await.expect("PushToUsers");
    }
    let push = with_id(PushToAllReq { command }, "all");
    internal.push_to_all(push).await.expect("PushToAll");
    bobs.pushed(5).await;
    for id in ["ephemeral", "change", "users", "users-now", "all"] {
        let line = line_with(&server, "request_id", id).await;
        assert_eq!(line["message"], "push", "{line}");
        assert_eq!(line["device"], bob.device_id, "{line}");
    }
}

#[tokio::test]
async fn nothing_is_said_of_what_is_in_order() {
    let server = server("info").await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut bobs = server.connect(Transport::WebSocket, &bob).await;
    let request = with_id(text(bob.user_id, "x"), "order-4");
    let mut logic = server.logic(&alice);
    logic.send_message(request).await.expect("SendMessage");
    bobs.push().await;
    let stranger = alice.clone().with_token("wrong");
    let request = with_id(GetUserReq { user_id: 0 }, "order-4");
    let refused = server.users(&stranger).get_user(request).await;
    refused.expect_err("a wrong token");
    let lines = lines(&server);
    assert!(
        lines.iter().all(|line| line["request_id"] != "order-4"),
        "{lines:?}"
    );
}
