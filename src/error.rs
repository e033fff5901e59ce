//! One error for the whole server, free of any transport: either a business error with its code,
//! which is an ordinary answer and never logged, or an internal one with its source chain and the
//! places it passed, here and in other services. The edges (`grpc::status`, `gateway::dispatch`) translate it, last, and log
//! an internal one once.

use std::{borrow::Cow, error::Error as StdError, fmt, panic::Location};

/// A result with the server's own error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The business error codes of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Code {
    /// Sign in again: the credential is missing, wrong, expired or revoked.
    SignInAgain = 10000,
    /// A field is missing or out of its bounds; the message names it.
    BadRequest = 10001,
    /// The caller may not do this.
    NotAllowed = 10002,
    /// Too many requests: slow down.
    TooManyRequests = 10003,
    /// Something the server needs is away, or the outcome is unknown; try again later.
    TryAgain = 10004,
    /// Wrong verification code or password.
    WrongCode = 10010,
    /// The caller is not in the group.
    NotInGroup = 10011,
    /// The two users are not friends.
    NotFriends = 10012,
    /// No such group.
    NoSuchGroup = 10013,
    /// No such device.
    NoSuchDevice = 10014,
    /// The two users are friends already.
    FriendsAlready = 10015,
    /// No such user.
    NoSuchUser = 10016,
    /// No such file.
    NoSuchFile = 10017,
    /// The group is full.
    GroupFull = 10018,
    /// No such message.
    NoSuchMessage = 10019,
}

impl Code {
    /// The code's name in capitals, as it travels in `google.rpc.ErrorInfo.reason`.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::SignInAgain => "SIGN_IN_AGAIN",
            Self::BadRequest => "BAD_REQUEST",
            Self::NotAllowed => "NOT_ALLOWED",
            Self::TooManyRequests => "TOO_MANY_REQUESTS",
            Self::TryAgain => "TRY_AGAIN_LATER",
            Self::WrongCode => "WRONG_CODE_OR_PASSWORD",
            Self::NotInGroup => "NOT_IN_GROUP",
            Self::NotFriends => "NOT_FRIENDS",
            Self::NoSuchGroup => "NO_SUCH_GROUP",
            Self::NoSuchDevice => "NO_SUCH_DEVICE",
            Self::FriendsAlready => "FRIENDS_ALREADY",
            Self::NoSuchUser => "NO_SUCH_USER",
            Self::NoSuchFile => "NO_SUCH_FILE",
            Self::GroupFull => "GROUP_FULL",
            Self::NoSuchMessage => "NO_SUCH_MESSAGE",
        }
    }

    /// The number that travels on the wire.
    #[must_use]
    pub const fn number(self) -> i32 {
        self as i32
    }
}

/// The number of an internal error where it has one: `google.rpc.Code.INTERNAL`.
pub const INTERNAL: i32 = 13;

/// What went wrong.
pub struct Error(Box<Repr>);

enum Repr {
    Business {
        code: Code,
        message: Cow<'static, str>,
    },
    Internal {
        what: Cow<'static, str>,
        source: Option<Box<dyn StdError + Send + Sync>>,
        trace: Vec<Trace>,
    },
}

/// One place an internal error passed.
#[derive(Clone)]
struct Trace {
    doing: Cow<'static, str>,
    at: Place,
}

#[derive(Clone, Copy)]
enum Place {
    Here(&'static Location<'static>),
    /// In another service, which says where in its own words.
    Elsewhere(&'static str),
}

impl Error {
    /// A business error with a sentence for the caller.
    pub fn business(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Repr::Business {
            code,
            message: message.into(),
        }))
    }

    /// A field that is missing or out of its bounds; `field` is its name in the contract.
    pub fn bad_request(field: &str, why: impl fmt::Display) -> Self {
        Self::business(Code::BadRequest, format!("{field}: {why}"))
    }

    /// The credential does not hold. It does not say why, so that nothing can be learned from it.
    #[must_use]
    pub fn sign_in_again() -> Self {
        Self::business(Code::SignInAgain, "sign in again")
    }

    /// There is no such group.
    #[must_use]
    pub fn no_such_group() -> Self {
        Self::business(Code::NoSuchGroup, "no such group")
    }

    /// Whoever asks, or whom it is about, is not in the group.
    #[must_use]
    pub fn not_in_group() -> Self {
        Self::business(Code::NotInGroup, "not in the group")
    }

    /// Something the server needs is away, or the outcome is unknown.
    pub fn try_again(message: impl Into<Cow<'static, str>>) -> Self {
        Self::business(Code::TryAgain, message)
    }

    /// A broken expectation of this code or of its environment.
    #[track_caller]
    pub fn internal(what: impl Into<Cow<'static, str>>) -> Self {
        Self::internal_from(what, None)
    }

    /// A foreign error that nobody expected, with what was being done.
    #[track_caller]
    pub fn wrap(
        doing: impl Into<Cow<'static, str>>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self::internal_from(doing, Some(source.into()))
    }

    #[track_caller]
    fn internal_from(
        what: impl Into<Cow<'static, str>>,
        source: Option<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        let what = what.into();
        let trace = vec![Trace {
            doing: what.clone(),
            at: Place::Here(Location::caller()),
        }];
        Self(Box::new(Repr::Internal {
            what,
            source,
            trace,
        }))
    }

    /// Adds a place to an internal error's trace; a business error stays as it is.
    #[track_caller]
    #[must_use]
    pub fn context(mut self, doing: impl Into<Cow<'static, str>>) -> Self {
        if let Repr::Internal { trace, .. } = &mut *self.0 {
            trace.push(Trace {
                doing: doing.into(),
                at: Place::Here(Location::caller()),
            });
        }
        self
    }

    /// Adds the places that an internal error passed in `service` before it came here, innermost
    /// first; they precede all others. They are foreign words: whoever calls this bounds them.
    #[must_use]
    pub fn traced_elsewhere(
        mut self,
        service: &'static str,
        places: impl IntoIterator<Item = String>,
    ) -> Self {
        if let Repr::Internal { trace, .. } = &mut *self.0 {
            let places = places.into_iter().map(|place| Trace {
                doing: place.into(),
                at: Place::Elsewhere(service),
            });
            trace.splice(..0, places);
        }
        self
    }

    /// The business code, or `None` for an internal error.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match &*self.0 {
            Repr::Business { code, .. } => Some(*code),
            Repr::Internal { .. } => None,
        }
    }

    /// True for the business error `code`.
    #[must_use]
    pub fn is(&self, code: Code) -> bool {
        self.code() == Some(code)
    }

    /// The sentence a caller may read; for an internal error it tells nothing of the inside.
    #[must_use]
    pub fn public_message(&self) -> &str {
        match &*self.0 {
            Repr::Business { message, .. } => message,
            Repr::Internal { .. } => "internal error",
        }
    }

    /// The places an internal error passed, innermost first, as `doing (file:line)`, and those in
    /// another service as `its words (service)`.
    #[must_use]
    pub fn trace(&self) -> Vec<String> {
        match &*self.0 {
            Repr::Business { .. } => Vec::new(),
            Repr::Internal { trace, .. } => trace.iter().map(ToString::to_string).collect(),
        }
    }

    /// The same error for one more caller who waited for the same work. The source chain of an
    /// internal error is kept as text.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        match &*self.0 {
            Repr::Business { code, message } => Self::business(*code, message.clone()),
            Repr::Internal { trace, .. } => Self(Box::new(Repr::Internal {
                what: self.to_string().into(),
                source: None,
                trace: trace.clone(),
            })),
        }
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let doing = &self.doing;
        match self.at {
            Place::Here(at) => write!(f, "{doing} ({}:{})", at.file(), at.line()),
            Place::Elsewhere(service) => write!(f, "{doing} ({service})"),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Repr::Business { code, message } => write!(f, "{message} ({})", code.number()),
            Repr::Internal { what, source, .. } => {
                f.write_str(what)?;
                let mut cause: Option<&dyn StdError> = source.as_deref().map(|s| s as _);
                while let Some(error) = cause {
                    write!(f, ": {error}")?;
                    cause = error.source();
                }
                Ok(())
            }
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        for place in self.trace() {
            write!(f, "\n  at {place}")?;
        }
        Ok(())
    }
}

impl StdError for Error {}

/// Turns a foreign error into an internal one, with what was being done.
pub trait ResultExt<T> {
    /// Wraps the error as internal; `doing` says what was being done, without a full stop.
    ///
    /// # Errors
    /// The wrapped error, where there was one.
    fn internal(self, doing: &'static str) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> ResultExt<T> for std::result::Result<T, E> {
    #[track_caller]
    fn internal(self, doing: &'static str) -> Result<T> {
        match self {
            Ok(value) => Ok(value),
            Err(error) => Err(Error::wrap(doing, error)),
        }
    }
}
