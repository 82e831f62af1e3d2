//! Errors as gRPC has them: a status with `google.rpc.ErrorInfo` and `RetryInfo`.

use std::collections::HashMap;
use std::time::Duration;

use axum::response::Response;
use gem_proto::v1;
use gem_types::Error;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
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

/// What the transport says of a request that is too large, in the contract's words. The transport
/// has a code for that which the gateway never uses.
pub fn too_large(told: &Status) -> Option<Error> {
    let error = || {
        Error::too_large(format!(
            "the request is too large ({}): send less at once, or raise max_batch",
            told.message()
        ))
    };
    (told.code() == Code::OutOfRange).then(error)
}

/// As [`too_large`], for requests that the transport refuses before a service sees them.
pub async fn map_response(response: Response) -> Response {
    let refused = Status::from_header_map(response.headers()).and_then(|told| too_large(&told));
    refused.map_or(response, |error| status(error).into_http())
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

    #[tokio::test]
    async fn what_the_transport_finds_too_large_is_called_so() {
        let found = || Status::out_of_range("found 9 bytes, the limit is: 4 bytes");
        let told = Status::from_header_map(map_response(found().into_http()).await.headers()).unwrap();
        for told in [told, status(too_large(&found()).unwrap())] {
            assert_eq!(told.code(), Code::ResourceExhausted);
            assert_eq!(told.get_error_details().error_info().unwrap().reason, "too_large");
        }
        let other = map_response(Status::not_found("x").into_http()).await;
        assert_eq!(Status::from_header_map(other.headers()).unwrap().code(), Code::NotFound);
    }

    #[test]
    fn a_timeout_is_read() {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", "1500m".parse().unwrap());
        assert_eq!(caller_waits(&metadata), Some(Duration::from_millis(1500)));
    }
}
