//! The public errors: one code each, the same on every interface.
//!
//! An [`Error`] says what happened, where, and what to do. Every code but
//! [`Code::Deadline`] and [`Code::Internal`] means: not stored, and never will be.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of refusal or failure this is. The contract's table maps each to HTTP and gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request itself is wrong; repeating it unchanged is useless.
    InvalidArgument,
    /// No valid credentials.
    Unauthenticated,
    /// Credentials without the right.
    PermissionDenied,
    /// The named thing is not there.
    NotFound,
    /// The request contradicts what stands.
    Conflict,
    /// Over a limit on size.
    TooLarge,
    /// The content type is not understood.
    UnsupportedMediaType,
    /// Refused for now, to protect what is already taken in; retry after the given time.
    Throttled,
    /// A fault of GEM's own. The outcome is unknown.
    Internal,
    /// The shard cannot serve now: no quorum, starting, draining, disk. Retry after the given time.
    Unavailable,
    /// The outcome is unknown: retry with the same id.
    Deadline,
}

impl Code {
    /// Every code, for tables and tests.
    pub const ALL: [Code; 11] = [
        Code::InvalidArgument,
        Code::Unauthenticated,
        Code::PermissionDenied,
        Code::NotFound,
        Code::Conflict,
        Code::TooLarge,
        Code::UnsupportedMediaType,
        Code::Throttled,
        Code::Internal,
        Code::Unavailable,
        Code::Deadline,
    ];

    /// The code as it stands in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::InvalidArgument => "invalid_argument",
            Code::Unauthenticated => "unauthenticated",
            Code::PermissionDenied => "permission_denied",
            Code::NotFound => "not_found",
            Code::Conflict => "conflict",
            Code::TooLarge => "too_large",
            Code::UnsupportedMediaType => "unsupported_media_type",
            Code::Throttled => "throttled",
            Code::Internal => "internal",
            Code::Unavailable => "unavailable",
            Code::Deadline => "deadline",
        }
    }

    /// The code written `text`.
    pub fn parse(text: &str) -> Option<Code> {
        Code::ALL.into_iter().find(|code| code.as_str() == text)
    }

    /// Whether the same request may succeed later without being changed.
    pub fn is_retryable(self) -> bool {
        matches!(self, Code::Throttled | Code::Unavailable | Code::Deadline | Code::Internal)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal or failure as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Error {
    /// The kind.
    pub code: Code,
    /// What happened, where, and what to do: one sentence or two.
    pub detail: String,
    /// When to retry, in milliseconds, where that is known.
    pub retry_after_ms: Option<u64>,
}

/// The result of anything a client may ask for.
pub type Result<T> = std::result::Result<T, Error>;

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $code:ident;)*) => {
        impl Error {
            $($(#[$doc])*
            pub fn $name(detail: impl Into<String>) -> Self {
                Error { code: Code::$code, detail: detail.into(), retry_after_ms: None }
            })*
        }
    };
}

constructors! {
    /// The request itself is wrong.
    invalid => InvalidArgument;
    /// The named thing is not there.
    not_found => NotFound;
    /// The request contradicts what stands.
    conflict => Conflict;
    /// Over a limit on size.
    too_large => TooLarge;
    /// The content type is not understood.
    unsupported_media_type => UnsupportedMediaType;
    /// The caller may not do this.
    permission_denied => PermissionDenied;
    /// A fault of GEM's own; the outcome is unknown.
    internal => Internal;
    /// The outcome is unknown: retry with the same id.
    deadline => Deadline;
}

impl Error {
    /// Refused for now; retry after `retry_after_ms`.
    pub fn throttled(detail: impl Into<String>, retry_after_ms: u64) -> Self {
        Error { code: Code::Throttled, detail: detail.into(), retry_after_ms: Some(retry_after_ms) }
    }

    /// Cannot serve now; retry after `retry_after_ms`.
    pub fn unavailable(detail: impl Into<String>, retry_after_ms: u64) -> Self {
        Error { code: Code::Unavailable, detail: detail.into(), retry_after_ms: Some(retry_after_ms) }
    }
}
