//! Entries: what a shard's log holds.
//!
//! ```text
//!  0        1       2              6
//!  ┌────────┬───────┬──────────────┬────────────────┬──────────────────────────┐
//!  │version │ kind  │ head length  │ head           │ batches, one after       │
//!  │ = 1    │ = 2   │ u32, LE      │ time, commands │ another, as they came    │
//!  └────────┴───────┴──────────────┴────────────────┴──────────────────────────┘
//!  kind 0: blank, nothing follows · kind 1: a membership, opaque bytes follow
//! ```
//!
//! The head holds the leader's time and the commands ([`commands`]); a batch's bytes stand
//! behind it in one piece, so that a location can name them inside the journal's record and a
//! reader never needs the rest. Neither encoding nor decoding copies them.

mod commands;
pub mod wire;

#[cfg(test)]
mod tests;

use std::ops::Range;

use bytes::Bytes;
use gem_types::batch::RecordBatch;
use gem_types::{Offset, PartitionId, ProducerId, TimestampMs, TopicName};

pub(crate) use commands::{
    mode_tag, put_change, put_config, put_group, put_origin, take_change, take_config, take_group, take_mode,
    take_origin,
};
pub use gem_store::LogPos;
pub use wire::Malformed;

use crate::log::{GroupRef, Mode, ProducerBatch, TopicChange, TopicConfig};
use wire::{Reader, Writer};

const VERSION: u8 = 1;
const BLANK: u8 = 0;
const MEMBERSHIP: u8 = 1;
const ENTRY: u8 = 2;
/// Version, kind and head length.
const FRAME_LEN: usize = 6;

/// What one place in the log holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing: a new leader's first entry.
    Blank,
    /// Raft's own: a membership as it encodes it.
    Membership(Bytes),
    /// The shard's.
    Entry(Entry),
}

/// Commands that were judged together, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The leader's clock when it proposed this. Apply has no other.
    pub now_ms: TimestampMs,
    /// What to do.
    pub commands: Vec<Command>,
}

/// One change of a shard's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Stores a batch.
    Append(AppendBatch),
    /// Remembers the numbers of records that were stored before, under a client's id.
    Number(Number),
    /// Makes a topic with one partition.
    CreateTopic {
        /// Its name.
        name: TopicName,
        /// Its configuration.
        config: TopicConfig,
    },
    /// Changes a topic's configuration.
    AlterTopic {
        /// Its name.
        name: TopicName,
        /// The keys to change.
        change: TopicChange,
    },
    /// Deletes a topic and all that hangs on it.
    DeleteTopic {
        /// Its name.
        name: TopicName,
    },
    /// Forgets every message below an offset.
    Trim {
        /// Of which partition.
        partition: PartitionId,
        /// The first offset kept; one beyond the end forgets all.
        before: Offset,
    },
    /// Makes a group's share in a partition. A group that stands stays as it is.
    CreateGroup {
        /// Which.
        group: GroupRef,
        /// Its mode.
        mode: Mode,
        /// The first offset that it gets.
        start: Offset,
    },
    /// Deletes a group's share in a partition.
    DeleteGroup {
        /// Which.
        group: GroupRef,
    },
    /// Moves a group: all from `offset` on is to be delivered again.
    Seek {
        /// Which.
        group: GroupRef,
        /// Its new floor.
        offset: Offset,
    },
    /// What happened to a group's messages.
    Progress(Progress),
    /// Forgets the clients' ids of batches that were stored before a time.
    ExpireIds {
        /// Of which partition.
        partition: PartitionId,
        /// The first time kept.
        before_ms: TimestampMs,
    },
    /// Forgets producers that were last seen before a time, and raises the producer frontier.
    ExpireProducers {
        /// Of which partition.
        partition: PartitionId,
        /// The first time kept.
        before_ms: TimestampMs,
    },
}

/// A batch to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendBatch {
    /// In which partition.
    pub partition: PartitionId,
    /// The batch, stamped: its base offset must be the partition's next.
    pub batch: RecordBatch,
    /// One per record where any carries a client's own id, else empty.
    pub dedup: Vec<Option<[u8; 16]>>,
    /// The producer's numbers, one per record, where it is numbered.
    pub producer: Option<ProducerBatch>,
}

/// Numbers of a producer whose records another batch already holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Number {
    /// In which partition.
    pub partition: PartitionId,
    /// Whose.
    pub producer: ProducerId,
    /// All numbers below this one are settled.
    pub settled: u64,
    /// The numbers, rising, and where their records are.
    pub placed: Vec<(u64, Offset)>,
}

/// What happened to the messages of a group, in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Which group.
    pub group: GroupRef,
    /// First deliveries may go out below this offset.
    pub frontier: Option<Offset>,
    /// Acked: ranges `from..to`.
    pub acked: Vec<(Offset, Offset)>,
    /// How often an offset was handed out, where that is more than once.
    pub attempts: Vec<(Offset, u32)>,
    /// Not to be delivered again before a time.
    pub delayed: Vec<(Offset, TimestampMs)>,
    /// On their way to the dead-letter topic: out of dispatch.
    pub moving: Vec<Offset>,
    /// Stored in the dead-letter topic: done.
    pub moved: Vec<Offset>,
    /// Deliveries after the first, since the last such command.
    pub redelivered: u64,
}

impl Progress {
    /// Nothing yet, of `group`.
    pub fn of(group: GroupRef) -> Self {
        Progress {
            group,
            frontier: None,
            acked: Vec::new(),
            attempts: Vec::new(),
            delayed: Vec::new(),
            moving: Vec::new(),
            moved: Vec::new(),
            redelivered: 0,
        }
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.frontier.is_none()
            && self.acked.is_empty()
            && self.attempts.is_empty()
            && self.delayed.is_empty()
            && self.moving.is_empty()
            && self.moved.is_empty()
            && self.redelivered == 0
    }
}

impl Payload {
    /// The encoded payload in parts, to be written one after another. Batches are shared.
    pub fn encode(&self) -> Vec<Bytes> {
        match self {
            Payload::Blank => vec![Bytes::from_static(&[VERSION, BLANK])],
            Payload::Membership(bytes) => vec![Bytes::from_static(&[VERSION, MEMBERSHIP]), bytes.clone()],
            Payload::Entry(entry) => entry.encode(),
        }
    }

    /// Reads a payload. Batches are slices of `bytes`, their checksums verified.
    pub fn decode(bytes: Bytes) -> Result<Payload, Malformed> {
        match *bytes.first_chunk().ok_or(Malformed("payload"))? {
            [VERSION, BLANK] if bytes.len() == 2 => Ok(Payload::Blank),
            [VERSION, MEMBERSHIP] => Ok(Payload::Membership(bytes.slice(2..))),
            [VERSION, ENTRY] => Entry::decode(bytes).map(Payload::Entry),
            _ => Err(Malformed("payload: not a version and kind that this release knows")),
        }
    }

    /// The bytes that [`encode`](Self::encode) gives, about: for limits on what is in flight.
    pub fn size(&self) -> usize {
        match self {
            Payload::Blank => 2,
            Payload::Membership(bytes) => 2 + bytes.len(),
            Payload::Entry(entry) => FRAME_LEN + entry.commands.iter().map(Command::size).sum::<usize>(),
        }
    }
}

impl Entry {
    /// The encoded payload in parts, to be written one after another: the first holds the head,
    /// the others are the batches' own buffers.
    pub fn encode(&self) -> Vec<Bytes> {
        let mut parts = vec![Bytes::new()];
        parts.extend(self.batches().flat_map(RecordBatch::parts));
        let head = self.encode_head();
        let mut first = Vec::with_capacity(FRAME_LEN + head.len());
        first.extend([VERSION, ENTRY]);
        // A head never nears 4 GiB: an entry is bounded by the proposer to some megabytes.
        first.extend((head.len() as u32).to_le_bytes());
        first.extend(head);
        parts[0] = first.into();
        parts
    }

    /// Reads an entry; see [`Payload::decode`].
    pub fn decode(bytes: Bytes) -> Result<Entry, Malformed> {
        let (head, mut at) = frame(&bytes)?;
        let entry = Entry::decode_head(head, |length| {
            let end = at.checked_add(length).filter(|end| *end <= bytes.len()).ok_or(Malformed("entry's batch"))?;
            let batch = RecordBatch::open(bytes.slice(at..end)).map_err(|_| Malformed("entry's batch"))?;
            at = end;
            Ok(batch)
        })?;
        if at != bytes.len() {
            return Err(Malformed("entry: bytes follow the last batch"));
        }
        Ok(entry)
    }

    /// The batches, in order.
    pub(crate) fn batches(&self) -> impl Iterator<Item = &RecordBatch> {
        self.commands.iter().filter_map(|command| match command {
            Command::Append(append) => Some(&append.batch),
            _ => None,
        })
    }

    /// The head alone: time and commands, without the batches.
    pub(crate) fn encode_head(&self) -> Vec<u8> {
        let mut head = Writer::new();
        head.i64(self.now_ms).u64(self.commands.len() as u64);
        for command in &self.commands {
            commands::put(&mut head, command);
        }
        head.finish()
    }

    /// Reads what [`encode_head`](Self::encode_head) wrote; `batch` gives the next batch, which
    /// has so many bytes.
    pub(crate) fn decode_head(
        mut head: Reader<'_>,
        mut batch: impl FnMut(usize) -> Result<RecordBatch, Malformed>,
    ) -> Result<Entry, Malformed> {
        let now_ms = head.i64()?;
        let count = head.count(2)?;
        // A command is some ten times larger in memory than its shortest encoding.
        let mut commands = Vec::with_capacity(count.min(1024));
        for _ in 0..count {
            commands.push(commands::take(&mut head, &mut batch)?);
        }
        head.end()?;
        Ok(Entry { now_ms, commands })
    }
}

/// A batch within an encoded payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchIn {
    /// The index of the command that holds it.
    pub command: usize,
    /// Its partition.
    pub partition: PartitionId,
    /// Its base offset.
    pub base: Offset,
    /// Where in the payload it lies.
    pub range: Range<usize>,
}

/// The batches in an encoded payload, in order, without reading the batches themselves beyond
/// their base offsets.
pub fn batches_in(payload: &[u8]) -> Result<Vec<BatchIn>, Malformed> {
    match payload.first_chunk() {
        Some([VERSION, ENTRY]) => {}
        Some([VERSION, BLANK | MEMBERSHIP]) => return Ok(Vec::new()),
        _ => return Err(Malformed("payload: not a version and kind that this release knows")),
    }
    let (mut head, mut at) = frame(payload)?;
    let _now_ms = head.i64()?;
    let count = head.count(2)?;
    let mut found = Vec::new();
    for command in 0..count {
        let Some((partition, length)) = commands::peek_batch(&mut head)? else { continue };
        let end = at.checked_add(length).ok_or(Malformed("entry's batch"))?;
        let first = payload.get(at..end).and_then(|batch| batch.first_chunk()).ok_or(Malformed("entry's batch"))?;
        found.push(BatchIn { command, partition, base: Offset::from_be_bytes(*first), range: at..end });
        at = end;
    }
    Ok(found)
}

/// The head of an encoded entry, and where its batches begin.
fn frame(payload: &[u8]) -> Result<(Reader<'_>, usize), Malformed> {
    let Some(&[VERSION, ENTRY, a, b, c, d]) = payload.first_chunk::<FRAME_LEN>() else {
        return Err(Malformed("entry"));
    };
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    let end = FRAME_LEN.checked_add(length).ok_or(Malformed("entry"))?;
    let head = payload.get(FRAME_LEN..end).ok_or(Malformed("entry"))?;
    Ok((Reader::new(head, "entry"), end))
}
