//! Raft's messages over the bulk plane: the transport of every shard of this node.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use gem_mesh::{CallError, Calls, Parcel};
use gem_shard::raft::transport::{Rpc, Transport, unreachable};
use gem_shard::raft::types::{TypeConfig, Vote};
use gem_shard::raft::wire::{self, Answer};
use gem_shard::snapshot::wire as snapshots;
use gem_shard::snapshot::{Fetch, Fetched};
use gem_types::{Error, GroupId, ReplicaId, Result};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, TransferLeaderResponse, VoteRequest,
    VoteResponse,
};

use super::kinds;

/// How long one part of a snapshot may take.
const FETCH_WAIT: Duration = Duration::from_secs(20);

/// The transport over `calls`.
pub struct RaftLinks(pub Arc<dyn Calls>);

/// Appends of one group keep their order: its lane.
fn lane_of(group: GroupId) -> u64 {
    let mut head = [0; 8];
    head.copy_from_slice(&group.0[..8]);
    u64::from_be_bytes(head)
}

/// The parts of an answer of `kind`.
pub(super) fn expect(
    kind: u16,
    answer: std::result::Result<Parcel, CallError>,
) -> std::result::Result<Vec<Bytes>, String> {
    match answer {
        Ok(parcel) if parcel.kind == kind => Ok(parcel.parts),
        Ok(parcel) if parcel.kind == kinds::REFUSED => {
            let why = parcel.parts.first().map(|why| String::from_utf8_lossy(why).into_owned());
            Err(why.unwrap_or_else(|| "refused".into()))
        }
        Ok(parcel) => Err(format!("an answer of kind {} to a call of kind {kind}", parcel.kind)),
        Err(error) => Err(error.to_string()),
    }
}

impl RaftLinks {
    fn ask<T: Send + 'static>(
        &self,
        group: GroupId,
        to: ReplicaId,
        parts: Vec<Bytes>,
        wait: Duration,
        take: impl FnOnce(Answer) -> Option<T> + Send + 'static,
    ) -> Rpc<T> {
        let call = self.0.call(to.node, lane_of(group), Parcel { kind: kinds::RAFT, parts }, wait);
        async move {
            let parts = expect(kinds::RAFT, call.await).map_err(unreachable)?;
            let answer = Answer::decode(&parts).map_err(|error| unreachable(error.to_string()))?;
            Ok(take(answer).ok_or_else(|| unreachable(format!("replica {to} answers something else")))?)
        }
        .boxed()
    }
}

impl Transport for RaftLinks {
    fn append(
        &self,
        group: GroupId,
        to: ReplicaId,
        request: AppendEntriesRequest<TypeConfig>,
        wait: Duration,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        self.ask(group, to, wire::encode_append(group, to, &request), wait, |answer| match answer {
            Answer::Append(answer) => Some(answer),
            _ => None,
        })
    }

    fn vote(
        &self,
        group: GroupId,
        to: ReplicaId,
        request: VoteRequest<TypeConfig>,
        pre: bool,
        wait: Duration,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        self.ask(group, to, wire::encode_vote_request(group, to, &request, pre), wait, |answer| match answer {
            Answer::Vote(answer) => Some(answer),
            _ => None,
        })
    }

    fn transfer(
        &self,
        group: GroupId,
        to: ReplicaId,
        request: TransferLeaderRequest<TypeConfig>,
        wait: Duration,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        self.ask(group, to, wire::encode_transfer(group, to, &request), wait, |answer| match answer {
            Answer::TransferLeader(answer) => Some(answer),
            _ => None,
        })
    }

    fn offer(&self, group: GroupId, to: ReplicaId, from: ReplicaId, vote: Vote, wait: Duration) -> Rpc<Vote> {
        let parts = snapshots::Offer { group, to, from, vote }.encode();
        // A lane of its own: it takes long, and holds up no append.
        let call = self.0.call(to.node, !lane_of(group), Parcel { kind: kinds::OFFER, parts }, wait);
        async move {
            let parts = expect(kinds::OFFER, call.await).map_err(unreachable)?;
            let answer = snapshots::decode_offered(&parts).map_err(|error| unreachable(error.to_string()))?;
            Ok(answer.map_err(|error| unreachable(error.to_string()))?)
        }
        .boxed()
    }

    fn fetch(&self, group: GroupId, from: ReplicaId, request: Fetch) -> BoxFuture<'static, Result<Fetched>> {
        let parts = snapshots::encode_fetch(group, from, &request);
        let call = self.0.call(from.node, !lane_of(group), Parcel { kind: kinds::FETCH, parts }, FETCH_WAIT);
        async move {
            let parts = expect(kinds::FETCH, call.await).map_err(|why| Error::unavailable(why, 1_000))?;
            snapshots::decode_fetched(&parts).map_err(|error| Error::internal(error.to_string()))?
        }
        .boxed()
    }
}
