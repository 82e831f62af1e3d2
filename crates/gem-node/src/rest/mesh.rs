//! `/v1/mesh`.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::{App, body};
use crate::gateway::mesh::{MeshStatus, NodeStatus, ShardStatus};

type Answer<T> = Result<T, Problem>;

/// `GET`: the mesh at a glance.
pub async fn status(State(app): State<App>) -> Answer<Json<MeshStatus>> {
    Ok(Json(app.gateway.mesh()?.status()))
}

/// All nodes.
#[derive(Debug, Serialize)]
pub struct Nodes {
    nodes: Vec<NodeStatus>,
}

/// `GET …/nodes`.
pub async fn nodes(State(app): State<App>) -> Answer<Json<Nodes>> {
    Ok(Json(Nodes { nodes: app.gateway.mesh()?.nodes() }))
}

/// All shards.
#[derive(Debug, Serialize)]
pub struct Shards {
    shards: Vec<ShardStatus>,
}

/// `GET …/shards`.
pub async fn shards(State(app): State<App>) -> Answer<Json<Shards>> {
    Ok(Json(Shards { shards: app.gateway.mesh()?.shards() }))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Drain {
    cancel: bool,
}

/// `POST …/nodes/{node}/drain`.
pub async fn drain(
    State(app): State<App>,
    Path(node): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Json<NodeStatus>> {
    let Drain { cancel } = body::json(&app, body, &headers).await?;
    Ok(Json(app.gateway.drain_node(&node, cancel).await?))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Remove {
    accept_data_loss: bool,
}

/// `POST …/nodes/{node}/remove`.
pub async fn remove(
    State(app): State<App>,
    Path(node): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer<StatusCode> {
    let Remove { accept_data_loss } = body::json(&app, body, &headers).await?;
    app.gateway.remove_node(&node, accept_data_loss).await?;
    Ok(StatusCode::NO_CONTENT)
}
