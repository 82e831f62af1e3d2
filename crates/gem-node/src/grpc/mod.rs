//! gRPC `gem.v1`: thin services over the gateway, with health and reflection.

pub mod admin;
pub mod convert;
mod encode;
mod mesh;
pub mod publisher;
pub mod status;
mod stored;
pub mod subscriber;

use std::sync::Arc;

use gem_proto::server::admin_server::AdminServer;
use gem_proto::server::publisher_server::PublisherServer;
use gem_proto::server::subscriber_server::SubscriberServer;
use gem_proto::v1;
use tonic::service::Routes;

use crate::gateway::Gateway;

/// How much larger than `max_batch` a request may be: what ids, names and framing add.
const ROOM: usize = 2;

/// What is answered while the node starts.
pub fn starting() -> axum::Router {
    axum::Router::new().fallback(async || status::status(crate::ready::is_starting()).into_http::<axum::body::Body>())
}

/// All services, as one router. Health says *not serving* once the gateway drains.
pub async fn routes(gateway: Arc<Gateway>) -> axum::Router {
    let limits = gateway.settings().limits;
    let largest = ROOM * limits.max_batch.max(limits.max_message) + (1 << 20);
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<PublisherServer<publisher::PublisherService>>().await;
    reporter.set_serving::<SubscriberServer<subscriber::SubscriberService>>().await;
    reporter.set_serving::<AdminServer<admin::AdminService>>().await;
    let publisher = PublisherServer::new(publisher::PublisherService(gateway.clone()))
        .max_decoding_message_size(largest)
        .max_encoding_message_size(usize::MAX);
    let subscriber = SubscriberServer::new(subscriber::SubscriberService(gateway.clone()))
        .max_decoding_message_size(largest)
        .max_encoding_message_size(usize::MAX);
    let draining = gateway.clone();
    gateway.tasks.spawn(async move {
        draining.draining.cancelled().await;
        reporter.set_not_serving::<PublisherServer<publisher::PublisherService>>().await;
        reporter.set_not_serving::<SubscriberServer<subscriber::SubscriberService>>().await;
        reporter.set_not_serving::<AdminServer<admin::AdminService>>().await;
    });
    let admin = AdminServer::new(admin::AdminService(gateway)).max_encoding_message_size(usize::MAX);
    let mut routes = Routes::new(publisher).add_service(subscriber).add_service(admin).add_service(health);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(v1::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    match reflection.build_v1() {
        Ok(service) => routes = routes.add_service(service),
        // The descriptors are built in: this shows in the first test, and costs only reflection.
        Err(error) => tracing::error!(%error, "no reflection"),
    }
    routes.prepare().into_axum_router().layer(axum::middleware::map_response(status::map_response))
}
