//! The error codes of the contract, and where they stand in an answer.

use std::fmt::Debug;

use im::pb::Output;
use tonic::{Code, Status};
use tonic_types::StatusExt;

pub const SIGN_IN_AGAIN: i32 = 10000;
pub const BAD_REQUEST: i32 = 10001;
pub const NOT_ALLOWED: i32 = 10002;
pub const TOO_MANY_REQUESTS: i32 = 10003;
pub const TRY_AGAIN_LATER: i32 = 10004;
pub const WRONG_CODE: i32 = 10010;
pub const NOT_IN_GROUP: i32 = 10011;
pub const NOT_FRIENDS: i32 = 10012;
pub const NO_SUCH_GROUP: i32 = 10013;
pub const NO_SUCH_DEVICE: i32 = 10014;
pub const FRIENDS_ALREADY: i32 = 10015;
pub const NO_SUCH_USER: i32 = 10016;
pub const GROUP_IS_FULL: i32 = 10018;

/// The business code that a gRPC error carries, or 0.
pub fn code(status: &Status) -> i32 {
    let details = status.get_error_details();
    let Some(info) = details.error_info() else {
        return 0;
    };
    assert_eq!(info.domain, "im", "the domain of ErrorInfo");
    assert!(
        !info.reason.is_empty()
            && info
                .reason
                .chars()
                .all(|c| c.is_ascii_uppercase() || c == '_'),
        "the reason of ErrorInfo is in capitals: {:?}",
        info.reason
    );
    let code = info.metadata.get("code").expect("ErrorInfo has a code");
    code.parse().expect("the code is a number")
}

/// The gRPC status that belongs to a business code (design §8).
fn grpc_code(code: i32) -> Code {
    match code {
        SIGN_IN_AGAIN | WRONG_CODE => Code::Unauthenticated,
        BAD_REQUEST => Code::InvalidArgument,
        NOT_ALLOWED | NOT_IN_GROUP | NOT_FRIENDS => Code::PermissionDenied,
        TOO_MANY_REQUESTS => Code::ResourceExhausted,
        FRIENDS_ALREADY => Code::AlreadyExists,
        GROUP_IS_FULL => Code::FailedPrecondition,
        TRY_AGAIN_LATER => Code::Unavailable,
        NO_SUCH_GROUP | NO_SUCH_DEVICE | NO_SUCH_USER => Code::NotFound,
        other => panic!("no test expects {other} yet"),
    }
}

/// Asserts that a call failed with `expected`, and returns the sentence that came with it.
#[track_caller]
pub fn assert_fails<T: Debug>(result: Result<T, Status>, expected: i32) -> String {
    let status = match result {
        Ok(answer) => panic!("expected {expected}, got an answer: {answer:?}"),
        Err(status) => status,
    };
    assert_eq!(code(&status), expected, "the code of {status:?}");
    assert_eq!(
        status.code(),
        grpc_code(expected),
        "the status of {status:?}"
    );
    status.message().to_owned()
}

/// Asserts that a call failed as a bad request whose sentence names `field`.
#[track_caller]
pub fn assert_names<T: Debug>(result: Result<T, Status>, field: &str) {
    let message = assert_fails(result, BAD_REQUEST);
    assert!(message.contains(field), "{message:?} names {field}");
}

/// Asserts that an answer on a long connection bears `expected`.
#[track_caller]
pub fn assert_code(output: &Output, expected: i32) {
    assert_eq!(output.code, expected, "the code of {output:?}");
    if expected != 0 {
        assert!(!output.message.is_empty(), "an error in words: {output:?}");
    }
}
