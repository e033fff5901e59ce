//! A signed-in device: the credential that its calls carry.

use im::pb::SignInInput;
use tonic::{Request, Status, service::Interceptor};

/// A device with an account signed in on it.
#[derive(Clone, Debug)]
pub struct Device {
    pub user_id: i64,
    pub device_id: i64,
    pub token: String,
    pub phone_number: String,
}

impl Device {
    /// The same device with another token.
    pub fn with_token(&self, token: &str) -> Self {
        Self {
            token: token.into(),
            ..self.clone()
        }
    }

    /// What signs it in on a long connection.
    pub fn sign_in_input(&self) -> SignInInput {
        SignInInput {
            device_id: self.device_id,
            user_id: self.user_id,
            token: self.token.clone(),
        }
    }

    /// The path that signs it in with the WebSocket's URL.
    pub fn url_path(&self) -> String {
        let Self {
            user_id,
            device_id,
            token,
            ..
        } = self;
        format!("/ws?user_id={user_id}&device_id={device_id}&token={token}")
    }

    /// Adds the credential to a call's metadata.
    pub fn authorize<T>(&self, request: &mut Request<T>) {
        let values = [
            ("user_id", self.user_id.to_string()),
            ("device_id", self.device_id.to_string()),
            ("token", self.token.clone()),
        ];
        for (name, value) in values {
            let value = value.parse().expect("metadata is ASCII");
            request.metadata_mut().insert(name, value);
        }
    }
}

impl Interceptor for Device {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        self.authorize(&mut request);
        Ok(request)
    }
}
