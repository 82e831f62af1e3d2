//! Snapshots: how a replica that lacks what the log no longer holds comes to the shard's state.
//!
//! What it is: for purging the log a snapshot is *virtual*: it names the durable applied index,
//! which is what a restart would find in the index whatever happens, and holds nothing. Where a
//! replica needs a real one, the leader offers it, and the replica fetches: first the rows of the
//! state from a frozen copy of the leader's store ([`send`]), then by (partition, offset range)
//! the payloads that it lacks, which it writes into objects of its own ([`receive`]). A snapshot
//! pins no journal file.
//!
//! What it is not: a transport. Requests and answers are [`Fetch`] and [`Fetched`]; whoever
//! carries Raft's messages carries them.
//!
//! Invariants:
//! - Raft hears of nothing before payloads, state and locations are durable; one journal record
//!   then makes them current ([`install_snapshot`](crate::raft::state_machine)).
//! - What a transfer that was cut off had fetched stays: the next asks only for what is missing.
//! - A leader keeps at most [`send::OUTGOING_MAX`] frozen copies a shard, none longer unused than
//!   [`send::IDLE_MAX`].

pub mod fetch;
pub(crate) mod receive;
pub mod send;
pub mod wire;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use openraft::storage::RaftSnapshotBuilder;
use openraft::{Snapshot, SnapshotMeta};

pub use fetch::{Fetch, Fetched};

use crate::machine::Machine;
use crate::raft::types::{self, LogId, StoredMembership, TypeConfig};

/// What a snapshot holds.
pub enum Image {
    /// Nothing: it only names an index.
    Virtual,
    /// A store that is complete and durable, to take the place of the one in use.
    Staged {
        /// The state and the locations.
        machine: Arc<Mutex<Machine>>,
        /// The generation of its store.
        generation: u32,
    },
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Image::Virtual => f.write_str("Virtual"),
            Image::Staged { generation, .. } => write!(f, "Staged({generation})"),
        }
    }
}

/// A snapshot with what it names.
pub type ImageSnapshot = types::Snapshot<Image>;

/// What the index holds for certain: what was applied before its last completed flush.
#[derive(Clone, Debug, Default)]
pub struct DurablePoint(Arc<Mutex<(Option<LogId>, StoredMembership)>>);

impl DurablePoint {
    /// A point that starts at what the index held when it was opened.
    pub fn new(applied: Option<LogId>, membership: StoredMembership) -> Self {
        DurablePoint(Arc::new(Mutex::new((applied, membership))))
    }

    /// The log id.
    pub fn applied(&self) -> Option<LogId> {
        self.lock().0
    }

    /// Raises the point after a completed flush.
    pub fn raise(&self, applied: Option<LogId>, membership: StoredMembership) {
        let mut point = self.lock();
        if applied > point.0 {
            *point = (applied, membership);
        }
    }

    /// The snapshot that names this point; `None` before there is one.
    pub fn snapshot(&self) -> Option<ImageSnapshot> {
        let (last_log_id, last_membership) = self.lock().clone();
        last_log_id?;
        Some(Snapshot { meta: SnapshotMeta { last_log_id, last_membership }, snapshot: Image::Virtual })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Option<LogId>, StoredMembership)> {
        // Plain values that are replaced whole: a panic elsewhere leaves them right.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RaftSnapshotBuilder<TypeConfig> for DurablePoint {
    type SnapshotData = Image;

    async fn build_snapshot(&mut self) -> Result<ImageSnapshot, io::Error> {
        self.snapshot().ok_or_else(|| io::Error::other("nothing of the index is durable yet"))
    }
}
