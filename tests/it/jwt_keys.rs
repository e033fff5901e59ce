//! The keys that tokens are checked with: from a file, or published by the business and changed while
//! the server runs.

use im::config::UserProvider;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};

use crate::support::{
    Server, Transport,
    errors::{SIGN_IN_AGAIN, TRY_AGAIN_LATER, assert_code},
    jwt::{KeyPair, KeyServer, claims, signed},
};

const ALICE: i64 = 7_001;

#[tokio::test]
async fn key_file_decides_who_is_let_in() {
    const PUBLIC: &str = include_str!("../keys/rsa.pub.pem");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("business.pem");
    std::fs::write(&path, PUBLIC).expect("a file");
    let server = Server::with(|config| {
        config.users.provider = UserProvider::Jwt;
        config.jwt.public_key = path.display().to_string();
    })
    .await;
    let private = include_bytes!("../keys/rsa.key.pem");
    let key = EncodingKey::from_rsa_pem(private).expect("a key");
    for algorithm in [Algorithm::RS256, Algorithm::PS512] {
        let token = encode(&Header::new(algorithm), &claims(ALICE), &key).expect("a token");
        let alice = server.device_with_token(ALICE, token).await;
        for transport in [Transport::Tcp, Transport::WebSocket] {
            server.connect(transport, &alice).await.heartbeat().await;
        }
        let by_url = server.connect_by_url(&alice.url_path()).await;
        by_url.expect("let in").heartbeat().await;
    }
    // What is public is no secret.
    let key = EncodingKey::from_secret(PUBLIC.as_bytes());
    let confused = encode(&Header::default(), &claims(ALICE), &key).expect("a token");
    for token in [confused, signed(&claims(ALICE))] {
        let alice = server.device_with_token(ALICE, token).await;
        assert_eq!(server.refusal(&alice).await, Some(SIGN_IN_AGAIN));
    }
}

#[tokio::test]
async fn new_key_is_accepted_at_once_and_a_removed_one_no_more() {
    let (old, new, last) = (
        KeyPair::new("old"),
        KeyPair::new("new"),
        KeyPair::new("last"),
    );
    let keys = KeyServer::start().await;
    keys.publish(&[&old]);
    let server = keys.follower().await;
    let alice = server
        .device_with_token(ALICE, old.sign(&claims(ALICE)))
        .await;
    let mut session = server.connect(Transport::Tcp, &alice).await;
    let newer = alice.with_token(&new.sign(&claims(ALICE)));
    assert_eq!(server.settled_refusal(&newer).await, Some(SIGN_IN_AGAIN));

    keys.publish(&[&old, &new]);
    assert_eq!(server.settled_refusal(&newer).await, None);
    assert_code(&session.sign_in(&newer).await, 0);

    // An unknown key makes the server look, and then it misses the old one.
    keys.publish(&[&new, &last]);
    let lasts = server
        .device_with_token(ALICE, last.sign(&claims(ALICE)))
        .await;
    server
        .connect(Transport::WebSocket, &lasts)
        .await
        .heartbeat()
        .await;
    let olds = server
        .device_with_token(ALICE, old.sign(&claims(ALICE)))
        .await;
    assert_eq!(server.settled_refusal(&olds).await, Some(SIGN_IN_AGAIN));
    session.heartbeat().await;
}

#[tokio::test]
async fn without_keys_one_is_to_try_again() {
    let key = KeyPair::new("key");
    let keys = KeyServer::start().await;
    let server = keys.follower().await;
    let alice = server
        .device_with_token(ALICE, key.sign(&claims(ALICE)))
        .await;
    assert_eq!(server.refusal(&alice).await, Some(TRY_AGAIN_LATER));
    let mut connection = server.open(Transport::Tcp).await;
    assert_code(&connection.sign_in(&alice).await, TRY_AGAIN_LATER);
    let by_url = server.connect_by_url(&alice.url_path()).await;
    assert_eq!(by_url.err(), Some(503));
    // What cannot be a token is known without any key.
    let nonsense = alice.with_token("nonsense");
    assert_eq!(server.refusal(&nonsense).await, Some(SIGN_IN_AGAIN));

    keys.publish(&[&key]);
    assert_eq!(server.settled_refusal(&alice).await, None);
    server
        .connect(Transport::WebSocket, &alice)
        .await
        .heartbeat()
        .await;
}
