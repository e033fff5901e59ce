//! `http.allowed_origins`: which web pages a browser lets use the server, as the answers say that
//! browsers decide by; and whose WebSockets are refused. `browser.rs` shows that browsers do.

use http::{
    HeaderMap, Method, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, VARY,
    },
};
use reqwest::Response;

use crate::support::{Server, http::ask, wire::try_open_web_socket};

const OURS: &str = "https://chat.example.com";
const ALSO_OURS: &str = "http://localhost:3000";
/// Not ours, for it is not the same to the letter.
const OTHERS: [&str; 5] = [
    "https://evil.example.com",
    "http://chat.example.com",
    "https://chat.example.com:8443",
    "https://chat.example.com.evil.example.com",
    "null",
];
const CALL: &str = "/pb.UserExt/SignIn";

async fn server(origins: &[&str]) -> Server {
    let origins = origins.iter().copied().map(String::from).collect();
    Server::with(|config| config.http.allowed_origins = origins).await
}

/// What a browser asks before it lets a page of `origin` make a call.
async fn preflight(server: &Server, path: &str, origin: &str) -> Response {
    let headers = [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        (
            "access-control-request-headers",
            "content-type,device_id,token,user_id,x-grpc-web",
        ),
    ];
    ask(server.addresses.http, Method::OPTIONS, path, &headers).await
}

async fn get(server: &Server, path: &str, headers: &[(&'static str, &str)]) -> Response {
    ask(server.addresses.http, Method::GET, path, headers).await
}

fn header(headers: &HeaderMap, name: impl http::header::AsHeaderName) -> &str {
    let value = headers.get(name).map(|value| value.to_str());
    value.unwrap_or(Ok("")).expect("ASCII")
}

fn words(headers: &HeaderMap, name: &str) -> Vec<String> {
    let mut words: Vec<_> = header(headers, name)
        .split(',')
        .map(|word| word.trim().to_ascii_lowercase())
        .collect();
    words.sort_unstable();
    words
}

#[track_caller]
fn assert_silent(response: &Response) {
    let names = response.headers().keys().map(|name| name.as_str());
    let spoken: Vec<_> = names.filter(|n| n.starts_with("access-control-")).collect();
    assert!(spoken.is_empty(), "{spoken:?} of {response:?}");
}

#[tokio::test]
async fn a_preflight_of_an_allowed_page_names_what_it_may_send() {
    let server = server(&[OURS, ALSO_OURS]).await;
    for origin in [OURS, ALSO_OURS] {
        for path in [CALL, "/upload", "/file/some-key"] {
            let answer = preflight(&server, path, origin).await;
            assert!(answer.status().is_success(), "{path}: {answer:?}");
            let headers = answer.headers();
            assert_eq!(header(headers, ACCESS_CONTROL_ALLOW_ORIGIN), origin);
            assert_eq!(words(headers, "vary"), ["origin"]);
            assert_eq!(header(headers, ACCESS_CONTROL_MAX_AGE), "7200");
            let methods = words(headers, "access-control-allow-methods");
            assert_eq!(methods, ["get", "head", "options", "post"]);
            assert_eq!(
                words(headers, "access-control-allow-headers").join(" "),
                "authorization content-type device_id grpc-timeout if-none-match range \
                 request_id token traceparent tracestate user_id x-checksum-sha256 x-grpc-web \
                 x-user-agent"
            );
            // Nothing here is done by cookies.
            assert!(!headers.contains_key("access-control-allow-credentials"));
        }
    }
}

#[tokio::test]
async fn an_answer_to_an_allowed_page_says_what_it_may_read() {
    let server = server(&[OURS, ALSO_OURS]).await;
    let answer = get(&server, "/healthz", &[("origin", OURS)]).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let headers = answer.headers();
    assert_eq!(header(headers, ACCESS_CONTROL_ALLOW_ORIGIN), OURS);
    assert_eq!(header(headers, VARY), "origin");
    assert_eq!(
        words(headers, ACCESS_CONTROL_EXPOSE_HEADERS.as_str()).join(" "),
        "accept-ranges content-disposition content-length content-range etag grpc-message \
         grpc-status grpc-status-details-bin request_id"
    );
    // What is not there is not told apart from what may not be read.
    let answer = get(&server, "/nowhere", &[("origin", OURS)]).await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    assert_eq!(header(answer.headers(), ACCESS_CONTROL_ALLOW_ORIGIN), OURS);
}

#[tokio::test]
async fn a_page_of_another_origin_is_told_nothing() {
    let server = server(&[OURS, ALSO_OURS]).await;
    for origin in OTHERS {
        let answer = preflight(&server, CALL, origin).await;
        assert_silent(&answer);
        // A cache must not give this answer to a page that may have the other.
        assert_eq!(header(answer.headers(), VARY), "origin");
        assert_silent(&get(&server, "/healthz", &[("origin", origin)]).await);
    }
    let answer = get(&server, "/healthz", &[]).await;
    assert_eq!(header(answer.headers(), VARY), "origin");
    assert_silent(&answer);
}

#[tokio::test]
async fn without_allowed_origins_no_page_is_told_anything() {
    let server = server(&[]).await;
    let answer = preflight(&server, CALL, OURS).await;
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_silent(&answer);
    let answer = get(&server, "/healthz", &[("origin", OURS)]).await;
    assert_silent(&answer);
    assert!(!answer.headers().contains_key(VARY));
}

#[tokio::test]
async fn the_star_allows_every_page_and_needs_no_vary() {
    let server = server(&["*"]).await;
    for origin in [OURS, OTHERS[0], "null"] {
        let answer = preflight(&server, CALL, origin).await;
        assert_eq!(header(answer.headers(), ACCESS_CONTROL_ALLOW_ORIGIN), "*");
        assert!(!answer.headers().contains_key(VARY));
        let answer = get(&server, "/healthz", &[("origin", origin)]).await;
        assert_eq!(header(answer.headers(), ACCESS_CONTROL_ALLOW_ORIGIN), "*");
    }
}

#[tokio::test]
async fn a_websocket_of_a_page_is_refused_before_the_upgrade_unless_it_is_allowed() {
    let server = server(&[OURS, ALSO_OURS]).await;
    let alice = server.new_user().await;
    let open = async |path: &str, origin: &[(&str, &str)]| {
        let opened = try_open_web_socket(server.addresses.http, path, origin).await;
        opened.map(|_| ()).err()
    };
    // A good credential does not help: a page could have it from anywhere.
    for path in ["/ws", &alice.url_path()] {
        for origin in OTHERS {
            assert_eq!(
                open(path, &[("Origin", origin)]).await,
                Some(403),
                "{origin}"
            );
        }
        let both = [("Origin", OURS), ("Origin", OTHERS[0])];
        assert_eq!(open(path, &both).await, Some(403));
        assert_eq!(open(path, &[("Origin", OURS)]).await, None);
        assert_eq!(open(path, &[("Origin", ALSO_OURS)]).await, None);
        // Whoever is no browser names none.
        assert_eq!(open(path, &[]).await, None);
    }
}

#[tokio::test]
async fn a_websocket_is_opened_from_anywhere_until_origins_are_listed() {
    for origins in [&[][..], &["*"], &[OURS, "*"]] {
        let server = server(origins).await;
        for origin in OTHERS {
            let headers = [("Origin", origin)];
            let opened = try_open_web_socket(server.addresses.http, "/ws", &headers).await;
            assert!(opened.is_ok(), "{origin} with {origins:?}");
        }
    }
}
