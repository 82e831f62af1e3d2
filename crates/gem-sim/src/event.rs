//! What happens in a run, as clients and operators see it: the trace is made of it, and the
//! invariants look at nothing else.

use std::fmt;

use gem_shard::log::{GroupRef, PartitionStats, Placed, Status, TopicConfig, Verb};
use gem_types::{Code, GroupId, NodeId, Offset, PartitionId, Prefix, ReplicaId, TimestampMs, TopicName};

use crate::trace;

/// Names a message for the whole run: its producer and its number there.
pub type MessageId = (u32, u64);
/// Names a call of a client.
pub type OpId = u64;

/// What a producer does about duplicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: it sends each message once.
    Plain,
    /// It gives ids, and sends again under the same ones.
    Ids,
    /// It numbers its messages, and sends again under the same numbers.
    Numbered,
}

/// A message on its way in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Which.
    pub message: MessageId,
    /// Its key; empty: none.
    pub key: String,
}

/// A message as it was read or delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its place.
    pub offset: Offset,
    /// Its stamp.
    pub timestamp_ms: TimestampMs,
    /// Which it is.
    pub message: MessageId,
    /// Its key; empty: none.
    pub key: String,
    /// A hash of its whole payload.
    pub hash: u64,
    /// In a dead-letter topic: where it came from.
    pub source: Option<(PartitionId, Offset)>,
}

impl Seen {
    /// All of it, as one number.
    fn fold(&self, hash: u64) -> u64 {
        let numbers = [self.offset, self.timestamp_ms as u64, self.message.0.into(), self.message.1, self.hash];
        let hash = numbers.into_iter().fold(hash, |hash, number| trace::hash(hash, &number.to_le_bytes()));
        trace::hash(hash, self.key.as_bytes())
    }
}

/// Records as the trace has them: how many, from where, and a hash of all.
struct Brief<'a>(&'a [Seen]);

impl fmt::Debug for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hash = self.0.iter().fold(trace::EMPTY, |hash, seen| seen.fold(hash));
        write!(f, "{} records, {hash:016x}", self.0.len())
    }
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<T> {
    /// With an answer.
    Done(T),
    /// Refused: it did not happen, and never will.
    Refused(Code),
    /// Nobody knows.
    Unknown(Code),
}

impl<T> Answer<T> {
    /// The contract: every code but these two means that it never happens.
    pub fn of(result: gem_types::Result<T>) -> Answer<T> {
        match result {
            Ok(answer) => Answer::Done(answer),
            Err(error) if matches!(error.code, Code::Deadline | Code::Internal) => Answer::Unknown(error.code),
            Err(error) => Answer::Refused(error.code),
        }
    }
}

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The power fails between two operations.
    PowerCut,
    /// The power fails with the n-th write, flush or creation from now.
    PowerCutAfter(u64),
    /// The process is killed; the machine lives on.
    Killed,
    /// A planned stop.
    Stopped,
}

/// A group's replicated state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupView {
    /// Tells apart the lives of its name.
    pub life: u64,
    /// Seeks so far.
    pub seeks: u32,
    /// All below is done.
    pub floor: Offset,
    /// Done above the floor.
    pub acked: Vec<(Offset, Offset)>,
    /// Handed out so often, where that is known.
    pub attempts: Vec<(Offset, u32)>,
}

/// Something that happened.
#[derive(Clone, Debug)]
#[expect(dead_code, reason = "some fields are read by the trace alone, through Debug")]
pub enum Event {
    /// A process begins to start.
    Starting,
    /// It takes traffic.
    Started,
    /// It refused to start.
    StartFailed(String),
    /// A life ends.
    Ending(End),
    /// What is left of it is gone.
    Ended,
    /// The wall clock jumped.
    Jumped(u64),
    /// Flushes are slow from now on, or no more.
    Slow(bool),
    /// A shard stopped although nobody told it to.
    ShardStopped(String),
    /// The gatherer did something, or failed.
    Gathered(String),
    /// See [`Event::Gathered`].
    GatherFailed(String),
    /// A partition is seen for the first time.
    Partition { partition: PartitionId, topic: TopicName, config: TopicConfig },
    /// A topic's deletion is asked for.
    Deleting(PartitionId),
    /// It ended.
    Deleted(PartitionId, Answer<()>),
    /// A purge is asked for.
    Purging(PartitionId),
    /// It ended, when the partition's next offset was `next`.
    Purged(PartitionId, Answer<()>, Offset),
    /// A publish.
    Publish { op: OpId, partition: PartitionId, kind: Kind, messages: Vec<Sent> },
    /// Its end.
    Published { op: OpId, answer: Answer<Vec<Placed>> },
    /// A read without a group.
    Read { partition: PartitionId, from: Offset, next: Offset, records: Vec<Seen>, stats: PartitionStats },
    /// All that a partition holds, while nobody else is at work.
    Audit { partition: PartitionId, stats: PartitionStats, records: Vec<Seen> },
    /// Every partition was audited.
    Audited,
    /// A pull's answer; it was asked for at `asked_ms`.
    Pulled { group: GroupRef, member: String, asked_ms: u64, messages: Vec<(Seen, u32)> },
    /// A member gives up all it holds.
    Vanished { group: GroupRef, member: String },
    /// Members say what became of messages.
    Settle { op: OpId, group: GroupRef, verbs: Vec<(Offset, u32, Verb)> },
    /// What came of it.
    Settled { op: OpId, answer: Answer<Vec<Status>> },
    /// A seek.
    Seek { op: OpId, group: GroupRef, to: Offset },
    /// Its end.
    Sought { op: OpId, answer: Answer<()> },
    /// A group's state, as applied.
    Probe { group: GroupRef, view: GroupView },
    /// The replicated state of a shard, while nothing changes it any more.
    Digest { shard: String, rows: usize, digest: u64 },
    /// Something is done to a mesh.
    Fault(String),
    /// A replica leads a shard, as it says itself.
    Leads { group: GroupId, prefix: Prefix, term: u64, replica: ReplicaId },
    /// What a replica holds, and up to which entry of the log that is.
    Applied { group: GroupId, replica: ReplicaId, index: u64, digest: u64 },
    /// The parts of the ring that a node knows of, once nothing changes any more.
    Tiles { node: NodeId, prefixes: Vec<Prefix> },
    /// A mesh without faults has come to rest, after so long; or has not, and why.
    Rested(Result<u64, String>),
    /// At the end, a group was emptied, or could not be: what is left.
    Drained { group: GroupRef, lag: u64 },
}

/// An event as the trace has it: long reads in short.
pub struct Traced<'a>(pub &'a Event);

impl fmt::Debug for Traced<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Event::Audit { partition, stats, records } => {
                write!(f, "Audit {partition} {stats:?} {:?}", Brief(records))
            }
            Event::Read { partition, from, next, records, stats } => {
                write!(f, "Read {partition} {from}..{next} {stats:?} {:?}", Brief(records))
            }
            event => event.fmt(f),
        }
    }
}
