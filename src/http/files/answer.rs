//! How answers about files look: JSON with a code and a message, and the HTTP status that the code has.

use axum::{
    Json,
    response::{IntoResponse as _, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::{
    error::{Code, Error},
    http::request::RequestId,
};

/// Why a request is not done.
#[derive(Debug)]
pub(super) enum Refusal {
    /// For this reason, with the status of its code.
    Error(Error),
    /// The file is larger than this many bytes.
    TooLarge(u64),
    /// Nothing came for too long, or too little.
    TooSlow,
    /// Its client is gone, and nobody reads the answer.
    CutOff,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Refusal {
    /// The error that it is, which has no status.
    pub(super) fn into_error(self) -> (Option<StatusCode>, Error) {
        match self {
            Self::Error(error) => (None, error),
            Self::TooLarge(max) => {
                let error = Error::bad_request("file", format!("at most {max} bytes"));
                (Some(StatusCode::PAYLOAD_TOO_LARGE), error)
            }
            Self::TooSlow => {
                let error = Error::try_again("the upload stalled, try again");
                (Some(StatusCode::REQUEST_TIMEOUT), error)
            }
            Self::CutOff => (None, Error::try_again("the upload was cut off")),
        }
    }
}

/// The answer to what is done.
pub(super) fn success(data: &Value) -> Response {
    Json(json!({"code": 0, "message": "success", "data": data})).into_response()
}

/// The answer to what is not. An internal error is logged here, once.
pub(super) fn refused(id: &RequestId, error: &Error, status: Option<StatusCode>) -> Response {
    let body = match error.code() {
        Some(code) => json!({"code": code.number(), "message": error.public_message()}),
        None => {
            tracing::error!(%error, trace = ?error.trace(), "a request failed");
            id.internal_error()
        }
    };
    let status = status.unwrap_or_else(|| status_of(error.code()));
    let mut response = (status, Json(body)).into_response();
    let no_store = HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
    response
}

const fn status_of(code: Option<Code>) -> StatusCode {
    match code {
        Some(Code::SignInAgain | Code::WrongCode) => StatusCode::UNAUTHORIZED,
        Some(Code::NotAllowed) => StatusCode::FORBIDDEN,
        Some(Code::NoSuchFile | Code::NoSuchUser | Code::NoSuchDevice) => StatusCode::NOT_FOUND,
        Some(Code::TooManyRequests) => StatusCode::TOO_MANY_REQUESTS,
        Some(Code::TryAgain) => StatusCode::SERVICE_UNAVAILABLE,
        Some(_) => StatusCode::BAD_REQUEST,
        None => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
