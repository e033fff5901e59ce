//! The body of an upload (RFC 7578, RFC 2046 §5.1), taken apart as it arrives, without any I/O.
//!
//! Invariant: never more is held than what was fed last and the longest header of a part.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header::CONTENT_TYPE};
use memchr::memmem;

use crate::{error::Error, limits::UPLOAD_PART_HEADER_BYTES_MAX};

/// Longest boundary (RFC 2046 §5.1.1).
const BOUNDARY_CHARS_MAX: usize = 70;

/// What a body is made of.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A part begins; the one before has ended.
    Part(Part),
    /// Bytes of the part.
    Data(Bytes),
    /// There are no more parts.
    End,
}

/// What the headers of a part say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) field: String,
    pub(super) file_name: Option<String>,
    pub(super) content_type: Option<String>,
    pub(super) checksum: Option<String>,
}

/// Takes a body apart.
#[derive(Debug)]
pub(super) struct Parser {
    /// What stands before each part and after the last: a line break, two hyphens, the boundary.
    delimiter: Vec<u8>,
    buffer: BytesMut,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Before the first part; what stands there is of no interest.
    Preamble,
    /// Behind a delimiter.
    Delimited,
    Headers,
    Data,
    End,
}

impl Parser {
    pub(super) fn new(boundary: &str) -> Self {
        Self {
            delimiter: format!("\r\n--{boundary}").into_bytes(),
            // The first delimiter may stand at the very beginning.
            buffer: BytesMut::from(&b"\r\n"[..]),
            state: State::Preamble,
        }
    }

    /// Takes the next bytes of the body; to be called when [`Self::next`] has no more.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// What comes next; `None` when more must be fed.
    pub(super) fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            match self.state {
                State::Preamble => match memmem::find(&self.buffer, &self.delimiter) {
                    Some(at) => self.pass(at + self.delimiter.len(), State::Delimited),
                    None => {
                        let _of_no_interest = self.buffer.split_to(self.certain());
                        return Ok(None);
                    }
                },
                State::Delimited => {
                    let padding = self.buffer.iter().take_while(|b| b" \t".contains(b));
                    let padding = padding.count();
                    match self.buffer.get(padding..padding + 2) {
                        Some(b"--") if padding == 0 => self.pass(2, State::End),
                        // The line break stays: a part without headers goes on with another.
                        Some(b"\r\n") => self.pass(padding, State::Headers),
                        None if padding <= BOUNDARY_CHARS_MAX => return Ok(None),
                        _ => return Err(broken("a boundary is followed by something else")),
                    }
                }
                State::Headers => {
                    let Some(end) = memmem::find(&self.buffer, b"\r\n\r\n") else {
                        if self.buffer.len() > UPLOAD_PART_HEADER_BYTES_MAX {
                            return Err(broken("the headers of a part are too long"));
                        }
                        return Ok(None);
                    };
                    let headers = self.buffer.split_to(end + 4);
                    self.state = State::Data;
                    return Part::parse(&headers).map(Event::Part).map(Some);
                }
                State::Data => {
                    let found = memmem::find(&self.buffer, &self.delimiter);
                    let data = self
                        .buffer
                        .split_to(found.unwrap_or_else(|| self.certain()));
                    if found.is_some() {
                        self.pass(self.delimiter.len(), State::Delimited);
                    }
                    if !data.is_empty() {
                        return Ok(Some(Event::Data(data.freeze())));
                    }
                    if found.is_none() {
                        return Ok(None);
                    }
                }
                State::End => {
                    self.buffer.clear();
                    return Ok(Some(Event::End));
                }
            }
        }
    }

    /// How many bytes of the buffer cannot belong to a delimiter that is not there as a whole yet.
    fn certain(&self) -> usize {
        let kept = self.delimiter.len() - 1;
        self.buffer.len().saturating_sub(kept)
    }

    fn pass(&mut self, bytes: usize, state: State) {
        let _passed = self.buffer.split_to(bytes);
        self.state = state;
    }
}

impl Part {
    fn parse(headers: &[u8]) -> Result<Self, Error> {
        let mut part = Self::default();
        let mut is_form_data = false;
        for line in String::from_utf8_lossy(headers).split("\r\n") {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            let value = value.trim();
            match name.trim().to_ascii_lowercase().as_str() {
                "content-disposition" => {
                    let (kind, parameters) = value.split_once(';').unwrap_or((value, ""));
                    is_form_data = kind.trim().eq_ignore_ascii_case("form-data");
                    for (name, value) in Parameters(parameters) {
                        match name.to_ascii_lowercase().as_str() {
                            "name" => part.field = value,
                            "filename" => part.file_name = Some(value),
                            _ => {}
                        }
                    }
                }
                "content-type" => part.content_type = Some(value.to_owned()),
                "x-checksum-sha256" => part.checksum = Some(value.to_owned()),
                _ => {}
            }
        }
        if is_form_data {
            Ok(part)
        } else {
            Err(broken("a part is no form-data"))
        }
    }
}

/// The boundary that a request names.
pub(super) fn boundary(headers: &HeaderMap) -> Result<String, Error> {
    let wrong = || Error::bad_request("content-type", "must be multipart/form-data; boundary=...");
    let value = headers.get(CONTENT_TYPE).ok_or_else(wrong)?;
    let value = value.to_str().map_err(|_| wrong())?;
    let (kind, parameters) = value.split_once(';').ok_or_else(wrong)?;
    let boundary = Parameters(parameters)
        .find_map(|(name, value)| name.eq_ignore_ascii_case("boundary").then_some(value));
    boundary
        .filter(|_| kind.trim().eq_ignore_ascii_case("multipart/form-data"))
        .filter(|boundary| (1..=BOUNDARY_CHARS_MAX).contains(&boundary.len()))
        .ok_or_else(wrong)
}

pub(super) fn broken(how: &str) -> Error {
    Error::bad_request("body", how)
}

/// Parameters of a header, as `; name=value; name="value"`.
struct Parameters<'a>(&'a str);

impl Iterator for Parameters<'_> {
    type Item = (String, String);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.0.trim_start_matches([';', ' ', '\t']);
        let (name, rest) = rest.split_once('=')?;
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let (value, rest) = rest.split_once(';').unwrap_or((rest, ""));
                (value.trim().to_owned(), rest)
            }
        };
        self.0 = rest;
        Some((name.trim().to_owned(), value))
    }
}

/// A quoted value and what stands behind it. Browsers write a quote within it as `%22`, others as `\"`;
/// any other backslash is one, as in the paths that some send.
fn unquote(quoted: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = quoted.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value.replace("%22", "\""), &quoted[at + 1..]),
            '\\' => match characters.next_if(|(_, next)| matches!(next, '"' | '\\')) {
                Some((_, escaped)) => value.push(escaped),
                None => value.push('\\'),
            },
            _ => value.push(character),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests;
