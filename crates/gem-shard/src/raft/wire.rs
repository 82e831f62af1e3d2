//! Raft's messages between nodes, as parts ([`crate::parts`]): part 0 is the head, batches are
//! parts of their own, never copied.
//!
//! ```text
//!  request   version u8 │ kind u8 │ group 16 │ to: replica 40 │ body
//!  answer    version u8 │ kind u8 │ body
//! ```
//!
//! What it is: encoders and decoders, and [`address`], which reads only for whom a request is.
//! What it is not: it knows no transport, and judges nothing but form. One thing it does check:
//! the entries of a request follow `prev_log_id` without a gap, since openraft relies on it.

use bytes::Bytes;
use gem_types::{GroupId, Incarnation, NodeId, ReplicaId};
use openraft::EntryPayload;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};

use super::types::{
    LogId, Payload, Proposal, RaftEntry, TypeConfig, VOTE_LEN, Vote, decode_membership, decode_vote, encode_membership,
    encode_vote, log_id,
};
use crate::entry::Entry;
use crate::entry::wire::{Malformed, Reader, Writer};
use crate::parts::{PartsReader, PartsWriter};

const VERSION: u8 = 1;
const REQUEST: &str = "Raft request";
const ANSWER: &str = "Raft answer";

/// What one replica asks of another.
#[derive(Clone, Debug)]
pub enum Call {
    /// Entries, or a heartbeat.
    Append(AppendEntriesRequest<TypeConfig>),
    /// A vote.
    Vote(VoteRequest<TypeConfig>),
    /// How a vote would go, without asking for it (Raft's PreVote).
    PreVote(VoteRequest<TypeConfig>),
    /// Lead, if your log reaches far enough.
    TransferLeader(TransferLeaderRequest<TypeConfig>),
}

/// A call and for whom it is.
#[derive(Clone, Debug)]
pub struct Request {
    /// The group.
    pub group: GroupId,
    /// The replica that is meant. Another one, even of the same node, must refuse.
    pub to: ReplicaId,
    /// What is asked.
    pub call: Call,
}

/// What a replica answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To entries.
    Append(AppendEntriesResponse<TypeConfig>),
    /// To a vote or pre-vote.
    Vote(VoteResponse<TypeConfig>),
    /// To a transfer of leadership.
    TransferLeader(TransferLeaderResponse<TypeConfig>),
    /// Not carried out: no such replica here, or it has stopped. Says why.
    Refused(String),
}

const APPEND: u8 = 0;
const VOTE: u8 = 1;
const PRE_VOTE: u8 = 2;
const TRANSFER: u8 = 3;
const REFUSED: u8 = 4;

/// For whom a request is, without reading the rest.
pub fn address(parts: &[Bytes]) -> Result<(GroupId, ReplicaId), Malformed> {
    let mut parts = PartsReader::new(parts, VERSION, REQUEST)?;
    parts.head.u8()?;
    take_address(&mut parts.head)
}

impl Request {
    /// The request's parts.
    pub fn encode(&self) -> Vec<Bytes> {
        match &self.call {
            Call::Append(request) => encode_append(self.group, self.to, request),
            Call::Vote(request) => encode_vote_request(self.group, self.to, request, false),
            Call::PreVote(request) => encode_vote_request(self.group, self.to, request, true),
            Call::TransferLeader(request) => encode_transfer(self.group, self.to, request),
        }
    }

    /// Reads a request.
    pub fn decode(parts: &[Bytes]) -> Result<Request, Malformed> {
        let mut parts = PartsReader::new(parts, VERSION, REQUEST)?;
        let kind = parts.head.u8()?;
        let (group, to) = take_address(&mut parts.head)?;
        let head = &mut parts.head;
        let call = match kind {
            APPEND => Call::Append(take_append(&mut parts)?),
            VOTE => Call::Vote(take_vote_request(head)?),
            PRE_VOTE => Call::PreVote(take_vote_request(head)?),
            TRANSFER => {
                let (from, next, last) = (take_vote(head)?, take_replica(head)?, take_log_id(head)?);
                Call::TransferLeader(TransferLeaderRequest::new(from, next, last))
            }
            _ => return Err(Malformed("Raft request: not a kind that this release knows")),
        };
        parts.end()?;
        Ok(Request { group, to, call })
    }
}

/// [`Request::encode`] of entries that the caller keeps.
pub fn encode_append(group: GroupId, to: ReplicaId, request: &AppendEntriesRequest<TypeConfig>) -> Vec<Bytes> {
    let mut out = begin(APPEND, group, to);
    put_vote(&mut out.head, &request.vote);
    put_log_id(&mut out.head, request.prev_log_id);
    put_log_id(&mut out.head, request.leader_commit);
    out.head.u64(request.entries.len() as u64);
    for entry in &request.entries {
        out.head.u64(entry.log_id.committed_leader_id().term).u64(entry.log_id.index);
        put_payload(&mut out, &entry.payload);
    }
    out.finish()
}

/// [`Request::encode`] of a vote that the caller keeps; `pre` only asks how it would go.
pub fn encode_vote_request(group: GroupId, to: ReplicaId, request: &VoteRequest<TypeConfig>, pre: bool) -> Vec<Bytes> {
    let mut out = begin(if pre { PRE_VOTE } else { VOTE }, group, to);
    put_vote(&mut out.head, &request.vote);
    put_log_id(&mut out.head, request.last_log_id);
    out.head.u8(u8::from(request.leadership_transfer));
    out.finish()
}

/// [`Request::encode`] of a transfer of leadership that the caller keeps.
pub fn encode_transfer(group: GroupId, to: ReplicaId, request: &TransferLeaderRequest<TypeConfig>) -> Vec<Bytes> {
    let mut out = begin(TRANSFER, group, to);
    put_vote(&mut out.head, request.from_leader());
    put_replica(&mut out.head, request.to_node_id());
    put_log_id(&mut out.head, request.last_log_id().copied());
    out.finish()
}

fn begin(kind: u8, group: GroupId, to: ReplicaId) -> PartsWriter {
    let mut out = PartsWriter::new(VERSION);
    out.head.u8(kind).fixed(&group.0);
    put_replica(&mut out.head, &to);
    out
}

fn take_address(head: &mut Reader<'_>) -> Result<(GroupId, ReplicaId), Malformed> {
    Ok((GroupId(head.fixed()?), take_replica(head)?))
}

fn take_append(parts: &mut PartsReader<'_>) -> Result<AppendEntriesRequest<TypeConfig>, Malformed> {
    let head = &mut parts.head;
    let (vote, prev_log_id, leader_commit) = (take_vote(head)?, take_log_id(head)?, take_log_id(head)?);
    let count = head.count(3)?;
    let mut entries: Vec<RaftEntry> = Vec::with_capacity(count.min(1024));
    let mut previous = prev_log_id;
    for _ in 0..count {
        let log_id = log_id(parts.head.u64()?, parts.head.u64()?);
        let follows = previous.map_or(Some(0), |previous| previous.index.checked_add(1)) == Some(log_id.index);
        if !follows {
            return Err(Malformed("Raft request: its entries don't follow one another"));
        }
        previous = Some(log_id);
        entries.push(RaftEntry { log_id, payload: take_payload(parts)? });
    }
    Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

fn put_payload(out: &mut PartsWriter, payload: &Payload) {
    match payload {
        EntryPayload::Blank => {
            out.head.u8(BLANK);
        }
        EntryPayload::Normal(proposal) => {
            out.head.u8(NORMAL).bytes(&proposal.entry().encode_head());
            proposal.entry().batches().for_each(|batch| out.batch(batch));
        }
        EntryPayload::Membership(membership) => {
            out.head.u8(MEMBERSHIP).bytes(&encode_membership(membership));
        }
    }
}

fn take_payload(parts: &mut PartsReader<'_>) -> Result<Payload, Malformed> {
    match parts.head.u8()? {
        BLANK => Ok(EntryPayload::Blank),
        NORMAL => {
            let head = Reader::new(parts.head.bytes()?, "entry");
            let entry = Entry::decode_head(head, |length| {
                let batch = parts.batch()?;
                if batch.len() == length { Ok(batch) } else { Err(Malformed("entry's batch")) }
            })?;
            Ok(EntryPayload::Normal(Proposal::new(entry)))
        }
        MEMBERSHIP => {
            let bytes = Bytes::copy_from_slice(parts.head.bytes()?);
            let membership = decode_membership(bytes).map_err(|_| Malformed("membership"))?;
            Ok(EntryPayload::Membership(membership))
        }
        _ => Err(Malformed("Raft entry: not a kind that this release knows")),
    }
}

fn take_vote_request(head: &mut Reader<'_>) -> Result<VoteRequest<TypeConfig>, Malformed> {
    let mut request = VoteRequest::new(take_vote(head)?, take_log_id(head)?);
    request.leadership_transfer = take_flag(head)?;
    Ok(request)
}

impl Answer {
    /// The answer's parts.
    pub fn encode(&self) -> Vec<Bytes> {
        let mut out = PartsWriter::new(VERSION);
        let head = &mut out.head;
        match self {
            Answer::Append(answer) => put_append_answer(head.u8(APPEND), answer),
            Answer::Vote(answer) => {
                put_vote(head.u8(VOTE), &answer.vote);
                put_log_id(head.u8(u8::from(answer.vote_granted)), answer.last_log_id);
            }
            Answer::TransferLeader(answer) => put_transfer_answer(head.u8(TRANSFER), answer),
            Answer::Refused(why) => {
                head.u8(REFUSED).bytes(why.as_bytes());
            }
        }
        out.finish()
    }

    /// Reads an answer.
    pub fn decode(parts: &[Bytes]) -> Result<Answer, Malformed> {
        let mut parts = PartsReader::new(parts, VERSION, ANSWER)?;
        let head = &mut parts.head;
        let answer = match head.u8()? {
            APPEND => Answer::Append(take_append_answer(head)?),
            VOTE => {
                let (vote, vote_granted) = (take_vote(head)?, take_flag(head)?);
                Answer::Vote(VoteResponse { vote, vote_granted, last_log_id: take_log_id(head)? })
            }
            TRANSFER => Answer::TransferLeader(take_transfer_answer(head)?),
            REFUSED => Answer::Refused(head.text()?.to_owned()),
            _ => return Err(Malformed("Raft answer: not a kind that this release knows")),
        };
        parts.end()?;
        Ok(answer)
    }
}

const SUCCESS: u8 = 0;
const PARTIAL: u8 = 1;
const CONFLICT: u8 = 2;
const HIGHER_VOTE: u8 = 3;

fn put_append_answer(head: &mut Writer, answer: &AppendEntriesResponse<TypeConfig>) {
    match answer {
        AppendEntriesResponse::Success => {
            head.u8(SUCCESS);
        }
        AppendEntriesResponse::PartialSuccess(log_id) => put_log_id(head.u8(PARTIAL), *log_id),
        AppendEntriesResponse::Conflict => {
            head.u8(CONFLICT);
        }
        AppendEntriesResponse::HigherVote(vote) => put_vote(head.u8(HIGHER_VOTE), vote),
    }
}

fn take_append_answer(head: &mut Reader<'_>) -> Result<AppendEntriesResponse<TypeConfig>, Malformed> {
    Ok(match head.u8()? {
        SUCCESS => AppendEntriesResponse::Success,
        PARTIAL => AppendEntriesResponse::PartialSuccess(take_log_id(head)?),
        CONFLICT => AppendEntriesResponse::Conflict,
        HIGHER_VOTE => AppendEntriesResponse::HigherVote(take_vote(head)?),
        _ => return Err(head.malformed()),
    })
}

const ACCEPTED: u8 = 0;
const VOTE_CHANGED: u8 = 1;
const NOT_FLUSHED: u8 = 2;

fn put_transfer_answer(head: &mut Writer, answer: &TransferLeaderResponse<TypeConfig>) {
    match answer {
        Ok(()) => {
            head.u8(ACCEPTED);
        }
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            put_vote(head.u8(VOTE_CHANGED), expected);
            put_vote(head, actual);
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            put_log_id(head.u8(NOT_FLUSHED), *expected);
            put_log_id(head, *actual);
        }
    }
}

fn take_transfer_answer(head: &mut Reader<'_>) -> Result<TransferLeaderResponse<TypeConfig>, Malformed> {
    Ok(match head.u8()? {
        ACCEPTED => Ok(()),
        VOTE_CHANGED => Err(TransferLeaderError::VoteChanged { expected: take_vote(head)?, actual: take_vote(head)? }),
        NOT_FLUSHED => {
            Err(TransferLeaderError::LogNotFlushed { expected: take_log_id(head)?, actual: take_log_id(head)? })
        }
        _ => return Err(head.malformed()),
    })
}

pub(crate) fn put_vote(head: &mut Writer, vote: &Vote) {
    head.fixed(&encode_vote(vote));
}

pub(crate) fn take_vote(head: &mut Reader<'_>) -> Result<Vote, Malformed> {
    decode_vote(head.take(VOTE_LEN)?).map_err(|_| head.malformed())
}

fn put_log_id(head: &mut Writer, log_id: Option<LogId>) {
    match log_id {
        Some(log_id) => head.u8(1).u64(log_id.committed_leader_id().term).u64(log_id.index),
        None => head.u8(0),
    };
}

fn take_log_id(head: &mut Reader<'_>) -> Result<Option<LogId>, Malformed> {
    Ok(if take_flag(head)? { Some(log_id(head.u64()?, head.u64()?)) } else { None })
}

pub(crate) fn put_replica(head: &mut Writer, replica: &ReplicaId) {
    head.fixed(&replica.node.0).fixed(&replica.incarnation.0.to_le_bytes());
}

pub(crate) fn take_replica(head: &mut Reader<'_>) -> Result<ReplicaId, Malformed> {
    let node = NodeId(head.fixed()?);
    Ok(ReplicaId { node, incarnation: Incarnation(u64::from_le_bytes(head.fixed()?)) })
}

fn take_flag(head: &mut Reader<'_>) -> Result<bool, Malformed> {
    match head.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(head.malformed()),
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
