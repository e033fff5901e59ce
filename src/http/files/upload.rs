//! `POST /upload`: one file, in the field `file` of a form, taken as it arrives.

use std::sync::Arc;

use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
    response::Response,
};
use http::{HeaderMap, HeaderValue, header::CONTENT_LENGTH};
use serde_json::json;

use super::{
    Options,
    answer::{self, Refusal},
    arrival::{Arrival, linger},
    multipart::{Event, Part, boundary, broken},
};
use crate::{
    error::{Error, Result},
    file::{Description, Digest, Key, label, upload::Upload},
    http::request::RequestId,
    id::UserId,
    limits::UPLOAD_OVERHEAD_BYTES_MAX,
};

/// The field that is the file; others are passed over.
const FIELD: &str = "file";
const CHECKSUM: &str = "x-checksum-sha256";

pub(super) async fn upload(
    State(options): State<Arc<Options>>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Response {
    let (request, mut body) = request.into_parts();
    let received = tokio::select! {
        received = receive(&options, &request.headers, &mut body) => received,
        () = options.files.drained() => {
            Err(Error::try_again("the server is about to stop").into())
        }
    };
    let refusal = match received {
        Ok(key) => {
            options.metrics.upload_done(&Ok::<_, Error>(()));
            return answer::success(&json!({"url": options.files.url(key)}));
        }
        Err(refusal) => refusal,
    };
    // One that was cut off is counted where it ends; and what is too slow is not waited for.
    let (is_counted, is_read) = match refusal {
        Refusal::CutOff => (true, false),
        Refusal::TooSlow => (false, false),
        _ => (false, true),
    };
    let (status, error) = refusal.into_error();
    if is_read {
        linger(&options.files, &request.headers, body);
    }
    let response = answer::refused(&id, &error, status);
    if !is_counted {
        options.metrics.upload_done(&Err::<(), _>(error));
    }
    response
}

/// Takes a file, and returns its key.
async fn receive(options: &Options, headers: &HeaderMap, body: &mut Body) -> Result<Key, Refusal> {
    let owner = options.admit(headers).await?;
    let boundary = boundary(headers)?;
    let expected = checksum(headers.get(CHECKSUM).map(HeaderValue::as_bytes))?;
    let length = headers.get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let length_max = options.files.size_max() + UPLOAD_OVERHEAD_BYTES_MAX as u64;
    if length.is_some_and(|length| length > length_max) {
        return Err(Refusal::TooLarge(options.files.size_max()));
    }
    let mut form = Form {
        options,
        owner,
        arrival: Arrival::new(body, &boundary),
        upload: None,
        expected,
    };
    match form.read().await {
        Ok(()) => match form.upload {
            Some(upload) => Ok(upload.finish(form.expected).await?),
            None => Err(broken("there is no field `file`").into()),
        },
        Err(refusal) => {
            match form.upload {
                Some(upload) if !matches!(refusal, Refusal::CutOff) => upload.refuse().await,
                // It is told by being dropped.
                _ => {}
            }
            Err(refusal)
        }
    }
}

/// A form that is being read.
struct Form<'a> {
    options: &'a Options,
    owner: UserId,
    arrival: Arrival<'a>,
    /// Where the file goes, once it has begun.
    upload: Option<Upload>,
    /// What its checksum must be.
    expected: Option<Digest>,
}

impl Form<'_> {
    async fn read(&mut self) -> Result<(), Refusal> {
        let mut is_file = false;
        loop {
            match self.arrival.next().await? {
                Event::Part(part) => {
                    is_file = part.field == FIELD;
                    if is_file {
                        self.begin(part).await?;
                    }
                }
                Event::Data(bytes) if is_file => {
                    let size_max = self.options.files.size_max();
                    if self.arrival.count_file(bytes.len()) > size_max {
                        return Err(Refusal::TooLarge(size_max));
                    }
                    if let Some(upload) = &mut self.upload {
                        upload.write(bytes).await?;
                    }
                }
                Event::Data(_) => {}
                Event::End => return Ok(()),
            }
        }
    }

    async fn begin(&mut self, part: Part) -> Result<(), Refusal> {
        if self.upload.is_some() {
            return Err(broken("there are two fields `file`").into());
        }
        let of_part = checksum(part.checksum.as_deref().map(str::as_bytes))?;
        if self.expected.is_some() && of_part.is_some() && of_part != self.expected {
            return Err(Error::bad_request(CHECKSUM, "two different ones").into());
        }
        self.expected = self.expected.or(of_part);
        let what = Description {
            name: label::name(part.file_name.as_deref().unwrap_or_default()),
            content_type: label::content_type(part.content_type.as_deref().unwrap_or_default()),
        };
        let turn = self.options.files.turn(self.owner).await?;
        self.upload = Some(self.options.files.begin(turn, self.owner, what));
        Ok(())
    }
}

/// The checksum that a header spells, if there is one.
pub(super) fn checksum(header: Option<&[u8]>) -> Result<Option<Digest>> {
    let Some(header) = header else {
        return Ok(None);
    };
    let digits = header.trim_ascii();
    let mut digest = Digest::default();
    let spelt = digits.len() == 2 * digest.len()
        && digest
            .iter_mut()
            .zip(digits.chunks_exact(2))
            .all(|(byte, pair)| match (hex(pair[0]), hex(pair[1])) {
                (Some(high), Some(low)) => {
                    *byte = high << 4 | low;
                    true
                }
                _ => false,
            });
    if spelt {
        Ok(Some(digest))
    } else {
        Err(Error::bad_request(
            CHECKSUM,
            "must be 64 hexadecimal digits",
        ))
    }
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}
