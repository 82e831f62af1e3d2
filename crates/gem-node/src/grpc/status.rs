//! Errors as gRPC has them: a status with `google.rpc.ErrorInfo` and `RetryInfo`.

use std::collections::HashMap;
use std::time::Duration;

use gem_proto::v1;
use gem_types::Error;
use tonic::Status;
use tonic::metadata::MetadataMap;
use tonic_types::{ErrorDetails, StatusExt};

use crate::errors::{grpc_code, retry_after};

/// The status of `error`.
pub fn status(error: Error) -> Status {
    let mut details = ErrorDetails::with_error_info(error.code.as_str(), "gem", HashMap::<String, String>::new());
    if let Some(after) = retry_after(&error) {
        details.set_retry_info(Some(after));
    }
    Status::with_error_details(grpc_code(error.code), error.detail, details)
}

/// `error` as one message's outcome.
pub fn refusal(error: Error) -> v1::Refusal {
    let retry_after_ms = retry_after(&error).map(|after| after.as_millis() as u64);
    v1::Refusal { code: error.code.as_str().to_owned(), detail: error.detail, retry_after_ms }
}

/// How long the caller waits, where it says so (`grpc-timeout`).
pub fn caller_waits(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount.checked_mul(3600)?)),
        "M" => Some(Duration::from_secs(amount.checked_mul(60)?)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::StatusExt;

    #[test]
    fn a_status_tells_the_code_and_when_to_retry() {
        let told = status(Error::throttled("slower", 250));
        assert_eq!(told.code(), tonic::Code::ResourceExhausted);
        let details = told.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.domain.as_str(), info.reason.as_str()), ("gem", "throttled"));
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_millis(250)));
    }

    #[test]
    fn a_timeout_is_read() {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", "1500m".parse().unwrap());
        assert_eq!(caller_waits(&metadata), Some(Duration::from_millis(1500)));
    }
}
