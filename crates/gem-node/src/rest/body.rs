//! Reading bodies: bounded while they stream, and in time.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use gem_types::{Error, Result};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use super::App;
use crate::gateway::admission::Admitted;

/// How long the next piece of a body may take.
const PIECE_WAIT: Duration = Duration::from_secs(30);
/// How long a whole body may take.
const BODY_WAIT: Duration = Duration::from_secs(300);
/// What is read and thrown away of a body that is too large, so that its sender hears why.
const DISCARDED_MAX: usize = 32 << 20;
/// How much room a body of unknown length takes at a time.
const CHARGE_STEP: usize = 64 << 10;
/// The largest body of a call that is not a publish.
pub const CALL_MAX: usize = 4 << 20;

/// A body, and the room that it takes in the memory budget.
#[derive(Debug)]
pub struct Held {
    /// The bytes.
    pub bytes: Bytes,
    _room: Vec<Admitted>,
}

/// What has come of a body so far.
#[derive(Default)]
struct Coming {
    /// Most bodies are of one piece: it is used as it came.
    first: Option<Bytes>,
    rest: BytesMut,
    size: usize,
    charged: usize,
    room: Vec<Admitted>,
}

/// The whole body, at most `max` bytes, charged to the memory budget as it comes.
pub async fn read(app: &App, body: Body, headers: &HeaderMap, max: usize) -> Result<Held> {
    let slow = || Error::invalid("the body did not arrive in time: send it faster");
    tokio::time::timeout(BODY_WAIT, read_pieces(app, body, headers, max)).await.map_err(|_| slow())?
}

async fn read_pieces(app: &App, mut body: Body, headers: &HeaderMap, max: usize) -> Result<Held> {
    let said = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<usize>().ok());
    let slow = || Error::invalid("the body stopped coming: send it without pauses");
    let mut coming = Coming::default();
    let mut refusal = said.filter(|said| *said > max).map(|_| too_large(max));
    while let Some(frame) = tokio::time::timeout(PIECE_WAIT, body.frame()).await.map_err(|_| slow())? {
        let frame = frame.map_err(|e| Error::invalid(format!("the body broke off: {e}")))?;
        let Ok(piece) = frame.into_data() else { continue };
        coming.size += piece.len();
        if refusal.is_none() && coming.size > max {
            refusal = Some(too_large(max));
        }
        if refusal.is_none() {
            refusal = coming.take(app, piece, said).await.err();
        }
        if refusal.is_some() {
            // Read and thrown away, so that its sender hears why: many clients do not listen
            // before they have sent everything.
            coming = Coming { size: coming.size, ..Coming::default() };
            if coming.size > max.saturating_add(DISCARDED_MAX) {
                break;
            }
        }
    }
    match refusal {
        Some(refusal) => Err(refusal),
        None => Ok(Held { bytes: coming.first.unwrap_or_else(|| coming.rest.freeze()), _room: coming.room }),
    }
}

impl Coming {
    async fn take(&mut self, app: &App, piece: Bytes, said: Option<usize>) -> Result<()> {
        if self.size > self.charged {
            let want =
                said.unwrap_or(0).max(self.size).max(self.charged + CHARGE_STEP.min(said.unwrap_or(CHARGE_STEP)));
            let more = app.gateway.admission.admit(want - self.charged).await;
            self.room.push(more.inspect_err(|_| app.gateway.metrics.throttled.add(1))?);
            self.charged = want;
        }
        match self.first.take() {
            None if self.rest.is_empty() => self.first = Some(piece),
            before => {
                let before = before.unwrap_or_default();
                if self.rest.is_empty() {
                    self.rest.reserve(said.unwrap_or(0).max(before.len() + piece.len()));
                }
                self.rest.extend_from_slice(&before);
                self.rest.extend_from_slice(&piece);
            }
        }
        Ok(())
    }
}

fn too_large(max: usize) -> Error {
    Error::too_large(format!("the body has more than {max} bytes: send less at a time"))
}

/// The body as JSON. An empty body is an empty object, so that calls whose keys are all optional
/// need none.
pub async fn json<T: DeserializeOwned>(app: &App, body: Body, headers: &HeaderMap) -> Result<T> {
    check_json(headers)?;
    let held = read(app, body, headers, CALL_MAX).await?;
    let bytes = &held.bytes;
    let text = if bytes.iter().all(u8::is_ascii_whitespace) { b"{}".as_slice() } else { bytes };
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
