//! `GET /v1/topics/{topic}/messages`: reading without a group.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Response};
use gem_types::TopicName;
use serde::{Deserialize, Serialize};

use super::json::MessageOut;
use super::problem::Problem;
use super::topics::number;
use super::{App, query, topic_in};
use crate::gateway::read::Item;
use crate::gateway::{limits, start};

/// About the most bytes of messages in one answer.
pub(super) const ANSWER_BYTES: usize = 8 << 20;

#[derive(Debug, Deserialize)]
struct ReadQuery {
    from: Option<String>,
    cursor: Option<String>,
    limit: Option<String>,
    wait_ms: Option<String>,
}

/// Messages and where to go on.
#[derive(Serialize)]
struct Page<'a> {
    messages: Vec<MessageOut<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

/// Answers messages as JSON, with a cursor where there is one.
pub(super) fn page(topic: &TopicName, items: &[Item], cursor: Option<String>) -> Response {
    let messages = items.iter().map(|item| MessageOut::new(topic, item)).collect();
    match serde_json::to_vec(&Page { messages, cursor }) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => Problem(gem_types::Error::internal(error.to_string())).into_response(),
    }
}

/// Reads.
pub async fn read(State(app): State<App>, path: Path<String>, uri: Uri) -> Result<Response, Problem> {
    let name = topic_in(path)?;
    let asked: ReadQuery = query(&uri)?;
    let limit = limits::MESSAGES.of(number("limit", asked.limit.as_deref())?)?;
    let wait = limits::READ_WAIT_MS.of(number("wait_ms", asked.wait_ms.as_deref())?)?;
    let from = asked.from.as_deref().map(start::parse).transpose()?;
    let topic = app.gateway.topic(&name).await?;
    let mut cursor = app.gateway.begin(&topic, from, asked.cursor.as_deref()).await?;
    let wait = Duration::from_millis(wait);
    let items = app.gateway.read(&topic, &mut cursor, limit as usize, ANSWER_BYTES, wait).await?;
    Ok(page(&name, &items, Some(cursor.encode(&name))))
}
