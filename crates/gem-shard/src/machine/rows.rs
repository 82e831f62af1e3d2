//! The rows of the state family, field by field. Keys: [`keys`](super::keys).
//!
//! Every row begins with its version; a field is added under a new one, and old ones are read
//! for ever (fixtures: [`rows_tests`](super)).

use bytes::Bytes;
use gem_types::{Offset, PartitionId, ProducerId, TimestampMs, TopicName};

use super::keys;
use super::tables::TableRow;
use crate::entry::wire::{Malformed, Reader, Writer};
use crate::entry::{put_config, take_config};
use crate::log::{PartitionInfo, PartitionStats, TopicConfig};

/// A topic, in its home shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its configuration.
    pub config: TopicConfig,
    /// Rises with every change of configuration or partition map.
    pub version: u64,
    /// Its partitions, by number.
    pub partitions: Vec<PartitionInfo>,
}

impl TableRow for Topic {
    type Key = TopicName;
    const NAME: &'static str = "topic row";

    fn key(name: &TopicName) -> Bytes {
        keys::topic(name)
    }

    fn put(&self, out: &mut Writer) {
        put_config(out, &self.config);
        out.u64(self.version).u64(self.partitions.len() as u64);
        for partition in &self.partitions {
            out.u64(partition.number.into()).fixed(&partition.id.0);
            out.u64(partition.first_hash).u64(partition.last_hash).option(partition.sealed_at);
            out.u64(partition.parents.len() as u64);
            partition.parents.iter().for_each(|parent| {
                out.u64((*parent).into());
            });
        }
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut topic = Topic { config: take_config(input)?, version: input.u64()?, partitions: Vec::new() };
        for _ in 0..input.count(20)? {
            let mut partition = PartitionInfo {
                number: input.u32()?,
                id: input.partition()?,
                first_hash: input.u64()?,
                last_hash: input.u64()?,
                sealed_at: input.option()?,
                parents: Vec::new(),
            };
            for _ in 0..input.count(1)? {
                partition.parents.push(input.u32()?);
            }
            topic.partitions.push(partition);
        }
        Ok(topic)
    }
}

/// A partition, in the shard that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// The topic that it belongs to.
    pub topic: TopicName,
    /// Its number within the topic.
    pub number: u32,
    /// The first offset that is retained. May lie within a batch.
    pub earliest: Offset,
    /// The offset that the next message gets.
    pub next: Offset,
    /// Messages retained.
    pub messages: u64,
    /// Encoded bytes of the batches that hold them.
    pub bytes: u64,
    /// The append time of the earliest batch retained; of the last one where none is.
    pub first_ms: TimestampMs,
    /// The append time of the last batch: the next one's is not below it.
    pub last_ms: TimestampMs,
    /// `Some(n)`: takes no more messages.
    pub sealed_at: Option<Offset>,
    /// Unknown producers made before this time are refused.
    pub producer_frontier_ms: TimestampMs,
    /// No producer known here was last seen before this time; `None`: none is known.
    pub producers_seen_ms: Option<TimestampMs>,
}

impl Partition {
    pub(super) fn new(topic: TopicName, number: u32) -> Self {
        Partition {
            topic,
            number,
            earliest: 0,
            next: 0,
            messages: 0,
            bytes: 0,
            first_ms: 0,
            last_ms: 0,
            sealed_at: None,
            producer_frontier_ms: 0,
            producers_seen_ms: None,
        }
    }

    /// What it holds.
    pub fn stats(&self) -> PartitionStats {
        PartitionStats { earliest: self.earliest, next: self.next, messages: self.messages, bytes: self.bytes }
    }
}

impl TableRow for Partition {
    type Key = PartitionId;
    const NAME: &'static str = "partition row";

    fn key(id: &PartitionId) -> Bytes {
        keys::partition(keys::PARTITIONS, *id)
    }

    fn put(&self, out: &mut Writer) {
        out.bytes(self.topic.as_str().as_bytes()).u64(self.number.into());
        out.u64(self.earliest).u64(self.next).u64(self.messages).u64(self.bytes);
        out.i64(self.first_ms).i64(self.last_ms).option(self.sealed_at).i64(self.producer_frontier_ms);
        match self.producers_seen_ms {
            Some(seen_ms) => out.u8(1).i64(seen_ms),
            None => out.u8(0),
        };
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Partition {
            topic: input.topic()?,
            number: input.u32()?,
            earliest: input.u64()?,
            next: input.u64()?,
            messages: input.u64()?,
            bytes: input.u64()?,
            first_ms: input.i64()?,
            last_ms: input.i64()?,
            sealed_at: input.option()?,
            producer_frontier_ms: input.i64()?,
            producers_seen_ms: match input.u8()? {
                0 => None,
                1 => Some(input.i64()?),
                _ => return Err(input.malformed()),
            },
        })
    }
}

/// A batch that is retained. Its base offset is in the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchRow {
    /// Its records: their offsets follow one another.
    pub count: u32,
    /// Its append time.
    pub at_ms: TimestampMs,
    /// Its encoded bytes.
    pub bytes: u64,
}

impl TableRow for BatchRow {
    type Key = (PartitionId, Offset);
    const NAME: &'static str = "batch row";

    fn key((partition, base): &Self::Key) -> Bytes {
        keys::numbered(keys::BATCHES, *partition, *base)
    }

    fn put(&self, out: &mut Writer) {
        out.u64(self.count.into()).i64(self.at_ms).u64(self.bytes);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(BatchRow { count: input.u32()?, at_ms: input.i64()?, bytes: input.u64()? })
    }
}

/// The clients' ids in a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IdsRow {
    /// The batch's append time.
    pub at_ms: TimestampMs,
    /// Digests of (key, id), and the record's index in the batch.
    pub ids: Vec<([u8; 16], u32)>,
}

impl TableRow for IdsRow {
    type Key = (PartitionId, Offset);
    const NAME: &'static str = "ids row";

    fn key((partition, base): &Self::Key) -> Bytes {
        keys::numbered(keys::IDS, *partition, *base)
    }

    fn put(&self, out: &mut Writer) {
        out.i64(self.at_ms).u64(self.ids.len() as u64);
        for (digest, index) in &self.ids {
            out.fixed(digest).u64((*index).into());
        }
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        let at_ms = input.i64()?;
        let count = input.count(17)?;
        let mut ids = Vec::with_capacity(count);
        for _ in 0..count {
            ids.push((input.fixed()?, input.u32()?));
        }
        Ok(IdsRow { at_ms, ids })
    }
}

/// What a partition remembers of a numbered producer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Producer {
    /// All numbers below this one are settled: the producer will not ask for them again.
    pub settled: u64,
    /// The greatest number stored here.
    pub last: u64,
    /// When it last stored something here.
    pub seen_ms: TimestampMs,
    /// Where the numbers from `settled` on are stored, in order.
    pub(super) runs: Vec<Run>,
}

/// Numbers `number..number + count` at offsets `offset..offset + count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub number: u64,
    pub offset: Offset,
    pub count: u64,
}

impl TableRow for Producer {
    type Key = (PartitionId, ProducerId);
    const NAME: &'static str = "producer row";

    fn key((partition, producer): &Self::Key) -> Bytes {
        // Flipping the sign bit sorts signed numbers as bytes.
        keys::numbered(keys::PRODUCERS, *partition, (producer.0 as u64) ^ (1 << 63))
    }

    fn put(&self, out: &mut Writer) {
        out.u64(self.settled).u64(self.last).i64(self.seen_ms).u64(self.runs.len() as u64);
        for run in &self.runs {
            out.u64(run.number).u64(run.offset).u64(run.count);
        }
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (settled, last, seen_ms) = (input.u64()?, input.u64()?, input.i64()?);
        let count = input.count(3)?;
        let mut runs = Vec::with_capacity(count);
        for _ in 0..count {
            let run = Run { number: input.u64()?, offset: input.u64()?, count: input.u64()? };
            if run.number.checked_add(run.count).and(run.offset.checked_add(run.count)).is_none() {
                return Err(input.malformed());
            }
            runs.push(run);
        }
        Ok(Producer { settled, last, seen_ms, runs })
    }
}

/// The producer in a producer row's key.
pub(super) fn producer_of(key: &[u8]) -> Option<ProducerId> {
    Some(ProducerId((keys::number_of(key)? ^ (1 << 63)) as i64))
}
