//! Files over HTTP: `POST /upload`, `GET /file/{key}`, and uploads that go straight to the storage.
//! Here requests are read and answers worded; what a file is and where it goes is `file`'s matter.

use std::sync::Arc;

use axum::{
    Router,
    routing::{get, post},
};
use http::HeaderMap;
use tracing::Span;

use crate::{
    auth::Authenticator,
    error::{Error, Result},
    file::Files,
    id::{DeviceId, UserId},
    telemetry::Metrics,
};

mod answer;
mod arrival;
mod direct;
mod download;
mod multipart;
mod range;
mod upload;

/// What the routes work with.
#[derive(Debug)]
pub struct Options {
    /// Where files go and come from.
    pub files: Arc<Files>,
    /// Who may upload.
    pub authenticator: Arc<Authenticator>,
    /// Where uploads are counted.
    pub metrics: Arc<Metrics>,
}

/// `/upload` and `/file`; they need [`with_request_ids`](super::with_request_ids) around them.
pub fn routes(options: Options) -> Router {
    Router::new()
        .route("/upload", post(upload::upload))
        .route("/upload/presign", post(direct::presign))
        .route("/upload/complete", post(direct::complete))
        .route("/file/{key}", get(download::download))
        .with_state(Arc::new(options))
}

impl Options {
    /// Who wants to upload, as [`Self::who`] knows him; his upload is counted.
    ///
    /// # Errors
    /// As [`Self::who`] and [`Files::admit`].
    async fn admit(&self, headers: &HeaderMap) -> Result<UserId> {
        let user = self.who(headers).await?;
        self.files.admit(user)?;
        Ok(user)
    }

    /// Who asks, by the headers `user_id`, `device_id` and `token`.
    ///
    /// # Errors
    /// [`Code::SignInAgain`](crate::error::Code::SignInAgain) when they do not hold.
    async fn who(&self, headers: &HeaderMap) -> Result<UserId> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let id = |name| {
            let id = text(name)?.parse().ok()?;
            (id > 0).then_some(id)
        };
        let claim = (|| Some((id("user_id")?, id("device_id")?, text("token")?)))();
        let (user, device, token) = claim.ok_or_else(Error::sign_in_again)?;
        let (user, device) = (UserId(user), DeviceId(device));
        let span = Span::current();
        span.record("user", user.get());
        span.record("device", device.get());
        self.authenticator.authorize(user, device, token).await?;
        Ok(user)
    }
}
