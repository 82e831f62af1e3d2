//! The one mapping of a [`Code`] to what each interface says.

use std::time::Duration;

use axum::http::StatusCode;
use gem_types::{Code, Error};

/// The status over HTTP.
pub fn http_status(code: Code) -> StatusCode {
    match code {
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::Conflict => StatusCode::CONFLICT,
        Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Code::Throttled => StatusCode::TOO_MANY_REQUESTS,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Deadline => StatusCode::GATEWAY_TIMEOUT,
    }
}

/// The code over gRPC.
pub fn grpc_code(code: Code) -> tonic::Code {
    match code {
        Code::InvalidArgument => tonic::Code::InvalidArgument,
        Code::Unauthenticated => tonic::Code::Unauthenticated,
        Code::PermissionDenied => tonic::Code::PermissionDenied,
        Code::NotFound => tonic::Code::NotFound,
        Code::Conflict => tonic::Code::AlreadyExists,
        Code::TooLarge | Code::Throttled => tonic::Code::ResourceExhausted,
        Code::UnsupportedMediaType => tonic::Code::Unimplemented,
        Code::Internal => tonic::Code::Internal,
        Code::Unavailable => tonic::Code::Unavailable,
        Code::Deadline => tonic::Code::DeadlineExceeded,
    }
}

/// One short phrase that is the same for every error of a code.
pub fn title(code: Code) -> &'static str {
    match code {
        Code::InvalidArgument => "The request is wrong",
        Code::Unauthenticated => "Credentials are missing",
        Code::PermissionDenied => "Not allowed",
        Code::NotFound => "Not found",
        Code::Conflict => "Contradicts what stands",
        Code::TooLarge => "Too large",
        Code::UnsupportedMediaType => "Unsupported media type",
        Code::Throttled => "Too much at once",
        Code::Internal => "Internal error",
        Code::Unavailable => "Cannot serve now",
        Code::Deadline => "Outcome unknown",
    }
}

/// When to come back; every `throttled` and `unavailable` says so, and no other.
pub fn retry_after(error: &Error) -> Option<Duration> {
    match error.code {
        Code::Throttled | Code::Unavailable => Some(Duration::from_millis(error.retry_after_ms.unwrap_or(1000))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_stands_where_the_contract_puts_it() {
        let table: Vec<_> = Code::ALL.iter().map(|c| (http_status(*c).as_u16(), grpc_code(*c) as i32)).collect();
        let expected = [
            (400, 3),
            (401, 16),
            (403, 7),
            (404, 5),
            (409, 6),
            (413, 8),
            (415, 12),
            (429, 8),
            (500, 13),
            (503, 14),
            (504, 4),
        ];
        assert_eq!(table, expected);
    }

    #[test]
    fn only_refusals_for_now_name_a_time() {
        assert!(retry_after(&Error::unavailable("x", 250)).is_some());
        assert!(retry_after(&Error::invalid("x")).is_none());
    }
}
