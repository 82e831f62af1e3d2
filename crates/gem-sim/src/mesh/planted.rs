//! A bug that is planted in the way between nodes.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use gem_mesh::{CallError, Calls, Parcel};
use gem_node::mesh::kinds;
use gem_shard::snapshot::{Fetch, Fetched, wire};
use gem_types::NodeId;

use crate::setup::Planted;

/// The way to the other nodes, with the bug that is planted, if it is one of the way's.
pub fn calls(planted: Planted, calls: Arc<dyn Calls>) -> Arc<dyn Calls> {
    match planted {
        Planted::EmptySnapshot => Arc::new(EmptySnapshots(calls)),
        _ => calls,
    }
}

/// Snapshots are told to have no payloads: whoever takes one in claims what it lacks.
struct EmptySnapshots(Arc<dyn Calls>);

impl Calls for EmptySnapshots {
    fn call(
        &self,
        to: NodeId,
        lane: u64,
        request: Parcel,
        wait: Duration,
    ) -> BoxFuture<'static, Result<Parcel, CallError>> {
        let is_planted = request.kind == kinds::FETCH
            && wire::decode_fetch(&request.parts).is_ok_and(|(_, _, fetch)| matches!(fetch, Fetch::Batches { .. }));
        if !is_planted {
            return self.0.call(to, lane, request, wait);
        }
        let none = wire::encode_fetched(&Ok(Fetched::Batches { batches: Vec::new() }));
        async move { Ok(Parcel { kind: kinds::FETCH, parts: none }) }.boxed()
    }
}
