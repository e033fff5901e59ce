//! A business that signs its users' tokens, and one that publishes the keys it signs with.

use std::{
    future::IntoFuture,
    sync::{Arc, Mutex},
};

use axum::{Router, http::StatusCode, routing::get};
use im::{
    clock::{Clock, System},
    config::{Config, UserProvider},
    pb::GetGroupsReq,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{
    Api, Device, Server,
    errors::{TRY_AGAIN_LATER, code},
    wait::{eventually, soon},
};

/// What the business and the server know.
pub const SECRET: &str = "what only the business and the server know";

/// Unix seconds.
pub fn now_s() -> i64 {
    System.now_ms() / 1_000
}

/// Claims of a user that hold for another hour.
pub fn claims(user_id: i64) -> Value {
    json!({ "sub": user_id.to_string(), "iat": now_s(), "exp": now_s() + 3_600 })
}

/// A token that the business has signed with the secret.
pub fn signed(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    encode(&Header::default(), claims, &key).expect("a token")
}

/// A server whose users have tokens that are signed with the secret.
pub async fn start() -> Server {
    Server::with(by_secret).await
}

/// The configuration of such a server.
pub fn by_secret(config: &mut Config) {
    config.users.provider = UserProvider::Jwt;
    config.jwt.secret = SECRET.into();
}

impl Api {
    /// A new device, on which nobody has signed in, of a user with a token.
    pub async fn device_with_token(&self, user_id: i64, token: String) -> Device {
        Device {
            user_id,
            device_id: self.register_device().await,
            token,
            phone_number: String::new(),
        }
    }

    /// A new device of a user with a token of the secret's.
    pub async fn device_of_business(&self, user_id: i64) -> Device {
        let token = signed(&claims(user_id));
        self.device_with_token(user_id, token).await
    }

    /// As [`Self::refusal`], once the server can tell.
    pub async fn settled_refusal(&self, device: &Device) -> Option<i32> {
        eventually("the keys are had", async || {
            let refusal = self.refusal(device).await;
            (refusal != Some(TRY_AGAIN_LATER)).then_some(refusal)
        })
        .await
    }

    /// The code that a call of `device` is refused with; none when its token is accepted.
    pub async fn refusal(&self, device: &Device) -> Option<i32> {
        let mut logic = self.logic(device);
        let answer = soon("GetGroups", logic.get_groups(GetGroupsReq {})).await;
        answer.err().map(|status| code(&status))
    }
}

/// A key pair with the id that it is published under.
pub struct KeyPair {
    id: &'static str,
    signing: EncodingKey,
}

impl KeyPair {
    /// A new Ed25519 key.
    pub fn new(id: &'static str) -> Self {
        // In PKCS #8 it is this and any 32 bytes.
        let mut der = vec![
            0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
        ];
        der.extend_from_slice(&rand::random::<[u8; 32]>());
        let signing = EncodingKey::from_ed_der(&der);
        Self { id, signing }
    }

    /// A token that it has signed, and that names it.
    pub fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.id.to_owned());
        encode(&header, claims, &self.signing).expect("a token")
    }

    fn published(&self) -> Value {
        let jwk = Jwk::from_encoding_key(&self.signing, Algorithm::EdDSA).expect("a public key");
        let mut jwk = serde_json::to_value(jwk).expect("JSON");
        jwk["kid"] = self.id.into();
        jwk
    }
}

/// Where the business publishes its keys.
pub struct KeyServer {
    pub url: String,
    /// `None`: it cannot answer.
    keys: Arc<Mutex<Option<Value>>>,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl KeyServer {
    /// One that cannot answer yet.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let keys: Arc<Mutex<Option<Value>>> = Arc::default();
        let published = Arc::clone(&keys);
        let serve = move || async move {
            let keys = published.lock().expect("no panic under the lock").clone();
            keys.map(|keys| keys.to_string())
                .ok_or(StatusCode::SERVICE_UNAVAILABLE)
        };
        let router = Router::new().route("/keys", get(serve));
        Self {
            url: format!("http://{address}/keys"),
            keys,
            task: tokio::spawn(axum::serve(listener, router).into_future()),
        }
    }

    /// Publishes these keys and no others.
    pub fn publish(&self, keys: &[&KeyPair]) {
        let keys: Vec<Value> = keys.iter().map(|key| key.published()).collect();
        *self.keys.lock().expect("no panic under the lock") = Some(json!({ "keys": keys }));
    }

    /// A server that follows what is published here.
    pub async fn follower(&self) -> Server {
        Server::with(|config| {
            config.users.provider = UserProvider::Jwt;
            config.jwt.jwks_url.clone_from(&self.url);
        })
        .await
    }
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
