//! Accounts against a real database, and codes through a real webhook.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
};

use axum::{Router, http::StatusCode, routing::post};
use tokio::net::TcpListener;

use super::{SignIn, SignedIn};
use crate::{
    config,
    error::{Code, Result},
    id::DeviceId,
    lifecycle::Tasks,
    testing::{World, sign_in_config},
};

mod accounts;
mod codes;
mod passwords;

const NUMBER: &str = "+8613800000000";
const TEST_CODE: &str = "999999";

fn by_code(number: &str, code: &str, device: DeviceId) -> SignIn {
    SignIn {
        phone_number: number.into(),
        code: code.into(),
        password: String::new(),
        device,
        address: [192, 0, 2, 1].into(),
    }
}

fn by_password(number: &str, password: &str, device: DeviceId) -> SignIn {
    SignIn {
        code: String::new(),
        password: password.into(),
        ..by_code(number, "", device)
    }
}

fn from(address: [u8; 4], sign_in: SignIn) -> SignIn {
    SignIn {
        address: IpAddr::from(address),
        ..sign_in
    }
}

async fn code_of(world: &World, sign_in: SignIn) -> Option<Code> {
    world
        .accounts
        .sign_in(sign_in)
        .await
        .err()
        .and_then(|e| e.code())
}

async fn signed_in(world: &World, sign_in: SignIn) -> SignedIn {
    world.accounts.sign_in(sign_in).await.unwrap()
}

/// A webhook that keeps the codes it is given.
struct Webhook {
    codes: Arc<Mutex<Vec<String>>>,
    status: Arc<AtomicU16>,
    tasks: Tasks,
}

impl Webhook {
    async fn serve(config: &mut config::SignIn) -> Self {
        // Another test may have installed it before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let webhook = Self {
            codes: Arc::default(),
            status: Arc::new(AtomicU16::new(204)),
            tasks: Tasks::default(),
        };
        let (codes, status) = (Arc::clone(&webhook.codes), Arc::clone(&webhook.status));
        let take = move |body: String| async move {
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body["phone_number"], NUMBER);
            codes
                .lock()
                .unwrap()
                .push(body["code"].as_str().unwrap().to_owned());
            StatusCode::from_u16(status.load(Ordering::SeqCst)).unwrap()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        config.code_sender = config::CodeSender::Webhook;
        config.webhook_url = format!("http://{}/code", listener.local_addr().unwrap());
        let server = axum::serve(listener, Router::new().route("/code", post(take)));
        webhook
            .tasks
            .spawn(std::future::IntoFuture::into_future(server));
        webhook
    }

    fn last(&self) -> String {
        self.codes.lock().unwrap().last().unwrap().clone()
    }
}

/// A code that is not `code`.
fn other_than(code: &str) -> String {
    let number: u32 = code.parse().unwrap();
    format!("{:06}", (number + 1) % 999_999)
}

async fn world_with_webhook() -> (World, Webhook) {
    let mut config = sign_in_config();
    let webhook = Webhook::serve(&mut config).await;
    (World::with(&config, 32).await, webhook)
}

fn names_field<T>(result: Result<T>, field: &str) {
    let Err(error) = result else {
        panic!("{field} was accepted");
    };
    assert!(error.is(Code::BadRequest), "{error:?}");
    assert!(
        error.public_message().starts_with(&format!("{field}:")),
        "{error:?}"
    );
}
