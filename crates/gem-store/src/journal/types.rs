//! What goes into the journal and what comes out: the vocabulary of its users.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use gem_types::{GroupId, ReplicaId};

use crate::StoreError;

/// Names one entry of one group's log: the leader that made it (a term and a replica, as
/// openraft's `leader_id_adv` has it) and its index. Ordered as Raft orders logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogPos {
    /// The leader's term.
    pub term: u64,
    /// The leader.
    pub leader: ReplicaId,
    /// The entry's index in its group's log.
    pub index: u64,
}

impl fmt::Display for LogPos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

/// One operation on one group's log. Operations of one submission, and of successive ones, become
/// durable in order.
#[derive(Clone, Debug)]
pub enum JournalOp {
    /// Appends an entry. At or below the group's last index it first discards what stands there
    /// and above; beyond the next index it is refused.
    Append {
        /// The group.
        group: GroupId,
        /// The entry's name.
        id: LogPos,
        /// Its bytes, in parts that are written one after another and never copied.
        parts: Vec<Bytes>,
    },
    /// Replaces the group's vote (hard state).
    Vote {
        /// The group.
        group: GroupId,
        /// Opaque.
        vote: Bytes,
    },
    /// Notes how far the group is committed. Lazy: it rides with the next flush, or goes out after
    /// [`JournalConfig::lazy_flush`].
    Commit {
        /// The group.
        group: GroupId,
        /// The last committed entry.
        id: LogPos,
    },
    /// Discards the entries above `after`; all of them for `None`.
    Truncate {
        /// The group.
        group: GroupId,
        /// The last index that stays.
        after: Option<u64>,
    },
    /// Forgets the entries up to `id`, which may lie beyond the log's end (after a snapshot).
    Purge {
        /// The group.
        group: GroupId,
        /// The last entry forgotten.
        id: LogPos,
    },
    /// Notes that the group exists here, with what its owner wants to find again. Idempotent. A
    /// group that was dropped begins anew, with nothing.
    Create {
        /// The group.
        group: GroupId,
        /// Opaque.
        bytes: Bytes,
    },
    /// Drops the group's log and marks, and remembers that it was here.
    Tombstone {
        /// The group.
        group: GroupId,
    },
}

impl JournalOp {
    /// The group that the operation is about.
    pub fn group(&self) -> GroupId {
        match self {
            JournalOp::Append { group, .. }
            | JournalOp::Vote { group, .. }
            | JournalOp::Commit { group, .. }
            | JournalOp::Truncate { group, .. }
            | JournalOp::Purge { group, .. }
            | JournalOp::Create { group, .. }
            | JournalOp::Tombstone { group } => *group,
        }
    }
}

/// Called once with the outcome of a submission, on the writer's thread: it must not block.
pub type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// What the journal holds of a group beside its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupMarks {
    /// What [`JournalOp::Create`] gave.
    pub created: Option<Bytes>,
    /// The group was dropped: nothing but its creation is taken in.
    pub tombstone: bool,
    /// The last vote.
    pub vote: Option<Bytes>,
    /// The last committed entry noted. May lag behind, never ahead.
    pub committed: Option<LogPos>,
    /// The last entry forgotten.
    pub purged: Option<LogPos>,
    /// The last entry; the last one forgotten where none is left.
    pub last: Option<LogPos>,
}

impl GroupMarks {
    pub(super) fn create(&mut self, bytes: &Bytes) {
        self.created = Some(bytes.clone());
        self.tombstone = false;
    }
}

/// Where an entry's payload lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JournalPlace {
    /// The file's number; it keeps it when it is recycled.
    pub file: u64,
    /// The life of the file: rises over all files with each one begun.
    pub generation: u64,
    /// The payload's first byte in the file.
    pub position: u64,
    /// The payload's bytes.
    pub length: u32,
}

/// A file of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Its number.
    pub file: u64,
    /// Its life. Files sort by age by it.
    pub generation: u64,
    /// It takes no more entries.
    pub sealed: bool,
    /// Its bytes on disk.
    pub size: u64,
    /// Its bytes in use.
    pub used: u64,
    /// Entries above their groups' flushed purge marks that lie in it: it can be recycled at zero.
    pub entries: u64,
}

/// How much the journal can still take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Publishes may be proposed. Everything else (votes, acks, purges, deletion) may go on while
    /// this is false: it lives on the reserve.
    pub publish_ok: bool,
    /// Bytes that can still be journaled: the active file's rest, the spare files, and what may
    /// still be allocated.
    pub available: u64,
    /// Bytes of it that publishes must not touch.
    pub reserve: u64,
}

/// Settings of the journal.
#[derive(Clone, Debug)]
pub struct JournalConfig {
    /// A file's size in bytes, at least 64 KiB and below 4 GiB. Larger ones roll less often,
    /// smaller ones are gathered and recycled sooner. Files of another size are kept as they are.
    pub segment_bytes: u64,
    /// The most recycled files kept for reuse; what is above is removed.
    pub spares_max: usize,
    /// Spare files that publishes must not use: the reserve of everything else.
    pub reserve_files: usize,
    /// The most bytes gathered for one flush (one operation may exceed it).
    pub flush_bytes: usize,
    /// The most bytes queued before [`Journal::slack`](super::Journal::slack) makes callers wait.
    pub queue_bytes: usize,
    /// Free bytes on the volume that the journal never takes for a new file.
    pub disk_reserve: u64,
    /// How long lazy operations may wait for another flush to ride with.
    pub lazy_flush: Duration,
    /// Refuses to start, and names what it concerns, where [`Recovery::doubts`] would not be empty:
    /// for a replica that has no others to ask. Without it the doubtful flush is cut and reported.
    pub stop_in_doubt: bool,
}

impl Default for JournalConfig {
    fn default() -> Self {
        JournalConfig {
            segment_bytes: 64 << 20,
            spares_max: 4,
            reserve_files: 1,
            flush_bytes: 4 << 20,
            queue_bytes: 32 << 20,
            disk_reserve: 256 << 20,
            lazy_flush: Duration::from_millis(500),
            stop_in_doubt: false,
        }
    }
}

impl JournalConfig {
    /// The largest entry that a file is sure to hold.
    pub fn entry_max(&self) -> u64 {
        self.segment_bytes / 2
    }
}

/// What a start found.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// The unfinished flush that was cut off: no one had been told that it was stored.
    pub cut: Option<Cut>,
    /// Entries and marks of the last flush that are damaged although the flush's second list of
    /// identifiers is there. Most likely a power cut in the middle of that flush, and then no one
    /// was told; but it may be damage to what was flushed. They are cut too. A replica with peers
    /// neither votes nor truncates in these groups until the others have answered.
    pub doubts: Vec<Doubt>,
    /// Files that were read by their footer.
    pub files_by_footer: usize,
    /// Files that were scanned.
    pub files_scanned: usize,
    /// Entries found.
    pub entries: u64,
}

/// A tail that was cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The file.
    pub file: u64,
    /// Where the good part ends.
    pub position: u64,
}

/// Something that may or may not have been flushed: a power cut while several sectors were being
/// written leaves the same traces as damage to what had been written, until a mark or another
/// flush follows. (A killed process never does: its writes reach the file in order.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// The group.
    pub group: GroupId,
    /// What kind of operation: `append`, `vote`, …
    pub kind: &'static str,
    /// Its term and index, where it has them.
    pub term: u64,
    /// See `term`.
    pub index: u64,
    /// The file it stood in.
    pub file: u64,
    /// The flush that held it.
    pub position: u64,
}
