//! How a group's messages reach its other replicas.
//!
//! The mesh brings the real transport. A group of one voter has nobody to speak to:
//! [`Alone`] answers that everybody is unreachable.

use std::future::Future;
use std::sync::Arc;

use futures::future::BoxFuture;
use gem_types::{GroupId, ReplicaId};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::{AnyError, EmptyNode, RaftNetworkFactory, RaftNetworkV2};

use super::types::{TypeConfig, Vote};
use crate::snapshot::{Virtual, VirtualSnapshot};

type Rpc<'a, T> = BoxFuture<'a, Result<T, RPCError<TypeConfig>>>;

/// Carries Raft's messages to the replicas of `group` on other nodes. Every call ends within
/// the time that `option` grants; a replica that can't be reached is `Unreachable`.
pub trait Transport: Send + Sync + 'static {
    /// Entries, or a heartbeat.
    fn append<'a>(
        &'a self,
        group: GroupId,
        to: ReplicaId,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<'a, AppendEntriesResponse<TypeConfig>>;

    /// A vote, or the question how a vote would go (`pre`).
    fn vote<'a>(
        &'a self,
        group: GroupId,
        to: ReplicaId,
        request: VoteRequest<TypeConfig>,
        pre: bool,
        option: RPCOption,
    ) -> Rpc<'a, VoteResponse<TypeConfig>>;
}

/// The transport of a node without others.
#[derive(Debug, Default)]
pub struct Alone;

impl Transport for Alone {
    fn append<'a>(
        &'a self,
        _: GroupId,
        to: ReplicaId,
        _: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Rpc<'a, AppendEntriesResponse<TypeConfig>> {
        Box::pin(async move { Err(unreachable(to).into()) })
    }

    fn vote<'a>(
        &'a self,
        _: GroupId,
        to: ReplicaId,
        _: VoteRequest<TypeConfig>,
        _: bool,
        _: RPCOption,
    ) -> Rpc<'a, VoteResponse<TypeConfig>> {
        Box::pin(async move { Err(unreachable(to).into()) })
    }
}

fn unreachable(to: ReplicaId) -> Unreachable<TypeConfig> {
    Unreachable::new(&AnyError::error(format!("replica {to} can't be reached: this node knows no others")))
}

/// A group's way to all its replicas.
pub struct Peers {
    group: GroupId,
    transport: Arc<dyn Transport>,
}

impl Peers {
    /// The replicas of `group` by way of `transport`.
    pub fn new(group: GroupId, transport: Arc<dyn Transport>) -> Self {
        Peers { group, transport }
    }
}

impl RaftNetworkFactory<TypeConfig> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: ReplicaId, _: &EmptyNode) -> Peer {
        Peer { group: self.group, target, transport: self.transport.clone() }
    }
}

/// A group's way to one replica.
pub struct Peer {
    group: GroupId,
    target: ReplicaId,
    transport: Arc<dyn Transport>,
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = Virtual;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.transport.append(self.group, self.target, request, option).await
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.transport.vote(self.group, self.target, request, false, option).await
    }

    // openraft's own answer grants every pre-vote.
    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.transport.vote(self.group, self.target, request, true, option).await
    }

    async fn full_snapshot(
        &mut self,
        _: Vote,
        _: VirtualSnapshot,
        _: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        // A virtual snapshot holds no state to send: a lagging replica needs a checkpoint.
        Err(unreachable(self.target).into())
    }
}
