//! What an answer other than OK means. The business server's status decides, never a code that it
//! may have put into the details; its `google.rpc.DebugInfo` is kept in the error, so that one log
//! line shows the whole path.

use std::fmt;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{
    error::{self, Error},
    limits::{FOREIGN_TEXT_CHARS_MAX, FOREIGN_TRACE_ENTRIES_MAX},
};

/// What the business server was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Whether a token is good.
    Token,
    /// Who users are.
    Profiles,
}

/// Whether the business server did not answer: it is away, hangs, or the connection broke.
pub(super) fn is_no_answer(status: &Status) -> bool {
    use std::error::Error as _;
    // What the transport reports has a source, also that a call was cancelled or took too long; what
    // a server sent has none.
    let code = status.code();
    matches!(code, Code::Unavailable | Code::DeadlineExceeded) || status.source().is_some()
}

/// The error that a status means to whoever had the business server `asked`.
#[track_caller]
pub(super) fn error(status: &Status, asked: Asked) -> Error {
    if is_no_answer(status) {
        return away();
    }
    match (status.code(), asked) {
        (Code::Unauthenticated, Asked::Token) => Error::sign_in_again(),
        (Code::NotFound, _) => Error::business(error::Code::NoSuchUser, "no such user"),
        // Also UNAUTHENTICATED where no token was asked about: it is this server that is refused, and
        // no device helps by signing in again.
        _ => unexpected(status),
    }
}

/// The business server cannot be asked, or has not answered.
pub(super) fn away() -> Error {
    Error::try_again("the business server does not answer, try again later")
}

#[track_caller]
fn unexpected(status: &Status) -> Error {
    let details = status.get_error_details();
    let debug = details.debug_info();
    let answer = Answer {
        code: status.code(),
        message: plain(status.message()),
        detail: plain(debug.map_or("", |debug| &debug.detail)),
    };
    let trace = debug.map_or(&[][..], |debug| &debug.stack_entries);
    let trace = trace.iter().take(FOREIGN_TRACE_ENTRIES_MAX);
    Error::wrap("ask the business server", answer)
        .traced_elsewhere("business server", trace.map(|entry| plain(entry)))
}

/// An answer that nobody expected.
#[derive(Debug)]
struct Answer {
    code: Code,
    message: String,
    detail: String,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it answered {:?}: {}", self.code, self.message)?;
        if !self.detail.is_empty() && self.detail != self.message {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

impl std::error::Error for Answer {}

/// A foreign text on one line and of bounded length, as it may stand in a log.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(FOREIGN_TEXT_CHARS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn status_decides_what_an_answer_means() {
        use error::Code::{NoSuchUser, SignInAgain, TryAgain};
        for (code, token, profiles) in [
            (Code::Unauthenticated, Some(SignInAgain), None),
            (Code::NotFound, Some(NoSuchUser), Some(NoSuchUser)),
            (Code::Unavailable, Some(TryAgain), Some(TryAgain)),
            (Code::DeadlineExceeded, Some(TryAgain), Some(TryAgain)),
            (Code::Cancelled, None, None),
            (Code::PermissionDenied, None, None),
            (Code::ResourceExhausted, None, None),
            (Code::Internal, None, None),
            (Code::Unknown, None, None),
            (Code::Unimplemented, None, None),
        ] {
            let status = Status::new(code, "why");
            assert_eq!(error(&status, Asked::Token).code(), token, "{code:?}");
            assert_eq!(error(&status, Asked::Profiles).code(), profiles, "{code:?}");
            assert_eq!(is_no_answer(&status), token == Some(TryAgain));
        }
    }

    #[test]
    fn code_in_the_details_is_not_believed() {
        let metadata = HashMap::from([("code".to_owned(), "10000".to_owned())]);
        let details = ErrorDetails::with_error_info("SIGN_IN_AGAIN", "im", metadata);
        let status = Status::with_error_details(Code::Internal, "why", details);
        assert_eq!(error(&status, Asked::Token).code(), None);
    }

    #[test]
    fn broken_connection_is_no_answer() {
        let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        for status in [
            Status::from_error(Box::new(broken)),
            // A CANCELLED of our own side.
            Status::from_error(Box::new(tonic::TimeoutExpired(()))),
        ] {
            assert!(is_no_answer(&status), "{status:?}");
            assert!(error(&status, Asked::Token).is(error::Code::TryAgain));
        }
    }

    #[test]
    fn path_in_the_business_server_comes_before_our_own() {
        let entries = vec![
            "query\nusers (db.py:7)".into(),
            "get_user (api.py:9)".into(),
        ];
        let details = ErrorDetails::with_debug_info(entries, "no table \"users\"");
        let status = Status::with_error_details(Code::Internal, "cannot say", details);
        let error = error(&status, Asked::Profiles).context("send a message");
        assert_eq!(
            error.to_string(),
            "ask the business server: it answered Internal: cannot say: no table \"users\""
        );
        let trace = error.trace();
        assert_eq!(trace[0], "query users (db.py:7) (business server)");
        assert_eq!(trace[1], "get_user (api.py:9) (business server)");
        assert!(trace[2].starts_with("ask the business server (src/business/failure.rs:"));
        assert!(trace[3].starts_with("send a message (src/business/failure.rs:"));
    }

    #[test]
    fn what_it_says_is_bounded() {
        let entries = vec!["x".repeat(100_000); 1_000];
        let details = ErrorDetails::with_debug_info(entries, "y".repeat(100_000));
        let status = Status::with_error_details(Code::Unknown, "z".repeat(100_000), details);
        let error = error(&status, Asked::Token);
        assert_eq!(error.trace().len(), FOREIGN_TRACE_ENTRIES_MAX + 1);
        let longest = 3 * FOREIGN_TEXT_CHARS_MAX;
        assert!(error.to_string().len() < longest, "{error}");
        assert!(error.trace()[0].len() < longest);
    }
}
