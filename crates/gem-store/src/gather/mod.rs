//! Gathering: old journal files are emptied into objects and recycled.
//!
//! What it is: [`Gatherer`], plain synchronous code that does one bounded piece of work per
//! [`step`](Gatherer::step), so that a driver paces it and a simulator can crash between any two;
//! and [`GatherHost`], the little that it needs to know of shards.
//!
//! What it is not: it does not know Raft, nor what is in an entry beside batches. It decides
//! nothing about retention: a batch without a location is dead.
//!
//! A round takes some files (journal files, or objects of which little is live) through these
//! stages, and is correct wherever it ends:
//!
//! 1. *collect*: the batches of each file whose location points there;
//! 2. *write*: those, sorted by (group, partition, base offset), to an object, synced, renamed, the
//!    directory synced; *repoint*: their locations, where they have not changed meanwhile.
//!    Again while there are any;
//! 3. *flush*: the index of every shard in the files. Now the durable locations point elsewhere;
//! 4. *settle*: every entry must be at or below its group's flushed purge mark, itself at or below
//!    the durable applied index. Groups are asked to purge; what can't be purged in time is
//!    *carried* forward in the journal. An apply that was under way may have pointed a new location
//!    at the entry's old place: so once carried entries are durable, and every apply that began
//!    before has ended, the round goes back to 1. It goes on when nothing was found;
//! 5. *recycle*: the journal file is freed, or the object removed. A read that pins neither is told
//!    that the batch has moved.
//!
//! Invariant: a file is given up only if no location pointed into it at the last flush of every
//! index concerned, and no entry that Raft may still ask for lies in it.

mod pick;
mod round;
mod ticket;

#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use gem_types::{GroupId, Offset, PartitionId};

pub use round::{GatherCounts, Gatherer, Next};

use crate::StoreError;
use crate::index::locations::Move;
use crate::index::ordered::OrderedStore;

/// What gathering needs to know of the shards of a node.
pub trait GatherHost: Send + Sync + fmt::Debug + 'static {
    /// The shard's index; `None` where it is not open. Files that hold data of a group that is
    /// neither open nor dropped are left alone.
    fn store(&self, group: GroupId) -> Option<Arc<dyn OrderedStore>>;
    /// The index that a snapshot is being taken into, where there is one: what it points to is
    /// live. [`repoint`](Self::repoint) and [`flush`](Self::flush) see to it too.
    fn staged(&self, _: GroupId) -> Option<Arc<dyn OrderedStore>> {
        None
    }
    /// The batches in an entry's payload: partition, base offset, and where in the payload.
    fn batches_in_entry(&self, entry: &[u8]) -> Vec<(PartitionId, Offset, Range<usize>)>;
    /// Makes `moves` whose location is still `from`, in one atomic write with the counters, in
    /// turn with applying entries: when it returns, every apply that began before has been written.
    fn repoint(&self, group: GroupId, moves: &[Move]) -> Result<(), StoreError>;
    /// Flushes the index, and raises the durable applied index to what was applied before.
    fn flush(&self, group: GroupId) -> Result<(), StoreError>;
    /// What was applied before the index's last completed flush; `None`: nothing.
    fn durable_applied(&self, group: GroupId) -> Option<u64>;
    /// Asks for the log to be purged up to the durable applied index, or as far as may be. Does not
    /// wait for it.
    fn purge(&self, group: GroupId);
}

/// When to gather, and how much at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatherConfig {
    /// Bytes of journal files in use above which the oldest are gathered. The fixed price of
    /// writing everything once.
    pub journal_limit: u64,
    /// An object is finished when it holds this many bytes of batches.
    pub object_bytes: u64,
    /// Files taken in one round: one flush of all indexes serves them all.
    pub files_per_round: usize,
    /// Objects of which a smaller share is live, in percent, are gathered again. At 50, objects
    /// take at most twice the bytes that live in them.
    pub object_live_percent: u64,
    /// Steps that answer [`Next::Wait`] before entries that are not purged are carried forward.
    pub purge_patience: u32,
}

impl Default for GatherConfig {
    fn default() -> Self {
        GatherConfig {
            journal_limit: 1 << 30,
            object_bytes: 64 << 20,
            files_per_round: 4,
            object_live_percent: 50,
            purge_patience: 20,
        }
    }
}
