//! Why something a client did came to nothing: the server's code, or what happened to the socket.

use std::{fmt, io};

use tonic_types::StatusExt;

/// One failure, with the kind it is counted under.
#[derive(Clone, Debug)]
pub struct Failure {
    kind: String,
    detail: String,
    code: Option<i32>,
}

impl Failure {
    /// The server answered with an error code.
    pub fn answer(code: i32, message: impl Into<String>) -> Self {
        Self {
            kind: format!("answered {code}"),
            detail: message.into(),
            code: Some(code),
        }
    }

    /// A socket did not do what it should; `doing` says what that was.
    pub fn io(doing: &str, error: &io::Error) -> Self {
        Self::other(format!("{doing}: {}", error.kind()), error.to_string())
    }

    /// Nothing came within the deadline.
    pub fn deadline(doing: &str) -> Self {
        Self::other(format!("{doing}: no answer in time"), String::new())
    }

    /// The server ended the connection.
    pub fn closed(why: impl fmt::Display) -> Self {
        Self::other(format!("connection closed: {why}"), String::new())
    }

    /// The server sent what the contract does not allow.
    pub fn protocol(what: &str) -> Self {
        Self::other(format!("protocol: {what}"), String::new())
    }

    fn other(kind: String, detail: String) -> Self {
        Self {
            kind,
            detail,
            code: None,
        }
    }

    /// What it is counted under: nothing that differs between two of the same sort.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The server's error code, where it answered with one.
    pub fn code(&self) -> Option<i32> {
        self.code
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        let info = status.get_details_error_info();
        let code = info.and_then(|info| info.metadata.get("code")?.parse().ok());
        match code {
            Some(code) => Self::answer(code, status.message()),
            None => Self::other(
                format!("grpc {:?}", status.code()),
                status.message().to_owned(),
            ),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        Ok(())
    }
}
