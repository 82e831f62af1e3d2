//! Snapshots, as Raft asks for them.
//!
//! For purging the log a snapshot is *virtual*: it names the durable applied index, which is what
//! a restart would find in the index whatever happens, and holds nothing. A checkpoint that can
//! be sent to another replica comes with the mesh.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use openraft::storage::RaftSnapshotBuilder;
use openraft::{Snapshot, SnapshotMeta};

use crate::raft::types::{self, LogId, StoredMembership, TypeConfig};

/// The content of a snapshot that only names an index.
#[derive(Clone, Copy, Debug, Default)]
pub struct Virtual;

/// A virtual snapshot with what it names.
pub type VirtualSnapshot = types::Snapshot<Virtual>;

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
    pub fn snapshot(&self) -> Option<VirtualSnapshot> {
        let (last_log_id, last_membership) = self.lock().clone();
        last_log_id?;
        Some(Snapshot { meta: SnapshotMeta { last_log_id, last_membership }, snapshot: Virtual })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Option<LogId>, StoredMembership)> {
        // Plain values that are replaced whole: a panic elsewhere leaves them right.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RaftSnapshotBuilder<TypeConfig> for DurablePoint {
    type SnapshotData = Virtual;

    async fn build_snapshot(&mut self) -> Result<VirtualSnapshot, io::Error> {
        self.snapshot().ok_or_else(|| io::Error::other("nothing of the index is durable yet"))
    }
}
