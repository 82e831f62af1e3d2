//! REST: the contract's HTTP calls, thin over the gateway.

pub mod body;
pub mod groups;
pub mod health;
pub mod json;
pub mod mesh;
pub mod messages;
pub mod problem;
pub mod publish;
pub mod topics;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request};
use axum::http::Uri;
use axum::response::Response;
use axum::routing::{get, post, put};
use gem_types::{Error, GroupName, Result, TopicName};
use serde::de::DeserializeOwned;

use crate::gateway::Gateway;
use crate::ready::{Ready, is_starting};
use problem::Problem;

/// What every handler knows.
#[derive(Clone, Debug)]
pub struct App {
    /// The gateway.
    pub gateway: Arc<Gateway>,
    /// Whether the node takes traffic.
    pub ready: Arc<Ready>,
}

/// All routes.
pub fn routes(app: App) -> Router {
    let topic = put(topics::create).get(topics::show).patch(topics::alter).delete(topics::delete);
    let group = get(groups::show).delete(groups::delete);
    Router::new()
        .route("/healthz", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/v1/topics", get(topics::list))
        .route("/v1/topics/{topic}", topic)
        .route("/v1/topics/{topic}/purge", post(topics::purge))
        .route("/v1/topics/{topic}/messages", post(publish::publish).get(messages::read))
        .route("/v1/topics/{topic}/groups", get(groups::list))
        .route("/v1/topics/{topic}/groups/{group}", group)
        .route("/v1/topics/{topic}/groups/{group}/pull", post(groups::pull))
        .route("/v1/topics/{topic}/groups/{group}/ack", post(groups::ack))
        .route("/v1/topics/{topic}/groups/{group}/nack", post(groups::nack))
        .route("/v1/topics/{topic}/groups/{group}/extend", post(groups::extend))
        .route("/v1/topics/{topic}/groups/{group}/heartbeat", post(groups::heartbeat))
        .route("/v1/topics/{topic}/groups/{group}/seek", post(groups::seek))
        .route("/v1/mesh", get(mesh::status))
        .route("/v1/mesh/nodes", get(mesh::nodes))
        .route("/v1/mesh/shards", get(mesh::shards))
        .route("/v1/mesh/nodes/{node}/drain", post(mesh::drain))
        .route("/v1/mesh/nodes/{node}/remove", post(mesh::remove))
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .with_state(app)
}

/// What is answered while the node starts.
pub fn starting() -> Router {
    Router::new().route("/healthz", get(health::live)).fallback(async || Problem(is_starting()))
}

async fn no_such_path(uri: Uri) -> Problem {
    Problem(Error::not_found(format!("there is nothing at {}: see the API's paths under /v1", uri.path())))
}

async fn wrong_method(request: Request) -> Response {
    let detail = format!("{} cannot be done to {}: see Allow", request.method(), request.uri().path());
    // The code is the nearest of the contract's; the status is HTTP's own.
    Problem(Error::invalid(detail)).with_status(axum::http::StatusCode::METHOD_NOT_ALLOWED)
}

/// The topic's name in a path.
fn topic_in(Path(topic): Path<String>) -> Result<TopicName> {
    TopicName::new(&topic)
}

/// The topic's and the group's names in a path.
fn group_in(Path((topic, group)): Path<(String, String)>) -> Result<(TopicName, GroupName)> {
    Ok((TopicName::new(&topic)?, GroupName::new(&group)?))
}

/// The query's parameters.
fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T> {
    match axum::extract::Query::<T>::try_from_uri(uri) {
        Ok(query) => Ok(query.0),
        Err(error) => Err(Error::invalid(format!("the query is wrong: {}", error.body_text()))),
    }
}
