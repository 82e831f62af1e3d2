//! Reading bodies: bounded while they stream, and in time.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use gem_types::{Code, Error, Result};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

/// How long the next piece of a body may take.
const PIECE_WAIT: Duration = Duration::from_secs(30);
/// How long a whole body may take.
const BODY_WAIT: Duration = Duration::from_secs(300);
/// What is read and thrown away of a body that is too large, so that its sender hears why.
const DISCARDED_MAX: usize = 32 << 20;
/// The largest body of a call that is not a publish.
pub const CALL_MAX: usize = 4 << 20;

/// The whole body, at most `max` bytes.
pub async fn read(body: Body, headers: &HeaderMap, max: usize) -> Result<Bytes> {
    let said = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<usize>().ok());
    let slow =
        || Error { code: Code::InvalidArgument, ..Error::invalid("the body did not arrive in time: send it faster") };
    let read = async {
        let mut body = body;
        let mut first: Option<Bytes> = None;
        let mut rest = BytesMut::new();
        let mut size = 0usize;
        let mut over = said.is_some_and(|said| said > max);
        while let Some(frame) = tokio::time::timeout(PIECE_WAIT, body.frame()).await.map_err(|_| slow())? {
            let frame = frame.map_err(|e| Error::invalid(format!("the body broke off: {e}")))?;
            let Ok(piece) = frame.into_data() else { continue };
            size += piece.len();
            over |= size > max;
            if over {
                rest = BytesMut::new();
                first = None;
                if size > max.saturating_add(DISCARDED_MAX) {
                    break;
                }
            } else if let Some(before) = first.take() {
                rest.reserve(said.unwrap_or(0).min(max).max(before.len() + piece.len()));
                rest.extend_from_slice(&before);
                rest.extend_from_slice(&piece);
            } else if rest.is_empty() {
                // Most bodies are of one piece: it is used as it came.
                first = Some(piece);
            } else {
                rest.extend_from_slice(&piece);
            }
        }
        if over {
            return Err(Error::too_large(format!("the body has more than {max} bytes: send less at a time")));
        }
        Ok(first.unwrap_or_else(|| rest.freeze()))
    };
    tokio::time::timeout(BODY_WAIT, read).await.map_err(|_| slow())?
}

/// The body as JSON. An empty body is an empty object, so that calls whose keys are all optional
/// need none.
pub async fn json<T: DeserializeOwned>(body: Body, headers: &HeaderMap) -> Result<T> {
    check_json(headers)?;
    let bytes = read(body, headers, CALL_MAX).await?;
    let text = if bytes.iter().all(u8::is_ascii_whitespace) { b"{}".as_slice() } else { &bytes };
    parse(text)
}

/// JSON as a `T`.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::invalid(format!("the body is not as it should be: {e}")))
}

/// Refuses a body that says it is something else than JSON.
fn check_json(headers: &HeaderMap) -> Result<()> {
    match media_type(headers) {
        Some(kind) if !is_json(&kind) => Err(Error::unsupported_media_type(format!(
            "{kind} is not understood here: send Content-Type: application/json"
        ))),
        _ => Ok(()),
    }
}

/// The media type without its parameters, in lower case; `None` where none is given.
pub fn media_type(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let kind = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    Some(kind).filter(|k| !k.is_empty())
}

/// Whether a media type is JSON (RFC 6839: or built upon it).
pub fn is_json(kind: &str) -> bool {
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || kind == "text/json" || kind.ends_with("+json")
}
