//! Flushing a shard's index, and letting go of the log behind it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gem_store::StoreError;
use gem_store::index::locations::Move;

use super::shared::Shared;
use crate::raft::group::Group;
use crate::raft::log_store::from_pos;
use crate::raft::state_machine::{lock, membership_of};
use crate::snapshot::DurablePoint;

/// Tries where the pool that runs it is full, and between them.
const BUSY_RETRIES_MAX: u32 = 100;
const BUSY_WAIT: Duration = Duration::from_millis(50);

/// One flush of a shard's index at a time.
#[derive(Debug, Default)]
pub(crate) struct Flushing(Mutex<()>);

impl Shared {
    /// Makes durable what is applied, and raises the durable applied index to it. Waits for the
    /// disk: not for tasks that others wait for.
    pub fn flush_index(&self, durable: &DurablePoint) -> Result<(), StoreError> {
        // The guarded value is empty: a panic leaves nothing half-done.
        let _one = self.flushing.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (committed, membership, store) = {
            let machine = lock(&self.machine)?;
            (machine.committed(), membership_of(&machine)?, machine.store().clone())
        };
        store.flush()?;
        if let Some(staged) = self.staging.get() {
            let store = lock(&staged)?.store().clone();
            store.flush()?;
        }
        lock(&self.machine)?.flushed(committed);
        durable.raise(committed.map(from_pos), membership);
        Ok(())
    }

    /// [`flush_index`](Self::flush_index), where it holds nobody up.
    pub async fn flush_index_away(self: Arc<Self>, group: Arc<Group>) -> Result<(), StoreError> {
        for _ in 0..BUSY_RETRIES_MAX {
            let (shared, flushed) = (self.clone(), group.clone());
            match self.reads.run(move || shared.flush_index(flushed.durable())).await {
                Err(StoreError::Busy) => tokio::time::sleep(BUSY_WAIT).await,
                done => return done,
            }
        }
        // The pool is drowned in reads: the next flush that is due tries again.
        Ok(())
    }

    /// Lets locations point to where batches were gathered, in turn with apply.
    pub fn repoint(&self, moves: &[Move]) -> Result<(), StoreError> {
        let mut machine = lock(&self.machine)?;
        machine.repoint(moves)?;
        machine.commit()?;
        // One that a snapshot is being taken into holds the same locations.
        if let Some(staged) = self.staging.get() {
            let mut staged = lock(&staged)?;
            staged.repoint(moves)?;
            staged.commit()?;
        }
        Ok(())
    }
}
