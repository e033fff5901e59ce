//! `Forwarded` and `X-Forwarded-For`: whose wrong attempts are counted behind a proxy, and that nobody
//! but a listed proxy is believed.

use im::pb::{SignInReq, SignInResp};
use tonic::Status;

use crate::support::{
    Api, Process, Server,
    api::{TEST_CODE, random_phone_number, with_metadata},
    errors::{TOO_MANY_REQUESTS, WRONG_CODE, code},
    wire::open_web_socket,
};

/// Wrong attempts after which an address is closed.
const ATTEMPTS_MAX: usize = 100;

async fn behind(proxies: &str) -> Server {
    let proxy = proxies.parse().expect("a network");
    Server::with(|config| config.listen.forwarded_from = [proxy].into_iter().collect()).await
}

/// Signs a new number in, as a proxy passes it on with `headers`.
async fn sign_in(
    server: &Api,
    code: &str,
    device_id: i64,
    headers: &[(&'static str, &str)],
) -> Result<SignInResp, Status> {
    let request = SignInReq {
        phone_number: random_phone_number(),
        code: code.into(),
        device_id,
        password: String::new(),
    };
    let request = with_metadata(request, headers);
    let answer = server.anyones_users().sign_in(request).await?;
    Ok(answer.into_inner())
}

/// Tries wrong codes until no more are allowed.
async fn exhaust(server: &Api, device_id: i64, headers: &[(&'static str, &str)]) {
    for attempt in 1..=ATTEMPTS_MAX {
        let refused = sign_in(server, "000000", device_id, headers).await;
        let refused = code(&refused.expect_err("a wrong code"));
        assert_eq!(refused, WRONG_CODE, "attempt {attempt} with {headers:?}");
    }
    assert!(is_closed(server, device_id, headers).await, "{headers:?}");
}

/// True where even the right code is refused.
async fn is_closed(server: &Api, device_id: i64, headers: &[(&'static str, &str)]) -> bool {
    match sign_in(server, TEST_CODE, device_id, headers).await {
        Ok(_) => false,
        Err(status) => {
            assert_eq!(code(&status), TOO_MANY_REQUESTS, "{status:?}");
            true
        }
    }
}

#[tokio::test]
async fn wrong_attempts_are_counted_for_the_address_that_the_proxy_tells() {
    let server = behind("127.0.0.0/8").await;
    let device = server.register_device().await;
    let attacker = [("x-forwarded-for", "203.0.113.66")];
    exhaust(&server, device, &attacker).await;
    // The same address, in other words; whatever the attacker puts before it.
    for headers in [
        [("forwarded", "for=203.0.113.66;proto=https")],
        [("forwarded", "for=198.51.100.1, for=\"203.0.113.66:4711\"")],
        [("x-forwarded-for", "198.51.100.1, 203.0.113.66")],
        [("x-forwarded-for", "203.0.113.66, 127.0.0.9")],
        [("x-forwarded-for", "::ffff:203.0.113.66")],
    ] {
        assert!(is_closed(&server, device, &headers).await, "{headers:?}");
    }
    let both = [
        ("x-forwarded-for", "203.0.113.66"),
        ("forwarded", "for=203.0.113.66"),
    ];
    assert!(is_closed(&server, device, &both).await, "they agree");
    let both = [
        ("x-forwarded-for", "203.0.113.66"),
        ("forwarded", "for=203.0.113.9"),
    ];
    assert!(!is_closed(&server, device, &both).await, "nobody knows");
    // Others behind the same proxy, and the proxy itself.
    for headers in [
        &[("x-forwarded-for", "203.0.113.9")][..],
        &[("forwarded", "for=\"[2001:db8::9]\"")],
        &[],
    ] {
        assert!(!is_closed(&server, device, headers).await, "{headers:?}");
    }
}

/// What cannot be read, or hides who it is, is counted for the proxy.
#[tokio::test]
async fn a_header_that_says_nothing_is_ignored() {
    let server = behind("127.0.0.1").await;
    let device = server.register_device().await;
    exhaust(&server, device, &[("forwarded", "for=_hidden")]).await;
    for headers in [
        &[][..],
        &[("forwarded", "for=\"203.0.113.9")],
        &[("forwarded", "for=unknown")],
        &[("x-forwarded-for", "203.0.113.9, nonsense")],
    ] {
        assert!(is_closed(&server, device, headers).await, "{headers:?}");
    }
    let fine = [("x-forwarded-for", "203.0.113.9")];
    assert!(!is_closed(&server, device, &fine).await);
}

/// An attacker could otherwise be another address with every attempt.
#[tokio::test]
async fn nobody_else_is_believed() {
    for server in [Server::start().await, behind("10.0.0.0/8").await] {
        let device = server.register_device().await;
        for attempt in 0..ATTEMPTS_MAX {
            let spoofed = format!("203.0.113.{attempt}");
            let element = format!("for={spoofed}");
            let headers = [("x-forwarded-for", &*spoofed), ("forwarded", &*element)];
            let refused = sign_in(&server, "000000", device, &headers).await;
            assert_eq!(code(&refused.expect_err("a wrong code")), WRONG_CODE);
        }
        let fresh = [("x-forwarded-for", "198.51.100.1")];
        assert!(is_closed(&server, device, &fresh).await);
    }
}

#[tokio::test]
async fn the_log_shows_the_address_of_a_web_socket_behind_a_proxy() {
    let server = Process::with(&[
        ("IM_LISTEN__FORWARDED_FROM", r#"["127.0.0.1", "fd00::/8"]"#),
        ("IM_LOG__LEVEL", "info,im=debug"),
    ])
    .await;
    let path = "/ws HTTP/1.1\r\nX-Forwarded-For: 203.0.113.9\r\nX-Rest:";
    drop(
        open_web_socket(server.addresses.http, path)
            .await
            .expect("upgraded"),
    );
    server
        .logged("the end of a connection", |line| {
            line.contains("connection ended") && line.contains("203.0.113.9")
        })
        .await;
}
