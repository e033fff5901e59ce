//! An error at the business server can be followed from there to this server's log line.

use tonic::{Code, Request};
use tonic_types::StatusExt as _;

use im::pb::SenderType;

use crate::support::{Business, Process, messages::text};

#[tokio::test]
async fn one_log_line_shows_the_path_through_the_business_server() {
    let business = Business::start().await;
    let process = Process::with(&[
        ("IM_USERS__PROVIDER", "remote"),
        ("IM_USERS__ENDPOINT", &business.endpoint()),
        ("IM_LOG__FORMAT", "json"),
    ])
    .await;
    let ada = process.device_of(1).await;
    let mut request = Request::new(text(13, "to whom nobody can read"));
    let id = "order-17".parse().expect("ASCII");
    request.metadata_mut().insert("request_id", id);
    let refused = process.logic(&ada).send_message(request).await;
    let refused = refused.expect_err("user 13");
    assert_eq!(refused.code(), Code::Internal);
    assert!(refused.message().contains("order-17"), "{refused:?}");
    assert!(refused.details().is_empty(), "devices see nothing of it");

    let line = process
        .logged("the error", |line| line.contains("user 13 cannot be read"))
        .await;
    let json: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(json["level"], "ERROR", "{line}");
    assert!(line.contains("\"request_id\":\"order-17\""), "{line}");
    let places = [
        "profile (business.py:",
        "GetUser (business.py:",
        "ask the business server (src/business/",
        "look up profiles (src/user/directory.rs:",
    ];
    let found = places.map(|place| line.find(place).expect(place));
    assert!(found.is_sorted(), "innermost first: {line}");
    // And its own log can be searched for the same request.
    let told = "request order-17 failed: user 13 cannot be read";
    business.called(told, 1).await;
}

#[tokio::test]
async fn the_business_sees_its_own_path_in_the_answer() {
    let business = Business::start().await;
    let server = crate::support::Server::with(|config| business.keeps_users(config)).await;
    let refused = server
        .send_as(SenderType::StBusiness, 0, text(13, "x"))
        .await
        .expect_err("user 13");
    assert_eq!(refused.code(), Code::Internal);
    let details = refused.get_error_details();
    let debug = details.debug_info().expect("DebugInfo");
    assert!(debug.detail.contains("user 13 cannot be read"), "{debug:?}");
    assert!(
        debug.stack_entries[0].starts_with("profile (business.py:"),
        "{debug:?}"
    );
}
