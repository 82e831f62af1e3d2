//! What dispatch is told and what it asks for: the events' and actions' types.

use std::sync::Arc;

use gem_types::batch::RecordBatch;
use gem_types::{Error, Offset, PartitionId, TimestampMs};

use crate::entry::Progress;
use crate::log::{Delivered, GroupRef, MemberInfo, Mode, Ordering, Status, TopicConfig};

/// The bounds of dispatch. All are per group, so that no group spends another's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DispatchConfig {
    /// A member that is silent for so long loses its leases, in milliseconds.
    pub member_timeout_ms: u64,
    /// The most messages that are begun and not finished (leased, delayed, parked behind their
    /// key, becoming dead letters): also how far first deliveries look ahead past a slow key.
    pub max_out: usize,
    /// The most leases of one member. Larger than the largest pull, smaller than `max_out`, so
    /// that a member which acks nothing leaves room for the others.
    pub max_out_member: u64,
    /// The most pulls that wait.
    pub max_waiting: usize,
    /// The most members that are remembered.
    pub max_members: usize,
    /// The most messages by which the frontier is logged ahead: what a loss of the leader may
    /// hold back. Chunks begin at what is asked for and grow while deliveries wait for them.
    pub frontier_chunk: u64,
    /// How many bytes of batches one fetch asks for.
    pub fetch_bytes: usize,
    /// How many bytes of batches are kept at hand.
    pub cache_bytes: usize,
    /// How much longer than it asked a pull waits where messages are there and only a log entry
    /// or a fetch under way keeps them from it, in milliseconds.
    pub linger_ms: u64,
}

impl Default for DispatchConfig {
    fn default() -> Self {
        DispatchConfig {
            member_timeout_ms: 30_000,
            max_out: 65_536,
            max_out_member: 16_384,
            max_waiting: 4_096,
            max_members: 4_096,
            frontier_chunk: 16_384,
            fetch_bytes: 1 << 20,
            cache_bytes: 2 << 20,
            linger_ms: 1_000,
        }
    }
}

/// The time of an event, by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since some fixed instant; never falls. Leases and deadlines run by it.
    pub mono_ms: u64,
    /// Wall-clock time. Only what outlives a leader (delays) and what users see is in it.
    pub wall_ms: TimestampMs,
}

/// What a group takes from its topic's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How long a lease lasts, in milliseconds.
    pub ack_timeout_ms: u64,
    /// Failed deliveries after which a message becomes a dead letter.
    pub max_deliveries: u32,
    /// In mode `key`, all messages count as one key.
    pub ordering: Ordering,
}

impl From<&TopicConfig> for Rules {
    fn from(config: &TopicConfig) -> Self {
        Rules {
            ack_timeout_ms: config.ack_timeout_ms,
            max_deliveries: config.max_deliveries,
            ordering: config.ordering,
        }
    }
}

/// A group's replicated state as dispatch takes it over: at a leader's start, when the group is
/// made, and after a seek. Ranges are half-open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStart {
    /// Which group.
    pub group: GroupRef,
    /// Tells apart the lives of a group's name (say the log index that made it): tokens of an
    /// earlier life are unknown.
    pub life: u64,
    /// Counts the group's seeks: tokens from before a seek are expired.
    pub seeks: u32,
    /// The group's mode.
    pub mode: Mode,
    /// From the topic's configuration.
    pub rules: Rules,
    /// All below are acked.
    pub floor: Offset,
    /// Acked at or above the floor: `from..to`, rising.
    pub acked: Vec<(Offset, Offset)>,
    /// First deliveries may have gone out below it. May lie beyond the partition's end.
    pub frontier: Offset,
    /// How often a message was handed out, where that is more than once.
    pub attempts: Vec<(Offset, u32)>,
    /// Nacked messages and when they are due.
    pub delayed: Vec<(Offset, TimestampMs)>,
    /// On their way to the dead-letter topic.
    pub moving: Vec<Offset>,
    /// The first offset that the partition retains.
    pub earliest: Offset,
    /// The partition's next offset.
    pub next: Offset,
}

/// Names a proposal; never used twice by one `Dispatch`.
pub type ProposalId = u64;
/// Names a fetch; never used twice by one `Dispatch`.
pub type FetchId = u64;
/// Names a request of a caller; chosen by the driver.
pub type RequestId = u64;

/// What dispatch asks its driver to do.
#[derive(Debug)]
pub enum Action {
    /// Propose this under the leader's term, in the order of the actions, and then say
    /// `on_applied` or `on_failed`.
    Propose {
        /// Which.
        id: ProposalId,
        /// What.
        progress: Progress,
    },
    /// Read committed batches and say `on_records`. The first batch is the one that holds `from`,
    /// or the first that is retained behind it.
    Fetch {
        /// Which.
        id: FetchId,
        /// The partition.
        partition: PartitionId,
        /// The first offset wanted.
        from: Offset,
        /// At most about so many bytes, one batch at least.
        max_bytes: usize,
    },
    /// Answers a pull. If the caller is gone, say `on_undelivered`.
    Reply {
        /// Whose.
        request: RequestId,
        /// What it gets; empty at its deadline.
        result: Result<Vec<Delivered>, Error>,
    },
    /// Answers a settle.
    Settled {
        /// Whose.
        request: RequestId,
        /// One status a token, in order.
        result: Result<Vec<Status>, Error>,
    },
    /// Publish this message to the group's dead-letter topic, once per (partition, offset), and
    /// then say `on_dead_lettered`.
    DeadLetter {
        /// The source group.
        group: GroupRef,
        /// The message's offset in the source.
        offset: Offset,
        /// How often it was delivered.
        deliveries: u32,
        /// The batch that holds it.
        batch: Arc<RecordBatch>,
        /// Its index there.
        index: u32,
    },
}

/// What dispatch knows of a group for [`GroupInfo`](crate::log::GroupInfo).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Leased now.
    pub pending: u64,
    /// Its members, by name.
    pub members: Vec<MemberInfo>,
}
