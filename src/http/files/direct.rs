//! `POST /upload/presign` and `POST /upload/complete`: uploads that go straight to the storage.

use std::sync::Arc;

use axum::{
    Extension,
    body::{Body, to_bytes},
    extract::{Request, State},
    response::Response,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::{
    Options,
    answer::{self, Refusal},
    arrival::linger,
    upload::checksum,
};
use crate::{
    error::{Error, Result},
    file::{Description, Key, label},
    http::request::RequestId,
    id::UserId,
    limits::{FILE_REQUEST_BYTES_MAX, UPLOAD_STALL_MAX},
};

/// What is to be uploaded.
#[derive(Debug, Deserialize)]
struct Wish {
    #[serde(default)]
    name: String,
    #[serde(default)]
    content_type: String,
    size: u64,
    sha256: String,
}

/// What was uploaded.
#[derive(Debug, Deserialize)]
struct Done {
    key: String,
}

pub(super) async fn presign(
    State(options): State<Arc<Options>>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Response {
    let work = async |owner, wish: Wish| {
        options.files.admit(owner)?;
        let sha256 = checksum(Some(wish.sha256.as_bytes()));
        let sha256 = sha256.ok().flatten();
        let sha256 =
            sha256.ok_or_else(|| Error::bad_request("sha256", "must be 64 hexadecimal digits"))?;
        let what = Description {
            name: label::name(&wish.name),
            content_type: label::content_type(&wish.content_type),
        };
        let ticket = options.files.ticket(owner, what, wish.size, sha256).await?;
        let headers = ticket.headers.into_iter();
        let headers: Map<String, Value> = headers
            .map(|(name, value)| (name.to_owned(), Value::String(value)))
            .collect();
        Ok(json!({
            "key": ticket.key.to_string(),
            "upload_url": ticket.upload_url,
            "method": "PUT",
            "headers": headers,
            "expires_in_s": ticket.expires_in.as_secs(),
            "url": options.files.url(ticket.key),
        }))
    };
    answer(&options, &id, request, work).await
}

pub(super) async fn complete(
    State(options): State<Arc<Options>>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Response {
    // His upload was counted when he got the URL.
    let work = async |owner, done: Done| {
        let key = Key::parse(&done.key);
        let key = key.ok_or_else(|| Error::bad_request("key", "must be one that was given"))?;
        let file = options.files.complete(owner, key).await?;
        Ok(json!({"url": options.files.url(file.key)}))
    };
    answer(&options, &id, request, work).await
}

/// Answers a request with a JSON body by what `work` gives.
async fn answer<T: DeserializeOwned>(
    options: &Options,
    id: &RequestId,
    request: Request,
    work: impl AsyncFnOnce(UserId, T) -> Result<Value>,
) -> Response {
    let (request, body) = request.into_parts();
    let worked = async {
        let owner = match options.who(&request.headers).await {
            Ok(owner) => owner,
            Err(error) => {
                linger(&options.files, &request.headers, body);
                return Err(error.into());
            }
        };
        Ok::<_, Refusal>(work(owner, read(body).await?).await?)
    };
    match worked.await {
        Ok(data) => answer::success(&data),
        Err(refusal) => {
            let (status, error) = refusal.into_error();
            answer::refused(id, &error, status)
        }
    }
}

async fn read<T: DeserializeOwned>(body: Body) -> Result<T, Refusal> {
    let bytes = tokio::time::timeout(UPLOAD_STALL_MAX, to_bytes(body, FILE_REQUEST_BYTES_MAX));
    let bytes = bytes.await.map_err(|_| Refusal::TooSlow)?;
    let bytes = bytes.map_err(|_| Error::bad_request("body", "broken or too long"))?;
    let parsed = serde_json::from_slice(&bytes);
    parsed.map_err(|error| Error::bad_request("body", error).into())
}
