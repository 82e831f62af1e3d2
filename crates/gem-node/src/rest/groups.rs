//! `/v1/topics/{topic}/groups`.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use gem_shard::log::{Mode, Status, Verb};
use gem_types::Error;
use serde::{Deserialize, Serialize};

use super::json::GroupOut;
use super::messages::{ANSWER_BYTES, page};
use super::problem::Problem;
use super::{App, body, group_in, topic_in};
use crate::gateway::groups::Want;
use crate::gateway::{limits, start};

type Answer<T> = std::result::Result<T, Problem>;
type InPath = Path<(String, String)>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PullIn {
    consumer: String,
    max: Option<u64>,
    wait_ms: Option<u64>,
    from: Option<String>,
    mode: Option<Mode>,
}

/// `POST …/pull`.
pub async fn pull(State(app): State<App>, path: InPath, headers: HeaderMap, body: Body) -> Answer<Response> {
    let (topic, group) = group_in(path)?;
    let asked: PullIn = body::json(&app, body, &headers).await?;
    let max = limits::MESSAGES.of(asked.max)?;
    let wait = limits::PULL_WAIT_MS.of(asked.wait_ms)?;
    let from = asked.from.as_deref().map(start::parse).transpose()?;
    let want = Want { topic, group, consumer: asked.consumer, mode: asked.mode, from, stream: None };
    let items = app.gateway.pull(&want, max as usize, ANSWER_BYTES, Duration::from_millis(wait)).await?;
    Ok(page(&want.topic, &items, None))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AckIn {
    tokens: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NackIn {
    tokens: Vec<String>,
    delay_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExtendIn {
    tokens: Vec<String>,
    by_ms: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Settled {
    token: String,
    status: Status,
}

/// What became of tokens, in order.
#[derive(Debug, Serialize)]
pub struct SettledAll {
    results: Vec<Settled>,
}

/// `POST …/ack`.
pub async fn ack(State(app): State<App>, path: InPath, headers: HeaderMap, body: Body) -> Answer<Json<SettledAll>> {
    let asked: AckIn = body::json(&app, body, &headers).await?;
    settle(&app, path, asked.tokens, Verb::Ack).await
}

/// `POST …/nack`.
pub async fn nack(State(app): State<App>, path: InPath, headers: HeaderMap, body: Body) -> Answer<Json<SettledAll>> {
    let asked: NackIn = body::json(&app, body, &headers).await?;
    let delay_ms = limits::DELAY_MS.of(asked.delay_ms)?;
    settle(&app, path, asked.tokens, Verb::Nack { delay_ms }).await
}

/// `POST …/extend`.
pub async fn extend(State(app): State<App>, path: InPath, headers: HeaderMap, body: Body) -> Answer<Json<SettledAll>> {
    let asked: ExtendIn = body::json(&app, body, &headers).await?;
    let by_ms = limits::BY_MS.of(asked.by_ms)?;
    settle(&app, path, asked.tokens, Verb::Extend { by_ms }).await
}

async fn settle(app: &App, path: InPath, tokens: Vec<String>, verb: Verb) -> Answer<Json<SettledAll>> {
    let (topic, group) = group_in(path)?;
    if tokens.len() > limits::TOKENS_MAX {
        let detail = format!("{} tokens; at most {} are allowed at a time", tokens.len(), limits::TOKENS_MAX);
        return Err(Problem(Error::invalid(detail)));
    }
    let verbs = Arc::new(tokens.iter().map(|token| (token.clone(), verb)).collect());
    let statuses = app.gateway.settle(&topic, &group, verbs).await?;
    let results = tokens.into_iter().zip(statuses).map(|(token, status)| Settled { token, status }).collect();
    Ok(Json(SettledAll { results }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeartbeatIn {
    consumer: String,
}

/// How many leases a heartbeat extended.
#[derive(Debug, Serialize)]
pub struct Leases {
    leases: u64,
}

/// `POST …/heartbeat`.
pub async fn heartbeat(State(app): State<App>, path: InPath, headers: HeaderMap, body: Body) -> Answer<Json<Leases>> {
    let (topic, group) = group_in(path)?;
    let asked: HeartbeatIn = body::json(&app, body, &headers).await?;
    Ok(Json(Leases { leases: app.gateway.heartbeat(&topic, &group, &asked.consumer).await? }))
}

/// The groups of a topic.
#[derive(Debug, Serialize)]
pub struct Groups {
    groups: Vec<GroupOut>,
}

/// `GET …/groups`.
pub async fn list(State(app): State<App>, path: Path<String>) -> Answer<Json<Groups>> {
    let groups = app.gateway.groups(&topic_in(path)?).await?;
    Ok(Json(Groups { groups: groups.into_iter().map(GroupOut::from).collect() }))
}

/// `GET …/groups/{group}`.
pub async fn show(State(app): State<App>, path: InPath) -> Answer<Json<GroupOut>> {
    let (topic, group) = group_in(path)?;
    Ok(Json(app.gateway.group(&topic, &group).await?.into()))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SeekIn {
    to: String,
}

/// `POST …/seek`.
pub async fn seek(State(app): State<App>, path: InPath, headers: HeaderMap, body: Body) -> Answer<Json<GroupOut>> {
    let (topic, group) = group_in(path)?;
    let asked: SeekIn = body::json(&app, body, &headers).await?;
    let to = start::parse(&asked.to)?;
    Ok(Json(app.gateway.seek(&topic, &group, to).await?.into()))
}

/// `DELETE …/groups/{group}`.
pub async fn delete(State(app): State<App>, path: InPath) -> Answer<StatusCode> {
    let (topic, group) = group_in(path)?;
    app.gateway.delete_group(&topic, &group).await?;
    Ok(StatusCode::NO_CONTENT)
}
