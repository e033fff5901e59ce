//! How errors travel over gRPC. A business error is complete at once: its status and
//! `google.rpc.ErrorInfo`. An internal one leaves a handler as a bare INTERNAL that carries the
//! error itself, and [`amend`], which knows the request, logs it and words the answer.

use std::{collections::HashMap, error::Error as _, sync::Arc};

use axum::response::Response;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

use crate::error::{Code, Error};

/// The domain of the codes in `ErrorInfo`.
const DOMAIN: &str = "im";
/// Most places of a trace in one answer: it travels in a header.
const TRACE_ENTRIES_MAX: usize = 16;
/// Most characters of an error's source chain in one answer.
const CHAIN_CHARS_MAX: usize = 1_000;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let Some(code) = error.code() else {
            let mut status = Self::internal(error.public_message());
            status.set_source(Arc::new(error));
            return status;
        };
        let metadata = HashMap::from([("code".to_owned(), code.number().to_string())]);
        let details = ErrorDetails::with_error_info(code.reason(), DOMAIN, metadata);
        Self::with_error_details(grpc_code(code), error.public_message(), details)
    }
}

/// What must be answered in place of `response`: `None` unless it is an error that is not in the
/// contract's form yet. Internal errors are logged here, once.
pub(super) fn amend(response: &Response, request_id: &str, with_trace: bool) -> Option<Status> {
    let status = response.extensions().get::<Status>()?;
    let source = status.source().and_then(|source| source.downcast_ref());
    match (source, status.code()) {
        (Some(error), _) => Some(internal(error, request_id, with_trace)),
        // Handlers answer internal errors with their source; without one it is tonic's codec that
        // could not read the request, or found it too long.
        (None, tonic::Code::Internal | tonic::Code::OutOfRange) => {
            Some(Error::bad_request("request", status.message()).into())
        }
        _ => None,
    }
}

/// The answer to a call whose handler panicked, which was logged when it did.
pub(super) fn panicked(request_id: &str) -> Status {
    Status::internal(logged_under(request_id))
}

fn logged_under(request_id: &str) -> String {
    format!("internal error, logged under request id {request_id}")
}

fn internal(error: &Error, request_id: &str, with_trace: bool) -> Status {
    tracing::error!(%error, trace = ?error.trace(), "a request failed");
    let message = logged_under(request_id);
    if !with_trace {
        return Status::internal(message);
    }
    let mut entries = error.trace();
    entries.truncate(TRACE_ENTRIES_MAX);
    let chain: String = error.to_string().chars().take(CHAIN_CHARS_MAX).collect();
    let details = ErrorDetails::with_debug_info(entries, chain);
    Status::with_error_details(tonic::Code::Internal, message, details)
}

const fn grpc_code(code: Code) -> tonic::Code {
    match code {
        Code::SignInAgain | Code::WrongCode => tonic::Code::Unauthenticated,
        Code::BadRequest => tonic::Code::InvalidArgument,
        Code::NotAllowed | Code::NotInGroup | Code::NotFriends => tonic::Code::PermissionDenied,
        Code::TooManyRequests => tonic::Code::ResourceExhausted,
        Code::TryAgain => tonic::Code::Unavailable,
        Code::NoSuchGroup
        | Code::NoSuchDevice
        | Code::NoSuchUser
        | Code::NoSuchFile
        | Code::NoSuchMessage => tonic::Code::NotFound,
        Code::FriendsAlready => tonic::Code::AlreadyExists,
        Code::GroupFull => tonic::Code::FailedPrecondition,
    }
}

#[cfg(test)]
mod tests {
    use axum::response::Response;
    use tonic::Status;
    use tonic_types::StatusExt;

    use super::{Code, Error, amend};

    #[test]
    fn internal_error_shows_its_trace_only_where_it_may() {
        let error = || Error::internal("the row is broken").context("get a user");
        let response: Response = Status::from(error()).into_http();
        assert!(!response.headers().contains_key("grpc-status-details-bin"));

        let for_devices = amend(&response, "17", false).unwrap();
        assert_eq!(
            for_devices.message(),
            "internal error, logged under request id 17"
        );
        assert!(for_devices.details().is_empty());

        let for_business = amend(&response, "17", true).unwrap();
        assert_eq!(for_business.message(), for_devices.message());
        let details = for_business.get_error_details();
        let debug = details.debug_info().unwrap();
        assert!(debug.stack_entries[0].starts_with("the row is broken (src/grpc/status.rs:"));
        assert!(debug.stack_entries[1].starts_with("get a user (src/grpc/status.rs:"));
        assert_eq!(debug.detail, "the row is broken");
        assert!(details.error_info().is_none());
    }

    #[test]
    fn business_error_is_answered_as_it_is() {
        let error = Error::business(Code::GroupFull, "the group is full");
        let response: Response = Status::from(error).into_http();
        assert!(amend(&response, "17", true).is_none());
        assert!(amend(&Response::default(), "17", true).is_none());
    }
}
