//! How a group's messages reach its other replicas.
//!
//! The mesh brings the real transport. A group of one voter has nobody to speak to:
//! [`Alone`] answers that everybody is unreachable.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use gem_types::{GroupId, ReplicaId};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::{AnyError, EmptyNode, RaftNetworkFactory, RaftNetworkV2};

use super::types::{TypeConfig, Vote};
use crate::snapshot::{Fetch, Fetched, Image, ImageSnapshot};

/// A call's end.
pub type Rpc<T> = BoxFuture<'static, Result<T, RPCError<TypeConfig>>>;

/// How long entries may take to be flushed elsewhere. (openraft's own time is that of a heartbeat;
/// a link that is gone ends its calls by itself.)
const APPEND_WAIT: Duration = Duration::from_secs(10);
/// How long a replica may take to fetch a snapshot. What it has fetched by then it keeps.
const OFFER_WAIT: Duration = Duration::from_secs(600);

/// Carries Raft's messages to the replicas of `group` on other nodes. Every call ends within
/// the time given; a replica that can't be reached is `Unreachable`.
///
/// Appends to one replica are sent in the order in which this is called.
pub trait Transport: Send + Sync + 'static {
    /// Entries, or a heartbeat.
    fn append(
        &self,
        group: GroupId,
        to: ReplicaId,
        request: AppendEntriesRequest<TypeConfig>,
        wait: Duration,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>>;

    /// A vote, or the question how a vote would go (`pre`).
    fn vote(
        &self,
        group: GroupId,
        to: ReplicaId,
        request: VoteRequest<TypeConfig>,
        pre: bool,
        wait: Duration,
    ) -> Rpc<VoteResponse<TypeConfig>>;

    /// The wish that `to` should lead.
    fn transfer(
        &self,
        group: GroupId,
        to: ReplicaId,
        request: TransferLeaderRequest<TypeConfig>,
        wait: Duration,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>>;

    /// Asks `to` to take in a snapshot of `from` under `vote`; answers `to`'s vote once it has.
    fn offer(&self, group: GroupId, to: ReplicaId, from: ReplicaId, vote: Vote, wait: Duration) -> Rpc<Vote>;

    /// Asks for a part of a snapshot that `from` offered.
    fn fetch(&self, group: GroupId, from: ReplicaId, request: Fetch) -> BoxFuture<'static, gem_types::Result<Fetched>>;
}

/// The transport of a node without others.
#[derive(Debug, Default)]
pub struct Alone;

impl Transport for Alone {
    fn append(
        &self,
        _: GroupId,
        to: ReplicaId,
        _: AppendEntriesRequest<TypeConfig>,
        _: Duration,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        alone(to)
    }

    fn vote(
        &self,
        _: GroupId,
        to: ReplicaId,
        _: VoteRequest<TypeConfig>,
        _: bool,
        _: Duration,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        alone(to)
    }

    fn transfer(
        &self,
        _: GroupId,
        to: ReplicaId,
        _: TransferLeaderRequest<TypeConfig>,
        _: Duration,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        alone(to)
    }

    fn offer(&self, _: GroupId, to: ReplicaId, _: ReplicaId, _: Vote, _: Duration) -> Rpc<Vote> {
        alone(to)
    }

    fn fetch(&self, _: GroupId, from: ReplicaId, _: Fetch) -> BoxFuture<'static, gem_types::Result<Fetched>> {
        let what = format!("replica {from} can't be reached: this node knows no others");
        Box::pin(async move { Err(gem_types::Error::unavailable(what, 1_000)) })
    }
}

fn alone<T: Send + 'static>(to: ReplicaId) -> Rpc<T> {
    Box::pin(
        async move { Err(unreachable(format!("replica {to} can't be reached: this node knows no others")).into()) },
    )
}

/// The error for a replica that can't be reached.
pub fn unreachable(what: String) -> Unreachable<TypeConfig> {
    Unreachable::new(&AnyError::error(what))
}

/// A group's way to all its replicas.
pub struct Peers {
    group: GroupId,
    me: ReplicaId,
    transport: Arc<dyn Transport>,
}

impl Peers {
    /// The replicas of `group` by way of `transport`, for the replica `me`.
    pub fn new(group: GroupId, me: ReplicaId, transport: Arc<dyn Transport>) -> Self {
        Peers { group, me, transport }
    }
}

impl RaftNetworkFactory<TypeConfig> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: ReplicaId, _: &EmptyNode) -> Peer {
        Peer { group: self.group, me: self.me, target, transport: self.transport.clone() }
    }
}

/// A group's way to one replica.
pub struct Peer {
    group: GroupId,
    me: ReplicaId,
    target: ReplicaId,
    transport: Arc<dyn Transport>,
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = Image;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        // One at a time, which is openraft's own way: what waits meanwhile goes out as one. Several on
        // their way were measured to be far slower: one that overtakes another is refused, and
        // openraft then rests before it sends again.
        let wait = if request.entries.is_empty() { option.soft_ttl() } else { APPEND_WAIT };
        self.transport.append(self.group, self.target, request, wait).await
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.transport.vote(self.group, self.target, request, false, option.soft_ttl()).await
    }

    // openraft's own answer grants every pre-vote.
    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.transport.vote(self.group, self.target, request, true, option.soft_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        _: ImageSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        // The virtual snapshot holds no state: the other side is asked to fetch what it lacks.
        let offer = self.transport.offer(self.group, self.target, self.me, vote, OFFER_WAIT);
        tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            answer = offer => match answer {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(error) => Err(unreachable(error.to_string()).into()),
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.transport.transfer(self.group, self.target, request, option.soft_ttl()).await
    }
}
