//! What openraft is told of GEM: ids, the payload of an entry, and how a proposal's end is told.
//!
//! A payload is moved, never copied: [`Proposal`] holds the decoded entry and the slices it
//! encodes to, and both the journal and the state machine take them from here.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use gem_types::{GroupId, Incarnation, NodeId, ReplicaId};
use openraft::impls::InlineBatch;
use openraft::raft::ClientWriteResult;
use openraft::raft::responder::Responder;
use openraft::vote::leader_id_std;
use openraft::{EmptyNode, EntryPayload, OptionalSend};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::mpsc;

use crate::entry::{self, Command, Entry, Malformed};
use crate::machine::Outcome;

/// The types of GEM's Raft groups. Leader ids are Raft's standard ones: one leader a term.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TypeConfig;

impl openraft::RaftTypeConfig for TypeConfig {
    type D = Proposal;
    type R = Applied;
    type NodeId = ReplicaId;
    // Addresses are never in a membership entry: gossip tells them.
    type Node = EmptyNode;
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, ReplicaId>;
    type Vote = openraft::Vote<Self::LeaderId>;
    type Payload = EntryPayload<Proposal, ReplicaId, EmptyNode>;
    type Entry = openraft::Entry<leader_id_std::CommittedLeaderId<u64>, Self::Payload>;
    type AsyncRuntime = super::runtime::Runtime;
    type Responder<T>
        = Answer<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// A log id: (term, index).
pub type LogId = openraft::LogId<leader_id_std::CommittedLeaderId<u64>>;
/// A log entry as Raft sees it.
pub type RaftEntry = openraft::Entry<leader_id_std::CommittedLeaderId<u64>, Payload>;
/// A log entry's payload.
pub type Payload = EntryPayload<Proposal, ReplicaId, EmptyNode>;
/// A vote.
pub type Vote = openraft::Vote<leader_id_std::LeaderId<u64, ReplicaId>>;
/// Who takes part in a group.
pub type Membership = openraft::Membership<ReplicaId, EmptyNode>;
/// Who takes part in a group, and since which entry.
pub type StoredMembership = openraft::StoredMembership<leader_id_std::CommittedLeaderId<u64>, ReplicaId, EmptyNode>;

/// What a snapshot says of itself.
pub type SnapshotMeta = openraft::SnapshotMeta<leader_id_std::CommittedLeaderId<u64>, ReplicaId, EmptyNode>;
/// A snapshot that holds `S`.
pub type Snapshot<S> = openraft::Snapshot<leader_id_std::CommittedLeaderId<u64>, ReplicaId, EmptyNode, S>;

/// The log id `(term, index)`.
pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(leader_id_std::CommittedLeaderId::new(term), index)
}

/// An entry on its way into the log.
#[derive(Clone)]
pub struct Proposal(Arc<Encoded>);

struct Encoded {
    entry: Entry,
    parts: Vec<Bytes>,
    batches: Vec<Option<Range<usize>>>,
    bytes: usize,
}

impl Proposal {
    /// Encodes `entry`; payloads are shared.
    pub fn new(entry: Entry) -> Self {
        let parts = entry.encode();
        // The batches stand behind the head, one after another.
        let mut at = parts.first().map_or(0, Bytes::len);
        let mut place = |command: &Command| {
            let Command::Append(append) = command else { return None };
            let from = at;
            at += append.batch.len();
            Some(from..at)
        };
        let batches = entry.commands.iter().map(&mut place).collect();
        let bytes = parts.iter().map(Bytes::len).sum();
        Proposal(Arc::new(Encoded { entry, parts, batches, bytes }))
    }

    /// Reads back what [`parts`](Self::parts) were written as.
    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        Ok(Proposal::new(Entry::decode(bytes)?))
    }

    /// The entry.
    pub fn entry(&self) -> &Entry {
        &self.0.entry
    }

    /// Whether it holds messages, and not only what the shard notes of itself.
    pub fn has_batches(&self) -> bool {
        self.0.batches.iter().any(Option::is_some)
    }

    /// What it is written as, in order.
    pub fn parts(&self) -> &[Bytes] {
        &self.0.parts
    }

    /// Where within [`parts`](Self::parts) the batch of command `command` lies.
    pub fn batch(&self, command: usize) -> Option<Range<usize>> {
        self.0.batches.get(command).cloned().flatten()
    }

    /// Encoded bytes.
    pub fn len(&self) -> usize {
        self.0.bytes
    }

    /// Whether it encodes to nothing: never.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} commands, {} bytes", self.0.entry.commands.len(), self.0.bytes)
    }
}

// openraft asks for serde on payloads; GEM's own codecs write and send them instead.
impl Serialize for Proposal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.parts().concat())
    }
}

impl<'de> Deserialize<'de> for Proposal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Vec::<u8>::deserialize(deserializer)?;
        Proposal::decode(Bytes::from(bytes)).map_err(serde::de::Error::custom)
    }
}

/// What applying an entry came to: an outcome per command.
#[derive(Clone, Debug, Default)]
pub struct Applied(pub Vec<Outcome>);

// openraft asks for serde here too, for forwarding answers between nodes: GEM does not.
impl Serialize for Applied {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

impl<'de> Deserialize<'de> for Applied {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <()>::deserialize(deserializer).map(|()| Applied::default())
    }
}

/// How a proposal's end comes back to whoever proposed it: by its number, on a channel.
///
/// The channel is unbounded, but holds no more than the proposals in flight, which their owner
/// bounds. A group that dies without an answer sends `None`.
pub struct Answer<T> {
    number: u64,
    to: Option<mpsc::UnboundedSender<(u64, Option<T>)>>,
}

impl<T> Answer<T> {
    /// The end of proposal `number` is sent to `to`.
    pub fn new(number: u64, to: mpsc::UnboundedSender<(u64, Option<T>)>) -> Self {
        Answer { number, to: Some(to) }
    }
}

impl<T: OptionalSend + 'static> Responder<TypeConfig, T> for Answer<T> {
    fn on_complete(mut self, result: T) {
        if let Some(to) = self.to.take() {
            // A closed channel means that the leader loop has ended: nobody waits.
            let _ = to.send((self.number, Some(result)));
        }
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        if let Some(to) = self.to.take() {
            let _ = to.send((self.number, None));
        }
    }
}

/// How proposals end.
pub type Ended = (u64, Option<ClientWriteResult<TypeConfig>>);

/// What a payload is written as.
pub fn encode(payload: &Payload) -> Vec<Bytes> {
    match payload {
        EntryPayload::Blank => entry::Payload::Blank.encode(),
        EntryPayload::Normal(proposal) => proposal.parts().to_vec(),
        EntryPayload::Membership(membership) => entry::Payload::Membership(encode_membership(membership)).encode(),
    }
}

/// Reads back what [`encode`] wrote.
pub fn decode(bytes: Bytes) -> Result<Payload, String> {
    match entry::Payload::decode(bytes).map_err(|e| e.to_string())? {
        entry::Payload::Blank => Ok(EntryPayload::Blank),
        entry::Payload::Entry(entry) => Ok(EntryPayload::Normal(Proposal::new(entry))),
        entry::Payload::Membership(bytes) => Ok(EntryPayload::Membership(decode_membership(bytes)?)),
    }
}

const MEMBERSHIP_FORMAT: u8 = 1;
const REPLICA_LEN: usize = 40;

/// ```text
/// format u8 | configs u16 | per config: voters u16, replicas | others u16, replicas
/// replica = node id (32 bytes), incarnation u64; numbers little-endian
/// ```
pub fn encode_membership(membership: &Membership) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(MEMBERSHIP_FORMAT);
    let configs = membership.get_joint_config();
    out.put_u16_le(configs.len() as u16);
    for config in configs {
        put_replicas(&mut out, config.iter());
    }
    let all: Vec<ReplicaId> = membership.nodes().map(|(id, _)| *id).collect();
    put_replicas(&mut out, all.iter());
    out.freeze()
}

fn put_replicas<'a>(out: &mut BytesMut, replicas: impl ExactSizeIterator<Item = &'a ReplicaId>) {
    out.put_u16_le(replicas.len() as u16);
    for replica in replicas {
        out.put_slice(&replica.node.0);
        out.put_u64_le(replica.incarnation.0);
    }
}

/// Reads back what [`encode_membership`] wrote.
pub fn decode_membership(mut bytes: Bytes) -> Result<Membership, String> {
    if bytes.remaining() < 3 || bytes.get_u8() != MEMBERSHIP_FORMAT {
        return Err("a membership of unknown format".into());
    }
    let count = bytes.get_u16_le();
    let configs = (0..count).map(|_| get_replicas(&mut bytes)).collect::<Result<Vec<_>, _>>()?;
    let all = get_replicas(&mut bytes)?;
    Ok(Membership::new_with_defaults(configs, all))
}

fn get_replicas(bytes: &mut Bytes) -> Result<BTreeSet<ReplicaId>, String> {
    let short = || String::from("a membership is cut short");
    if bytes.remaining() < 2 {
        return Err(short());
    }
    let count = bytes.get_u16_le();
    let mut replicas = BTreeSet::new();
    for _ in 0..count {
        if bytes.remaining() < REPLICA_LEN {
            return Err(short());
        }
        let mut node = [0; 32];
        bytes.copy_to_slice(&mut node);
        replicas.insert(ReplicaId { node: NodeId(node), incarnation: Incarnation(bytes.get_u64_le()) });
    }
    Ok(replicas)
}

/// The bytes of an encoded vote.
pub(crate) const VOTE_LEN: usize = 8 + REPLICA_LEN + 1;

/// A vote: term u64, replica, committed u8.
pub fn encode_vote(vote: &Vote) -> Bytes {
    let mut out = BytesMut::with_capacity(VOTE_LEN);
    out.put_u64_le(vote.leader_id.term);
    out.put_slice(&vote.leader_id.voted_for.node.0);
    out.put_u64_le(vote.leader_id.voted_for.incarnation.0);
    out.put_u8(u8::from(vote.committed));
    out.freeze()
}

/// Reads back what [`encode_vote`] wrote.
pub fn decode_vote(mut bytes: &[u8]) -> Result<Vote, String> {
    if bytes.len() != VOTE_LEN {
        return Err(format!("a vote of {} bytes", bytes.len()));
    }
    let term = bytes.get_u64_le();
    let mut node = [0; 32];
    bytes.copy_to_slice(&mut node);
    let replica = ReplicaId { node: NodeId(node), incarnation: Incarnation(bytes.get_u64_le()) };
    let leader_id = leader_id_std::LeaderId { term, voted_for: replica };
    Ok(Vote { leader_id, committed: bytes.get_u8() == 1 })
}

/// A group's name in logs.
pub fn short(group: GroupId) -> String {
    group.to_string().chars().take(8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(n: u8) -> ReplicaId {
        ReplicaId { node: NodeId([n; 32]), incarnation: Incarnation(u64::from(n)) }
    }

    #[test]
    fn a_membership_reads_back() {
        let configs = vec![BTreeSet::from([replica(1), replica(2)]), BTreeSet::from([replica(2), replica(3)])];
        let membership = Membership::new_with_defaults(configs, [replica(4)]);
        let bytes = encode_membership(&membership);
        assert_eq!(decode_membership(bytes.clone()).unwrap(), membership);
        for cut in 0..bytes.len() {
            assert!(decode_membership(bytes.slice(..cut)).is_err(), "{cut}");
        }
    }

    #[test]
    fn a_vote_reads_back() {
        let mut vote = Vote::new(7, replica(1));
        vote.committed = true;
        assert_eq!(decode_vote(&encode_vote(&vote)).unwrap(), vote);
        assert!(decode_vote(b"short").is_err());
    }
}
