//! Every call of a shard's log, as a value that can be sent, and sent again.

use std::time::Duration;

use gem_types::{Offset, PartitionId, Position, TopicName};

use crate::log::{Append, From, GroupRef, Pull, Read, Settles, TopicChange, TopicConfig};
use crate::shard::requests::{CHANGE_WAIT, PULL_GRACE};

/// The longest that a call may park at the other side; a longer wait is cut to it.
pub const WAIT_MAX: Duration = Duration::from_secs(3_600);
/// How long a read may take beyond its wait, in which the disk is asked.
const READ_GRACE: Duration = Duration::from_secs(10);
/// What the way there and back may add to any call.
const WAY_GRACE: Duration = Duration::from_secs(1);

/// A call of [`ShardLog`](crate::log::ShardLog): see there for what each does. Cheap to clone: batches
/// and verbs are shared.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the fields are the parameters that ShardLog documents")]
pub enum Call {
    /// `create_topic`
    CreateTopic { name: TopicName, config: TopicConfig },
    /// `topic`
    Topic { name: TopicName },
    /// `alter_topic`
    AlterTopic { name: TopicName, change: TopicChange },
    /// `delete_topic`
    DeleteTopic { name: TopicName },
    /// `list_topics`
    ListTopics { prefix: String, after: Option<String>, limit: usize },
    /// `append`
    Append(Append),
    /// `read`
    Read(Read),
    /// `stats`
    Stats { partition: PartitionId },
    /// `resolve`
    Resolve { partition: PartitionId, number: u32, from: From },
    /// `trim`
    Trim { partition: PartitionId, before: Option<Offset> },
    /// `pull`
    Pull(Pull),
    /// `settle`
    Settle { group: GroupRef, verbs: Settles },
    /// `heartbeat`
    Heartbeat { group: GroupRef, consumer: String },
    /// `close_stream`
    CloseStream { group: GroupRef, consumer: String, stream: u64 },
    /// `groups`
    Groups { topic: TopicName, partition: PartitionId },
    /// `group`
    Group { group: GroupRef },
    /// `seek`
    Seek { group: GroupRef, offset: Offset },
    /// `delete_group`
    DeleteGroup { group: GroupRef },
}

/// What a call is, without its parameters. The numbers are those on the wire, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Kind {
    CreateTopic = 1,
    Topic = 2,
    AlterTopic = 3,
    DeleteTopic = 4,
    ListTopics = 5,
    Append = 6,
    Read = 7,
    Stats = 8,
    Resolve = 9,
    Trim = 10,
    Pull = 11,
    Settle = 12,
    Heartbeat = 13,
    CloseStream = 14,
    Groups = 15,
    Group = 16,
    Seek = 17,
    DeleteGroup = 18,
}

impl Kind {
    pub(super) const ALL: [Kind; 18] = [
        Kind::CreateTopic,
        Kind::Topic,
        Kind::AlterTopic,
        Kind::DeleteTopic,
        Kind::ListTopics,
        Kind::Append,
        Kind::Read,
        Kind::Stats,
        Kind::Resolve,
        Kind::Trim,
        Kind::Pull,
        Kind::Settle,
        Kind::Heartbeat,
        Kind::CloseStream,
        Kind::Groups,
        Kind::Group,
        Kind::Seek,
        Kind::DeleteGroup,
    ];

    pub(super) fn of(tag: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == tag)
    }

    /// Whether a replica that does not lead may answer: what it says may be a moment old.
    pub(super) fn is_for_any(self) -> bool {
        matches!(self, Kind::Topic | Kind::ListTopics | Kind::Read | Kind::Stats | Kind::Resolve)
    }
}

impl Call {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Call::CreateTopic { .. } => Kind::CreateTopic,
            Call::Topic { .. } => Kind::Topic,
            Call::AlterTopic { .. } => Kind::AlterTopic,
            Call::DeleteTopic { .. } => Kind::DeleteTopic,
            Call::ListTopics { .. } => Kind::ListTopics,
            Call::Append(_) => Kind::Append,
            Call::Read(_) => Kind::Read,
            Call::Stats { .. } => Kind::Stats,
            Call::Resolve { .. } => Kind::Resolve,
            Call::Trim { .. } => Kind::Trim,
            Call::Pull(_) => Kind::Pull,
            Call::Settle { .. } => Kind::Settle,
            Call::Heartbeat { .. } => Kind::Heartbeat,
            Call::CloseStream { .. } => Kind::CloseStream,
            Call::Groups { .. } => Kind::Groups,
            Call::Group { .. } => Kind::Group,
            Call::Seek { .. } => Kind::Seek,
            Call::DeleteGroup { .. } => Kind::DeleteGroup,
        }
    }

    /// The ring position that it concerns: the shard that holds it is asked. `None`: whatever the
    /// shard holds (`list_topics`).
    pub fn position(&self) -> Option<Position> {
        match self {
            Call::CreateTopic { name, .. }
            | Call::Topic { name }
            | Call::AlterTopic { name, .. }
            | Call::DeleteTopic { name } => Some(name.position()),
            Call::ListTopics { .. } => None,
            Call::Append(append) => Some(append.partition.position()),
            Call::Read(read) => Some(read.partition.position()),
            Call::Stats { partition }
            | Call::Resolve { partition, .. }
            | Call::Trim { partition, .. }
            | Call::Groups { partition, .. } => Some(partition.position()),
            Call::Pull(pull) => Some(pull.group.partition.position()),
            Call::Settle { group, .. }
            | Call::Heartbeat { group, .. }
            | Call::CloseStream { group, .. }
            | Call::Group { group }
            | Call::Seek { group, .. }
            | Call::DeleteGroup { group } => Some(group.partition.position()),
        }
    }

    /// Whether its outcome matters to whoever got no answer: it stored, settled or changed
    /// something, or not. Of all others a new call tells as much.
    pub fn changes(&self) -> bool {
        match self.kind() {
            Kind::CreateTopic | Kind::AlterTopic | Kind::DeleteTopic | Kind::Append | Kind::Trim => true,
            Kind::Settle | Kind::Seek | Kind::DeleteGroup => true,
            Kind::Topic | Kind::ListTopics | Kind::Read | Kind::Stats | Kind::Resolve | Kind::Pull => false,
            Kind::Heartbeat | Kind::CloseStream | Kind::Groups | Kind::Group => false,
        }
    }

    /// Whether it may be made again although it may have been carried out: the second time finds
    /// the first, or does no harm. An append is so where every record has a number or an id; of
    /// those that change topics and groups none is, since the second answer would be another one
    /// (`not_found` after a deletion), or would undo what came in between (a seek).
    pub fn is_repeatable(&self) -> bool {
        match self {
            Call::Append(append) => {
                let all_have_ids = !append.dedup.is_empty() && append.dedup.iter().all(Option::is_some);
                append.producer.is_some() || all_have_ids
            }
            // A token says which delivery it settles: what is settled stays so. A nack's delay or an
            // extension begins anew.
            Call::Settle { .. } => true,
            call => !call.changes(),
        }
    }

    /// How long it may park at the other side.
    pub fn wait(&self) -> Duration {
        match self {
            Call::Append(append) => append.wait,
            Call::Read(read) => read.wait,
            Call::Pull(pull) => pull.wait,
            _ => CHANGE_WAIT,
        }
        .min(WAIT_MAX)
    }

    /// How long its answer is waited for.
    pub fn patience(&self) -> Duration {
        let grace = match self {
            Call::Read(_) => READ_GRACE,
            Call::Pull(_) => PULL_GRACE,
            _ => Duration::ZERO,
        };
        self.wait() + grace + WAY_GRACE
    }
}
