//! Bugs that are planted in the way between replicas.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use gem_node::mesh::raft::RaftLinks;
use gem_shard::raft::transport::{Rpc, Transport};
use gem_shard::raft::types::{TypeConfig, Vote};
use gem_shard::snapshot::{Fetch, Fetched};
use gem_types::{GroupId, ReplicaId, Result};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, TransferLeaderResponse, VoteRequest,
    VoteResponse,
};

use crate::setup::Planted;

/// The transport of a node, with the bug that is planted, if it is one of the transport's.
pub fn transport(planted: Planted, links: RaftLinks) -> Arc<dyn Transport> {
    match planted {
        Planted::EmptySnapshot => Arc::new(EmptySnapshots(links)),
        _ => Arc::new(links),
    }
}

/// Snapshots are told to have no payloads: whoever takes one in claims what it lacks.
struct EmptySnapshots(RaftLinks);

impl Transport for EmptySnapshots {
    fn append(
        &self,
        group: GroupId,
        to: ReplicaId,
        request: AppendEntriesRequest<TypeConfig>,
        wait: Duration,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        self.0.append(group, to, request, wait)
    }

    fn vote(
        &self,
        group: GroupId,
        to: ReplicaId,
        request: VoteRequest<TypeConfig>,
        pre: bool,
        wait: Duration,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        self.0.vote(group, to, request, pre, wait)
    }

    fn transfer(
        &self,
        group: GroupId,
        to: ReplicaId,
        request: TransferLeaderRequest<TypeConfig>,
        wait: Duration,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        self.0.transfer(group, to, request, wait)
    }

    fn offer(&self, group: GroupId, to: ReplicaId, from: ReplicaId, vote: Vote, wait: Duration) -> Rpc<Vote> {
        self.0.offer(group, to, from, vote, wait)
    }

    fn fetch(&self, group: GroupId, from: ReplicaId, request: Fetch) -> BoxFuture<'static, Result<Fetched>> {
        match request {
            Fetch::Batches { .. } => async { Ok(Fetched::Batches { batches: Vec::new() }) }.boxed(),
            other => self.0.fetch(group, from, other),
        }
    }
}
