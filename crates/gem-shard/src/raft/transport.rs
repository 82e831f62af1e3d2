//! How a group's messages reach its other replicas.
//!
//! The mesh brings the real transport. A group of one voter has nobody to speak to:
//! [`Alone`] answers that everybody is unreachable.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, Stream, StreamExt};
use gem_types::{GroupId, ReplicaId};
use openraft::base::BoxStream;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, EmptyNode, OptionalSend, RaftNetworkFactory, RaftNetworkV2};

use super::types::{TypeConfig, Vote};
use crate::snapshot::{Fetch, Fetched, Image, ImageSnapshot};

/// A call's end.
pub type Rpc<T> = BoxFuture<'static, Result<T, RPCError<TypeConfig>>>;

/// How long entries may take to be flushed elsewhere. (openraft's own time is that of a heartbeat;
/// a link that is gone ends its calls by itself.)
const APPEND_WAIT: Duration = Duration::from_secs(10);
/// Appends on their way to one replica at once: so many flushes overlap.
const APPENDS_IN_FLIGHT: usize = 16;
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
    Box::pin(async move { Err(unreachable(format!("replica {to} can't be reached: this node knows no others")).into()) })
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

/// The answers to appends that are on their way, in the order in which they were sent.
struct Pipeline<S> {
    input: S,
    in_flight: FuturesOrdered<BoxFuture<'static, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>>,
    send: Box<dyn Fn(AppendEntriesRequest<TypeConfig>) -> Rpc<AppendEntriesResponse<TypeConfig>> + Send>,
    is_over: bool,
    has_input: bool,
}

impl<S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin + Send> Pipeline<S> {
    async fn next(mut self) -> Option<(Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>, Self)> {
        if self.is_over {
            return None;
        }
        loop {
            let may_send = self.has_input && self.in_flight.len() < APPENDS_IN_FLIGHT;
            let is_idle = self.in_flight.is_empty();
            if !may_send && is_idle {
                return None;
            }
            tokio::select! {
                biased;
                Some(answer) = self.in_flight.next(), if !is_idle => {
                    // Behind a refusal or a failure nothing that was sent can have been taken.
                    self.is_over = !matches!(&answer, Ok(Ok(_)));
                    return Some((answer, self));
                }
                request = self.input.next(), if may_send => match request {
                    Some(request) => {
                        let prev = request.prev_log_id;
                        let last = request.entries.last().map(|entry| entry.log_id).or(prev);
                        let answer = (self.send)(request);
                        self.in_flight.push_back(Box::pin(async move {
                            let answer = answer.await?;
                            Ok(answer.into_stream_result(prev, last))
                        }));
                    }
                    None => self.has_input = false,
                },
            }
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = Image;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.transport.append(self.group, self.target, request, option.soft_ttl()).await
    }

    // openraft's own sends one at a time: every flush of the follower would hold up the next.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>, RPCError<TypeConfig>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let (transport, group, target) = (self.transport.clone(), self.group, self.target);
        let send = Box::new(move |request| transport.append(group, target, request, APPEND_WAIT));
        let pipeline =
            Pipeline { input, in_flight: FuturesOrdered::new(), send, is_over: false, has_input: true };
        let answers: BoxStream<'s, _> = Box::pin(futures::stream::unfold(pipeline, Pipeline::next));
        Box::pin(async move { Ok(answers) })
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
