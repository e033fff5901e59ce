//! `GET` and `HEAD /file/{key}`: whoever has the key gets the file, as something that no browser runs.

use std::{fmt::Write as _, ops::Range, sync::Arc};

use axum::{
    Extension,
    body::Body,
    extract::{Path, Request, State},
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::{
    Options, answer,
    range::{Validators, Wanted},
};
use crate::{
    error::{Code, Error, Result, ResultExt as _},
    file::{
        File, Files, Key,
        label::{self, Treatment},
    },
    http::request::RequestId,
};

/// A key says nothing of a file but which it is, and that never changes.
const CACHE: &str = "public, max-age=31536000, immutable";
/// Whatever a browser makes of a file, it does it without scripts, without an origin and alone.
const POLICY: &str = "default-src 'none'; sandbox";

pub(super) async fn download(
    State(options): State<Arc<Options>>,
    Extension(id): Extension<RequestId>,
    Path(key): Path<String>,
    request: Request,
) -> Response {
    let (request, _) = request.into_parts();
    let answer = get(&options.files, &key, &request.method, &request.headers);
    answer
        .await
        .unwrap_or_else(|error| answer::refused(&id, &error, None))
}

async fn get(files: &Files, key: &str, method: &Method, headers: &HeaderMap) -> Result<Response> {
    let key = Key::parse(key);
    let key = key.ok_or_else(|| Error::business(Code::NoSuchFile, "no such file"))?;
    let file = files.find(key).await?;
    let validators = Validators::new(etag(&file), file.created_at);
    if validators.are_known(headers) {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        *response.headers_mut() = cache_headers(&validators)?;
        return Ok(response);
    }
    // Only GET has ranges.
    let wanted = match *method {
        Method::GET => validators.wanted(headers, file.size),
        _ => Wanted::Whole,
    };
    let (status, range) = match wanted {
        Wanted::Whole => (StatusCode::OK, 0..file.size),
        Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Wanted::Nothing => return unsatisfiable(file.size),
    };
    let body = match *method {
        Method::GET => Body::from_stream(files.read(key, range.clone()).await?),
        _ => Body::empty(),
    };
    let mut response = (status, body).into_response();
    *response.headers_mut() = headers_of(&file, &validators)?;
    describe(response.headers_mut(), status, &range, file.size)?;
    Ok(response)
}

/// Says what of a file is in the body.
fn describe(
    headers: &mut HeaderMap,
    status: StatusCode,
    range: &Range<u64>,
    size: u64,
) -> Result<()> {
    headers.insert(header::CONTENT_LENGTH, (range.end - range.start).into());
    if status == StatusCode::PARTIAL_CONTENT {
        let part = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        headers.insert(header::CONTENT_RANGE, value(&part)?);
    }
    Ok(())
}

fn unsatisfiable(size: u64) -> Result<Response> {
    let mut response = StatusCode::RANGE_NOT_SATISFIABLE.into_response();
    let range = value(&format!("bytes */{size}"))?;
    response.headers_mut().insert(header::CONTENT_RANGE, range);
    Ok(response)
}

/// What a cache needs to know.
fn cache_headers(validators: &Validators) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(header::ETAG, value(&validators.etag)?);
    let modified = httpdate::fmt_http_date(validators.modified);
    headers.insert(header::LAST_MODIFIED, value(&modified)?);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(CACHE));
    Ok(headers)
}

fn headers_of(file: &File, validators: &Validators) -> Result<HeaderMap> {
    let mut headers = cache_headers(validators)?;
    let content_type = value(label::served_type(&file.content_type))?;
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CONTENT_DISPOSITION, value(&disposition(file))?);
    for (name, text) in [
        (header::ACCEPT_RANGES, "bytes"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
    ] {
        headers.insert(name, HeaderValue::from_static(text));
    }
    Ok(headers)
}

fn value(text: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text).internal("word a header")
}

fn etag(file: &File) -> String {
    let mut tag = String::from("\"");
    for byte in file.sha256 {
        // Writing to a string cannot fail.
        let _ = write!(tag, "{byte:02x}");
    }
    tag.push('"');
    tag
}

/// What to do with a file and what to call it (RFC 6266, RFC 8187).
fn disposition(file: &File) -> String {
    let mut text = String::from(match label::treatment(&file.content_type, &file.name) {
        Treatment::Show => "inline",
        Treatment::Save => "attachment",
    });
    text.push_str("; filename*=UTF-8''");
    for byte in file.name.bytes() {
        if byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}
