//! The server from a real browser, by the repository's example for web pages: a page of an allowed
//! origin signs in, opens the WebSocket, sends and receives; another can do none of it.

use crate::support::{
    Server,
    api::{TEST_CODE, random_phone_number},
    browser::Pages,
    errors::WRONG_CODE,
};

#[tokio::test]
async fn a_page_of_an_allowed_origin_signs_in_sends_and_receives() {
    let mut pages = Pages::serve(include_str!("browser/talk.js")).await;
    let server = Server::with(|config| config.http.allowed_origins = vec![pages.origin()]).await;
    let parameters = [
        ("server", &*format!("http://{}", server.addresses.http)),
        ("code", TEST_CODE),
        ("alice", &random_phone_number()),
        ("bob", &random_phone_number()),
    ];
    let seen = pages.open(&parameters).await;
    assert!(seen["error"].is_null(), "{seen:#}");

    // Errors are readable: their code, their words and the id they are logged under.
    assert_eq!(seen["refusal"]["code"], WRONG_CODE, "{seen:#}");
    for text in ["message", "requestId"] {
        let text = seen["refusal"][text].as_str();
        assert!(text.is_some_and(|text| !text.is_empty()), "{seen:#}");
    }
    let mut expected = Vec::new();
    let (alice, bob) = (seen["alice"].as_str(), seen["bob"].as_str());
    let (alice, bob) = (alice.expect("an id"), bob.expect("an id"));
    for way in ["message", "url"] {
        assert_eq!(seen[format!("repeated {way}")], true, "{seen:#}");
        assert_eq!(seen[format!("answered {way}")], alice, "{seen:#}");
        expected.extend([
            format!("{bob}: socket, {way}"),
            format!("{bob}: call, {way}"),
            format!("{alice}: answer, {way}"),
        ]);
    }
    assert_eq!(seen["chat"], serde_json::json!(expected), "{seen:#}");
}

#[tokio::test]
async fn a_page_of_another_origin_cannot_reach_the_server() {
    let mut pages = Pages::serve(include_str!("browser/stranger.js")).await;
    let others = vec!["https://chat.example.com".into()];
    let server = Server::with(|config| config.http.allowed_origins = others).await;
    let victim = server.new_user().await;
    let parameters = [
        ("server", &*format!("http://{}", server.addresses.http)),
        ("user_id", &victim.user_id.to_string()),
        ("device_id", &victim.device_id.to_string()),
        ("token", &victim.token),
    ];
    let expected = serde_json::json!({
        "call": "TypeError",
        "simple": "TypeError",
        // Browsers do not tell a page why.
        "socket": "closed with 1006",
        "socketByUrl": "closed with 1006",
    });
    assert_eq!(pages.open(&parameters).await, expected);
}
