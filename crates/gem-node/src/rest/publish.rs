//! `POST /v1/topics/{topic}/messages`: publishing.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use gem_types::message::CONTENT_TYPE_HEADER;
use gem_types::{Error, Message, Result, TopicName};
use serde::{Deserialize, Serialize};

use super::body::{self, media_type};
use super::json::MessageIn;
use super::problem::Problem;
use super::{App, topic_in};
use crate::gateway::prepare::{Ids, Input};
use crate::gateway::publish::Place;
use crate::gateway::topics::check_writable;

const BATCH: &str = "application/vnd.gem.batch+json";
const HEADER_PREFIX: &str = "gem-header-";
/// What JSON may add to a batch: base64 a third, escapes more.
const JSON_ROOM: usize = 3;

/// Publishes one message, or a batch of them.
pub async fn publish(
    State(app): State<App>,
    path: Path<String>,
    headers: HeaderMap,
    body: Body,
) -> std::result::Result<Response, Problem> {
    let topic = topic_in(path)?;
    check_writable(&topic)?;
    match media_type(&headers).as_deref() {
        Some(BATCH) => Ok(batch(&app, &topic, &headers, body).await?),
        Some(
            kind @ ("application/x-ndjson" | "application/cloudevents+json" | "application/cloudevents-batch+json"),
        ) => {
            let detail = format!("{kind} is not understood yet: send {BATCH}, or one message of another type");
            Err(Problem(Error::unsupported_media_type(detail)))
        }
        _ => Ok(single(&app, &topic, &headers, body).await?),
    }
}

/// A receipt.
#[derive(Debug, Serialize)]
struct Receipt<'a> {
    id: String,
    topic: &'a str,
    partition: u32,
    offset: u64,
    duplicate: bool,
}

impl<'a> Receipt<'a> {
    fn new(topic: &'a TopicName, ids: &Ids, index: usize, place: Place) -> Self {
        Receipt {
            id: ids.text(index, place.partition, place.offset),
            topic: topic.as_str(),
            partition: place.partition,
            offset: place.offset,
            duplicate: place.duplicate,
        }
    }
}

async fn single(app: &App, topic: &TopicName, headers: &HeaderMap, body: Body) -> Result<Response> {
    let limits = app.gateway.settings().limits;
    let mut message = from_headers(headers)?;
    let held = body::read(app, body, headers, limits.max_message).await?;
    message.payload = held.bytes.clone();
    let published = app.gateway.publish(topic, Input::Messages(vec![message]), None).await?;
    let outcome = published.places.into_each().pop();
    let place = outcome.unwrap_or_else(|| Err(Error::internal("the message got no answer")))?;
    Ok((StatusCode::CREATED, Json(Receipt::new(topic, &published.ids, 0, place))).into_response())
}

/// Key, id and headers of a single message.
fn from_headers(headers: &HeaderMap) -> Result<Message> {
    let mut message = Message::default();
    let text = |name: &str, value: &header::HeaderValue| match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(Error::invalid(format!("the header {name} is not UTF-8"))),
    };
    for name in ["gem-key", "gem-id"] {
        if headers.get_all(name).iter().count() > 1 {
            return Err(Error::invalid(format!("the header {name} stands more than once")));
        }
    }
    if let Some(key) = headers.get("gem-key") {
        message.key = Some(Bytes::from(text("Gem-Key", key)?));
    }
    if let Some(id) = headers.get("gem-id") {
        message.id = Some(text("Gem-Id", id)?);
    }
    if let Some(kind) = headers.get(header::CONTENT_TYPE) {
        message.headers.push((CONTENT_TYPE_HEADER.to_owned(), Bytes::from(text("Content-Type", kind)?)));
    }
    for (name, value) in headers {
        // Header names come in lower case.
        match name.as_str().strip_prefix(HEADER_PREFIX) {
            Some(CONTENT_TYPE_HEADER) => {
                return Err(Error::invalid("the content type stands in Content-Type, not in Gem-Header-Content-Type"));
            }
            Some(short) => message.headers.push((short.to_owned(), Bytes::from(text(name.as_str(), value)?))),
            None => {}
        }
    }
    Ok(message)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchIn<'a> {
    #[serde(borrow)]
    messages: Vec<MessageIn<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Outcome<'a> {
    Stored(Receipt<'a>),
    Refused { error: Refusal },
}

#[derive(Debug, Serialize)]
struct Refusal {
    code: &'static str,
    detail: String,
}

#[derive(Debug, Serialize)]
struct BatchOut<'a> {
    results: Vec<Outcome<'a>>,
}

async fn batch(app: &App, topic: &TopicName, headers: &HeaderMap, body: Body) -> Result<Response> {
    let limits = app.gateway.settings().limits;
    let held = body::read(app, body, headers, JSON_ROOM * limits.max_batch + (1 << 20)).await?;
    let parsed: BatchIn<'_> = serde_json::from_slice(&held.bytes)
        .map_err(|e| Error::invalid(format!("the batch is not as it should be: {e}")))?;
    let numbered = |(index, message): (usize, MessageIn<'_>)| {
        message
            .into_message()
            .map_err(|e| Error { detail: format!("message {index} (counted from 0): {}", e.detail), ..e })
    };
    let messages = parsed.messages.into_iter().enumerate().map(numbered).collect::<Result<Vec<_>>>()?;
    let published = app.gateway.publish(topic, Input::Messages(messages), None).await?;
    let outcome = |(index, place): (usize, Result<Place>)| match place {
        Ok(place) => Outcome::Stored(Receipt::new(topic, &published.ids, index, place)),
        Err(error) => Outcome::Refused { error: Refusal { code: error.code.as_str(), detail: error.detail } },
    };
    let results: Vec<_> = published.places.into_each().into_iter().enumerate().map(outcome).collect();
    let all_stored = results.iter().all(|r| matches!(r, Outcome::Stored(_)));
    let status = if all_stored { StatusCode::CREATED } else { StatusCode::MULTI_STATUS };
    Ok((status, Json(BatchOut { results })).into_response())
}
