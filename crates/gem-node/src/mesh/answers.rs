//! What other nodes ask of this one, handed to whom it concerns.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use gem_mesh::{Answers, Parcel};
use gem_shard::raft::wire::{self, Answer, Call, Request};
use gem_shard::snapshot::wire as snapshots;
use gem_shard::{Shard, remote};
use gem_types::{GroupId, NodeId, ReplicaId};

use super::agent::Agent;
use super::place::Placer;
use super::{kinds, place};
use crate::shards::Shards;

/// The answering side of a node.
pub struct Inbound {
    /// Its shards.
    pub shards: Shards,
    /// What it knows of the mesh.
    pub agent: Arc<Agent>,
    /// Opens and closes its replicas.
    pub placer: Arc<Placer>,
}

fn refused(why: impl std::fmt::Display) -> Parcel {
    Parcel::new(kinds::REFUSED, why.to_string().into_bytes())
}

fn ready(parcel: Parcel) -> BoxFuture<'static, Parcel> {
    async move { parcel }.boxed()
}

/// Begins the answer here and now: calls of one lane come in order, and the batches of a producer must
/// reach the shard's queue in that order, or each that was overtaken is refused and sent again.
fn begun(mut answer: BoxFuture<'static, Parcel>) -> BoxFuture<'static, Parcel> {
    // Polled again by whoever runs it, who is the one to be woken.
    match (&mut answer).now_or_never() {
        Some(parcel) => ready(parcel),
        None => answer,
    }
}

impl Answers for Inbound {
    fn answer(&self, from: NodeId, request: Parcel) -> BoxFuture<'static, Parcel> {
        match request.kind {
            kinds::RAFT => self.raft(&request.parts),
            kinds::OFFER => self.offer(&request.parts),
            kinds::FETCH => self.fetch(&request.parts),
            kinds::SHARD => self.shard(request.parts),
            kinds::PLACE => self.place(from, &request.parts),
            kind => ready(refused(format!("this node knows no parcels of kind {kind}: its release is older"))),
        }
    }
}

impl Inbound {
    /// The replica that is meant, if it is the one here.
    fn replica(&self, group: GroupId, to: ReplicaId) -> Result<Arc<Shard>, Parcel> {
        let shard = self.shards.get(group).ok_or_else(|| refused(format!("no replica of group {group} is here")))?;
        if shard.replica() != to {
            return Err(refused(format!("the replica here is {}, not {to}: its disk is another", shard.replica())));
        }
        Ok(shard)
    }

    fn raft(&self, parts: &[Bytes]) -> BoxFuture<'static, Parcel> {
        let request = match Request::decode(parts) {
            Ok(request) => request,
            Err(error) => return ready(refused(error)),
        };
        let shard = match self.replica(request.group, request.to) {
            Ok(shard) => shard,
            Err(refusal) => return ready(refusal),
        };
        let answer = |answer: Answer| Parcel { kind: kinds::RAFT, parts: answer.encode() };
        match request.call {
            Call::Append(request) => {
                // Queued here and now: the order in which calls come is the order of the log.
                let appended = shard.queue_append(request);
                async move {
                    match appended.await {
                        Ok(response) => answer(Answer::Append(response)),
                        Err(error) => refused(error),
                    }
                }
                .boxed()
            }
            Call::Vote(request) => vote(shard, request, false),
            Call::PreVote(request) => vote(shard, request, true),
            Call::TransferLeader(request) => async move {
                match shard.on_transfer(request).await {
                    Ok(response) => answer(Answer::TransferLeader(response)),
                    Err(error) => refused(error),
                }
            }
            .boxed(),
        }
    }

    fn offer(&self, parts: &[Bytes]) -> BoxFuture<'static, Parcel> {
        let offer = match snapshots::Offer::decode(parts) {
            Ok(offer) => offer,
            Err(error) => return ready(refused(error)),
        };
        match self.replica(offer.group, offer.to) {
            Ok(shard) => async move {
                let answer = shard.on_offer(offer.from, offer.vote).await;
                Parcel { kind: kinds::OFFER, parts: snapshots::encode_offered(&answer) }
            }
            .boxed(),
            Err(refusal) => ready(refusal),
        }
    }

    fn fetch(&self, parts: &[Bytes]) -> BoxFuture<'static, Parcel> {
        let (group, of, fetch) = match snapshots::decode_fetch(parts) {
            Ok(fetch) => fetch,
            Err(error) => return ready(refused(error)),
        };
        match self.replica(group, of) {
            Ok(shard) => async move {
                let answer = shard.on_fetch(fetch).await;
                Parcel { kind: kinds::FETCH, parts: snapshots::encode_fetched(&answer) }
            }
            .boxed(),
            Err(refusal) => ready(refusal),
        }
    }

    fn shard(&self, parts: Vec<Bytes>) -> BoxFuture<'static, Parcel> {
        let (shards, agent) = (self.shards.clone(), self.agent.clone());
        let answer = async move {
            let target = match remote::target(&parts) {
                Ok(target) => target,
                Err(error) => return refused(error),
            };
            let parts = match super::routes::serving(&shards, &agent, &target) {
                Ok(shard) => remote::answer(shard, parts).await,
                Err(hint) => remote::redirect(hint),
            };
            Parcel { kind: kinds::SHARD, parts }
        };
        begun(answer.boxed())
    }

    fn place(&self, from: NodeId, parts: &[Bytes]) -> BoxFuture<'static, Parcel> {
        let placer = self.placer.clone();
        match place::wire::decode(parts) {
            Ok(request) => async move {
                let answer = placer.asked(from, request).await;
                Parcel { kind: kinds::PLACE, parts: place::wire::encode_answer(&answer) }
            }
            .boxed(),
            Err(error) => ready(refused(error)),
        }
    }
}

fn vote(
    shard: Arc<Shard>,
    request: openraft::raft::VoteRequest<gem_shard::raft::types::TypeConfig>,
    pre: bool,
) -> BoxFuture<'static, Parcel> {
    async move {
        match shard.on_vote(request, pre).await {
            Ok(response) => Parcel { kind: kinds::RAFT, parts: wire::Answer::Vote(response).encode() },
            Err(error) => refused(error),
        }
    }
    .boxed()
}
