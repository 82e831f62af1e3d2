//! Errors as RFC 9457 has them: `application/problem+json`.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use gem_types::Error;
use serde::Serialize;

use crate::errors::{http_status, retry_after, title};

/// An error on its way out.
#[derive(Debug)]
pub struct Problem(pub Error);

/// A problem whose status is not its code's: HTTP knows more statuses than the contract has codes.
#[derive(Debug)]
struct Document<'a> {
    error: &'a Error,
    status: StatusCode,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Problem(error)
    }
}

impl Problem {
    /// The same under another status.
    pub fn with_status(self, status: StatusCode) -> Response {
        Document { error: &self.0, status }.into_response()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        Document { error: &self.0, status: http_status(self.0.code) }.into_response()
    }
}

impl IntoResponse for Document<'_> {
    fn into_response(self) -> Response {
        let code = self.error.code.as_str();
        let title = if self.status == StatusCode::METHOD_NOT_ALLOWED { "Wrong method" } else { title(self.error.code) };
        let body = Body {
            r#type: format!("urn:gem:error:{code}"),
            title,
            status: self.status.as_u16(),
            detail: &self.error.detail,
            code,
        };
        // A struct of strings and a number always becomes JSON.
        let text = serde_json::to_vec(&body).unwrap_or_default();
        let kind = HeaderValue::from_static("application/problem+json");
        let mut response = (self.status, [(header::CONTENT_TYPE, kind)], text).into_response();
        if let Some(after) = retry_after(self.error) {
            // Whole seconds, never zero: a client that takes it literally must not spin.
            let seconds = after.as_millis().div_ceil(1000).max(1) as u64;
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
