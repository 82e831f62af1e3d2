//! Whether the node lives, takes traffic, and what it counts.

use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::App;
use super::problem::Problem;
use crate::gateway::Gateway;
use crate::metrics::Lag;

/// How long `/metrics` waits for what groups lag behind.
const LAG_WAIT: Duration = Duration::from_millis(500);

/// `GET /healthz`.
pub async fn live() -> &'static str {
    "live\n"
}

/// `GET /readyz`.
pub async fn ready(State(app): State<App>) -> Result<&'static str, Problem> {
    app.ready.check()?;
    Ok("ready\n")
}

/// `GET /metrics`.
pub async fn metrics(State(app): State<App>) -> Response {
    // Where a shard is slow, the page shows what was known before.
    if let Ok(lags) = tokio::time::timeout(LAG_WAIT, lags(&app.gateway)).await {
        app.gateway.metrics.set_lags(lags);
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.gateway.metrics.render()).into_response()
}

async fn lags(gateway: &Gateway) -> Vec<Lag> {
    let mut lags = Vec::new();
    for topic in gateway.metrics.busiest() {
        for group in gateway.groups(&topic).await.unwrap_or_default() {
            lags.push(Lag {
                topic: topic.as_str().to_owned(),
                group: group.group.as_str().to_owned(),
                messages: group.lag,
            });
        }
    }
    lags
}
