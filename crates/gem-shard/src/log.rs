//! The narrow waist: a replicated log as its users see it.
//!
//! Publish, delivery and every gateway speak to [`ShardLog`] alone; Raft, journal, index and
//! objects live beneath it. A shard on this node implements it directly, a shard elsewhere
//! through a link, and `tests/contract.rs` runs one suite against every implementation.
//!
//! Every call answers in bounded time: `wait` is the longest a call may park, and a call that
//! was proposed ends in an answer, `deadline` or `internal`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use gem_types::batch::RecordBatch;
use gem_types::{GroupName, Offset, PartitionId, ProducerId, Result, TimestampMs, TopicName, ring};
use serde::{Deserialize, Serialize};

pub use crate::dispatch::TokenText;

/// How messages of a topic are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ordering {
    /// By key.
    #[default]
    Key,
    /// All messages of the topic: it never splits.
    Total,
}

/// A topic's configuration, as users set it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopicConfig {
    /// How long messages are kept, in milliseconds.
    pub retention_ms: u64,
    /// The most encoded bytes kept, before replication; `None`: no limit.
    pub retention_bytes: Option<u64>,
    /// Deliveries after which a message becomes a dead letter.
    pub max_deliveries: u32,
    /// How long a delivered message is leased, in milliseconds.
    pub ack_timeout_ms: u64,
    /// How messages are ordered.
    pub ordering: Ordering,
    /// How long a client's message id is remembered, in milliseconds.
    pub dedup_window_ms: u64,
}

impl Default for TopicConfig {
    fn default() -> Self {
        TopicConfig {
            retention_ms: 604_800_000,
            retention_bytes: None,
            max_deliveries: 5,
            ack_timeout_ms: 30_000,
            ordering: Ordering::Key,
            dedup_window_ms: 600_000,
        }
    }
}

/// The keys of a topic's configuration that an alteration gives; `None` leaves the key as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicChange {
    /// See [`TopicConfig`].
    pub retention_ms: Option<u64>,
    /// `Some(None)` takes the limit away.
    pub retention_bytes: Option<Option<u64>>,
    /// See [`TopicConfig`].
    pub max_deliveries: Option<u32>,
    /// See [`TopicConfig`].
    pub ack_timeout_ms: Option<u64>,
    /// See [`TopicConfig`]. `Total` is refused once a topic has split.
    pub ordering: Option<Ordering>,
    /// See [`TopicConfig`].
    pub dedup_window_ms: Option<u64>,
}

/// A partition as the topic's map shows it. Covers the key hashes `first_hash..=last_hash`
/// ([`key_hash`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionInfo {
    /// Its number within the topic: what users see.
    pub number: u32,
    /// Its id: what shards know it by.
    pub id: PartitionId,
    /// The first key hash it holds.
    pub first_hash: u64,
    /// The last key hash it holds.
    pub last_hash: u64,
    /// `Some(n)`: takes no more messages, its last offset is `n - 1`.
    pub sealed_at: Option<Offset>,
    /// The partitions it was split from.
    pub parents: Vec<u32>,
}

/// Where a key (or, without one, an id) lies: the first 8 bytes of its SHA-256.
pub fn key_hash(key_or_id: &[u8]) -> u64 {
    gem_types::ring::Position::of(&[b"gem key", key_or_id]).0
}

/// A topic as its home shard knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicInfo {
    /// Its name.
    pub name: TopicName,
    /// Its configuration.
    pub config: TopicConfig,
    /// Rises with every change of configuration or partition map.
    pub version: u64,
    /// Its partitions, by number.
    pub partitions: Vec<PartitionInfo>,
}

/// What a partition holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStats {
    /// The first offset that is retained.
    pub earliest: Offset,
    /// The offset that the next message gets; all below are readable.
    pub next: Offset,
    /// Messages retained.
    pub messages: u64,
    /// Encoded bytes retained, before replication.
    pub bytes: u64,
}

/// Messages to be appended to one partition, in order.
#[derive(Clone, Debug)]
pub struct Append {
    /// The partition.
    pub partition: PartitionId,
    /// A checked batch; its base offset and append time are stamped by the leader.
    pub batch: RecordBatch,
    /// One per record where any of them carries a client's own id: the digest of (key, id),
    /// `None` for records without one. Empty where no record has one.
    pub dedup: Vec<Option<[u8; 16]>>,
    /// The producer's numbers, where the batch comes from a numbered producer.
    pub producer: Option<ProducerBatch>,
    /// How long the caller waits.
    pub wait: Duration,
}

/// How a numbered producer names a batch (RIFL, Lee et al., SOSP 2015).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerBatch {
    /// Who.
    pub producer: ProducerId,
    /// Each record's number, rising; one per record.
    pub numbers: Vec<u64>,
    /// The producer's previous number in this partition; 0 where there is none.
    pub previous: u64,
    /// All numbers below this one are settled.
    pub settled: u64,
}

/// What became of one record of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// Where it is stored.
    pub offset: Offset,
    /// It had been stored before.
    pub duplicate: bool,
}

/// What a read asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// The partition.
    pub partition: PartitionId,
    /// The first offset wanted. Below what is retained, reading begins at the earliest.
    pub from: Offset,
    /// At most so many bytes of batches (but one batch at least).
    pub max_bytes: usize,
    /// How long to wait where nothing is there yet.
    pub wait: Duration,
}

/// What a read found.
#[derive(Clone, Debug)]
pub struct ReadOut {
    /// Whole batches in offset order; the first may begin below `from`.
    pub batches: Vec<RecordBatch>,
    /// Where to read on.
    pub next: Offset,
    /// What the partition held at that moment.
    pub stats: PartitionStats,
}

/// A group's mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Any member gets any message.
    #[default]
    Shared,
    /// No message of a key while an earlier one is out.
    Key,
}

/// Where reading starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum From {
    /// The first message retained.
    Earliest,
    /// What comes from now on.
    Latest,
    /// The first message at or after this time, in each partition.
    Time(TimestampMs),
    /// Partition `0` (its number) from offset `1`; all others from the earliest.
    At(u32, Offset),
}

/// Identifies a group's share in one partition.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GroupRef {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionId,
    /// The group.
    pub group: GroupName,
}

/// A member asks for messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pull {
    /// Which group, in which partition. A group that does not exist is made.
    pub group: GroupRef,
    /// The member's name.
    pub consumer: String,
    /// The mode wanted; giving another than the group's is `conflict`, giving none takes it.
    pub mode: Option<Mode>,
    /// Where a new group starts; `Earliest` where absent. An existing group ignores it.
    pub from: Option<From>,
    /// At most so many messages.
    pub max: usize,
    /// At most about so many bytes (but one message at least).
    pub max_bytes: usize,
    /// How long to wait for the first message.
    pub wait: Duration,
    /// Set by streams: identifies the stream, whose end frees the leases handed out under it.
    pub stream: Option<u64>,
}

/// Tokens and what to do with each, shared between who asks and who answers.
pub type Settles = Arc<Vec<(String, Verb)>>;

/// A message handed to a member.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// The batch that holds it: shared, never copied.
    pub batch: Arc<RecordBatch>,
    /// Its index among the batch's records.
    pub index: u32,
    /// Its offset.
    pub offset: Offset,
    /// How often it was handed out, this time included.
    pub delivery: u32,
    /// What acks it.
    pub token: TokenText,
}

/// What a member says of a message it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    /// Done.
    Ack,
    /// Not done: deliver it again after so many milliseconds.
    Nack {
        /// The delay.
        delay_ms: u64,
    },
    /// Lease it until so many milliseconds from now.
    Extend {
        /// From when the request arrives.
        by_ms: u64,
    },
}

/// What became of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Acked, now or before.
    Acked,
    /// To be delivered again.
    Nacked,
    /// Leased for longer.
    Extended,
    /// The lease had ended: the message may be with another.
    Expired,
    /// Not a token of this topic and group.
    Unknown,
}

impl Status {
    /// As it stands in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Acked => "acked",
            Status::Nacked => "nacked",
            Status::Extended => "extended",
            Status::Expired => "expired",
            Status::Unknown => "unknown",
        }
    }
}

/// A group as users see it, in one partition; a topic's is the sum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupInfo {
    /// Its name.
    pub group: GroupName,
    /// Its mode.
    pub mode: Mode,
    /// Stored, neither acked nor dead-lettered, pending included.
    pub lag: u64,
    /// Leased now.
    pub pending: u64,
    /// Redeliveries since the group was made.
    pub redelivered: u64,
    /// Dead letters since the group was made.
    pub dead_lettered: u64,
    /// Its members.
    pub members: Vec<MemberInfo>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// Its name.
    pub consumer: String,
    /// Leased to it now.
    pub pending: u64,
    /// When it last pulled, acked, extended or sent a heartbeat.
    pub last_seen_ms: TimestampMs,
}

/// A page of topics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicPage {
    /// In order of name.
    pub topics: Vec<TopicInfo>,
    /// Whether more follow.
    pub more: bool,
}

/// A shard's log, wherever its leader is.
pub trait ShardLog: Send + Sync + 'static {
    /// Creates a topic whose home is this shard. The flag says whether it is new; a topic that
    /// stands with another configuration is `conflict`.
    fn create_topic(&self, name: TopicName, config: TopicConfig) -> BoxFuture<'_, Result<(TopicInfo, bool)>>;
    /// The topic; `not_found` where there is none.
    fn topic(&self, name: TopicName) -> BoxFuture<'_, Result<TopicInfo>>;
    /// Changes the keys given.
    fn alter_topic(&self, name: TopicName, change: TopicChange) -> BoxFuture<'_, Result<TopicInfo>>;
    /// Deletes the topic, its groups and its messages.
    fn delete_topic(&self, name: TopicName) -> BoxFuture<'_, Result<()>>;
    /// The topics whose home is this shard, after `after`, whose names begin with `prefix`.
    fn list_topics(&self, prefix: String, after: Option<String>, limit: usize) -> BoxFuture<'_, Result<TopicPage>>;

    /// Appends, and answers once the batch is durable and applied: one [`Placed`] per record.
    fn append(&self, append: Append) -> BoxFuture<'_, Result<Vec<Placed>>>;
    /// Reads committed batches.
    fn read(&self, read: Read) -> BoxFuture<'_, Result<ReadOut>>;
    /// What a partition holds.
    fn stats(&self, partition: PartitionId) -> BoxFuture<'_, Result<PartitionStats>>;
    /// The offset at which `from` begins.
    fn resolve(&self, partition: PartitionId, number: u32, from: From) -> BoxFuture<'_, Result<Offset>>;
    /// Forgets every message below `before`; `None`: all. Offsets go on.
    fn trim(&self, partition: PartitionId, before: Option<Offset>) -> BoxFuture<'_, Result<()>>;

    /// Hands messages to a member.
    fn pull(&self, pull: Pull) -> BoxFuture<'_, Result<Vec<Delivered>>>;
    /// Settles tokens, in order. Acks and nacks are durable when answered.
    fn settle(&self, group: GroupRef, verbs: Settles) -> BoxFuture<'_, Result<Vec<Status>>>;
    /// Extends all that the member holds by the ack timeout from now; answers how many.
    fn heartbeat(&self, group: GroupRef, consumer: String) -> BoxFuture<'_, Result<u64>>;
    /// Ends a stream: frees the leases handed out under it at once.
    fn close_stream(&self, group: GroupRef, consumer: String, stream: u64) -> BoxFuture<'_, Result<()>>;
    /// The groups of a partition.
    fn groups(&self, topic: TopicName, partition: PartitionId) -> BoxFuture<'_, Result<Vec<GroupInfo>>>;
    /// One group; `not_found` where there is none.
    fn group(&self, group: GroupRef) -> BoxFuture<'_, Result<GroupInfo>>;
    /// Moves a group to `offset`; its leases end.
    fn seek(&self, group: GroupRef, offset: Offset) -> BoxFuture<'_, Result<()>>;
    /// Deletes a group.
    fn delete_group(&self, group: GroupRef) -> BoxFuture<'_, Result<()>>;
}

/// Finds the shard that holds a ring position. The mesh's route cache implements it; a mesh of
/// one knows all its shards.
pub trait Router: Send + Sync + 'static {
    /// The shard that holds `position`.
    fn route(&self, position: gem_types::Position) -> Result<Arc<dyn ShardLog>>;
    /// Every shard, in ring order: for listings.
    fn all(&self) -> Vec<Arc<dyn ShardLog>>;
}

/// A message on its way to a dead-letter topic.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The dead-letter topic.
    pub topic: TopicName,
    /// The partition that it comes from.
    pub source: PartitionId,
    /// Its offset there.
    pub offset: Offset,
    /// The life of its group: see [`GroupState`](crate::machine::GroupState).
    pub life: u64,
    /// The number of its move, from 1; a group gives each out once.
    pub number: u64,
    /// All moves of lower numbers are done.
    pub settled: u64,
    /// A record batch with the message alone.
    pub record: Bytes,
}

impl DeadLetter {
    /// How the move is numbered for the partition that takes it: under a producer that stands for
    /// this life of the group, numbers nothing in order, and never expires.
    pub fn producer(&self) -> ProducerBatch {
        let life = self.life.to_be_bytes();
        let digest = ring::digest(&[b"gem dead letters", &self.source.0, self.topic.as_str().as_bytes(), &life]);
        let [a, b, c, d, e, f, g, h, ..] = digest;
        // Negative: the mesh's own.
        let producer = ProducerId(i64::from_be_bytes([a | 0x80, b, c, d, e, f, g, h]));
        ProducerBatch { producer, numbers: vec![self.number], previous: 0, settled: self.settled }
    }
}

/// The dead-letter publisher's seam: how a source shard publishes to another shard.
pub trait DeadLetters: Send + Sync + 'static {
    /// Publishes `letter` once, however often and however late it is called, and answers once that
    /// is durable.
    fn publish(&self, letter: DeadLetter) -> BoxFuture<'_, Result<()>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_life_of_a_group_moves_under_a_producer_of_its_own() {
        let topic = |name: &str| TopicName::new(name).unwrap();
        let letter = |name: &str, offset, life, number| DeadLetter {
            topic: topic(name),
            source: PartitionId::new(&topic("orders"), 0, b"made"),
            offset,
            life,
            number,
            settled: number,
            record: Bytes::new(),
        };
        let first = letter("orders.a.dlq", 7, 1, 3).producer();
        assert!(crate::machine::is_internal(first.producer));
        assert_eq!(first, letter("orders.a.dlq", 7, 1, 3).producer());
        assert_eq!(first.producer, letter("orders.a.dlq", 9, 1, 4).producer().producer);
        assert_ne!(first.producer, letter("orders.a.dlq", 7, 2, 3).producer().producer);
        assert_ne!(first.producer, letter("orders.b.dlq", 7, 1, 3).producer().producer);
    }
}
