//! `/v1/topics`.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use gem_shard::log::{Ordering, TopicChange, TopicConfig};
use gem_types::Error;
use serde::{Deserialize, Deserializer, Serialize};

use super::json::TopicOut;
use super::problem::Problem;
use super::{App, body, query, topic_in};
use crate::gateway::limits;

type Answer<T> = Result<T, Problem>;

/// `PUT`: creates.
pub async fn create(
    State(app): State<App>,
    path: Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer<(StatusCode, Json<TopicOut>)> {
    let name = topic_in(path)?;
    let config: TopicConfig = body::json(&app, body, &headers).await?;
    let (state, created) = app.gateway.create_topic(&name, config).await?;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(state.into())))
}

/// `GET`: the topic object.
pub async fn show(State(app): State<App>, path: Path<String>) -> Answer<Json<TopicOut>> {
    Ok(Json(app.gateway.show_topic(&topic_in(path)?).await?.into()))
}

/// The keys of a `PATCH`: one that is there has a value, and only the limit may be `null`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Changes {
    #[serde(deserialize_with = "given")]
    retention_ms: Option<u64>,
    #[serde(deserialize_with = "given")]
    retention_bytes: Option<Option<u64>>,
    #[serde(deserialize_with = "given")]
    max_deliveries: Option<u32>,
    #[serde(deserialize_with = "given")]
    ack_timeout_ms: Option<u64>,
    #[serde(deserialize_with = "given")]
    ordering: Option<Ordering>,
    #[serde(deserialize_with = "given")]
    dedup_window_ms: Option<u64>,
}

fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(value: D) -> Result<Option<T>, D::Error> {
    T::deserialize(value).map(Some)
}

/// `PATCH`: changes the keys given.
pub async fn alter(
    State(app): State<App>,
    path: Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Json<TopicOut>> {
    let name = topic_in(path)?;
    let changes: Changes = body::json(&app, body, &headers).await?;
    let change = TopicChange {
        retention_ms: changes.retention_ms,
        retention_bytes: changes.retention_bytes,
        max_deliveries: changes.max_deliveries,
        ack_timeout_ms: changes.ack_timeout_ms,
        ordering: changes.ordering,
        dedup_window_ms: changes.dedup_window_ms,
    };
    Ok(Json(app.gateway.alter_topic(&name, change).await?.into()))
}

/// `DELETE`.
pub async fn delete(State(app): State<App>, path: Path<String>) -> Answer<StatusCode> {
    app.gateway.delete_topic(&topic_in(path)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST …/purge`.
pub async fn purge(State(app): State<App>, path: Path<String>) -> Answer<StatusCode> {
    app.gateway.purge_topic(&topic_in(path)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize)]
struct ListQuery {
    #[serde(default)]
    prefix: String,
    limit: Option<String>,
    cursor: Option<String>,
}

/// A page of topics.
#[derive(Debug, Serialize)]
pub struct Page {
    topics: Vec<TopicOut>,
    cursor: Option<String>,
}

/// `GET /v1/topics`.
pub async fn list(State(app): State<App>, uri: Uri) -> Answer<Json<Page>> {
    let asked: ListQuery = query(&uri)?;
    let limit = limits::TOPICS.of(number("limit", asked.limit.as_deref())?)?;
    let (states, cursor) = app.gateway.list_topics(&asked.prefix, limit as usize, asked.cursor.as_deref()).await?;
    Ok(Json(Page { topics: states.into_iter().map(TopicOut::from).collect(), cursor }))
}

/// A number in a query.
pub(super) fn number(name: &str, text: Option<&str>) -> Result<Option<u64>, Error> {
    let parse =
        |text: &str| text.parse().map_err(|_| Error::invalid(format!("{name} is {text:?}: give a whole number")));
    text.map(parse).transpose()
}
