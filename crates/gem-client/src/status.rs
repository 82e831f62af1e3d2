//! From what gRPC says to GEM's errors.

use std::error::Error as _;

use gem_proto::v1;
use gem_types::{Code, Error};
use tonic::{ConnectError, Status};
use tonic_types::StatusExt as _;

/// Why an attempt failed, and what that means for the next one.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What to tell the caller if nothing helps.
    pub(crate) error: Error,
    /// The node may have acted on the request.
    pub(crate) outcome_unknown: bool,
    /// Another node may do better.
    pub(crate) moves: bool,
}

impl Failure {
    /// Whether the same request may succeed later.
    pub(crate) fn is_retryable(&self) -> bool {
        is_retryable(self.error.code)
    }

    /// The node did not answer in time.
    pub(crate) fn silent(what: &str, url: &str) -> Self {
        let error = Error::deadline(format!("{what}: {url} did not answer in time; the outcome is unknown"));
        Failure { error, outcome_unknown: true, moves: true }
    }

    /// Reads a status that came back from `url`.
    pub(crate) fn read(what: &str, url: &str, status: &Status) -> Self {
        if let Some(error) = told(status) {
            let moves = error.code == Code::Unavailable;
            let outcome_unknown = matches!(error.code, Code::Deadline | Code::Internal);
            return Failure { error, outcome_unknown, moves };
        }
        if never_connected(status) {
            let detail = format!("{what}: {url} can't be reached; is the node running, and is the URL right?");
            return Failure { error: Error::unavailable(detail, 0), outcome_unknown: false, moves: true };
        }
        if status.source().is_some() {
            // Born in the transport: the connection broke while the request was under way.
            let detail = format!("{what}: the connection to {url} broke; the outcome is unknown");
            return Failure { error: Error::deadline(detail), outcome_unknown: true, moves: true };
        }
        let code = by_grpc_code(status.code());
        let detail = format!("{what}: {url} answered {:?}: {}", status.code(), status.message());
        let error = Error { code, detail, retry_after_ms: None };
        let outcome_unknown = matches!(code, Code::Deadline | Code::Internal);
        Failure { error, outcome_unknown, moves: code == Code::Unavailable || code == Code::Deadline }
    }
}

/// Whether an answer with this code is worth repeating unchanged.
pub(crate) fn is_retryable(code: Code) -> bool {
    matches!(code, Code::Throttled | Code::Unavailable | Code::Deadline)
}

/// A refusal as it stands inside an answer.
pub(crate) fn refusal(refusal: v1::Refusal) -> Error {
    let code = Code::parse(&refusal.code).unwrap_or(Code::Internal);
    Error { code, detail: refusal.detail, retry_after_ms: refusal.retry_after_ms }
}

/// What GEM itself says in the status' details.
fn told(status: &Status) -> Option<Error> {
    let info = status.get_details_error_info()?;
    if info.domain != "gem" {
        return None;
    }
    let code = Code::parse(&info.reason)?;
    let retry_after = status.get_details_retry_info().and_then(|retry| retry.retry_delay);
    let retry_after_ms = retry_after.map(|delay| delay.as_millis() as u64);
    Some(Error { code, detail: status.message().to_owned(), retry_after_ms })
}

fn never_connected(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn by_grpc_code(code: tonic::Code) -> Code {
    use tonic::Code as Grpc;
    match code {
        Grpc::InvalidArgument | Grpc::OutOfRange | Grpc::FailedPrecondition => Code::InvalidArgument,
        Grpc::Unauthenticated => Code::Unauthenticated,
        Grpc::PermissionDenied => Code::PermissionDenied,
        Grpc::NotFound => Code::NotFound,
        Grpc::AlreadyExists => Code::Conflict,
        Grpc::ResourceExhausted => Code::Throttled,
        Grpc::Unimplemented => Code::UnsupportedMediaType,
        Grpc::Unavailable => Code::Unavailable,
        Grpc::DeadlineExceeded | Grpc::Cancelled | Grpc::Aborted => Code::Deadline,
        Grpc::Ok | Grpc::Unknown | Grpc::Internal | Grpc::DataLoss => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;

    #[test]
    fn details_carry_the_code_and_the_pause() {
        let mut details = ErrorDetails::with_error_info("throttled", "gem", HashMap::<String, String>::new());
        details.set_retry_info(Some(Duration::from_millis(250)));
        let status = Status::with_error_details(tonic::Code::ResourceExhausted, "slow down", details);
        let failure = Failure::read("publish", "http://a", &status);
        assert_eq!(failure.error, Error::throttled("slow down", 250));
        assert!(failure.is_retryable() && !failure.outcome_unknown && !failure.moves);
    }

    #[test]
    fn without_details_the_grpc_code_decides() {
        let failure = Failure::read("publish", "http://a", &Status::not_found("no topic"));
        assert_eq!(failure.error.code, Code::NotFound);
        assert!(!failure.is_retryable());
    }
}
