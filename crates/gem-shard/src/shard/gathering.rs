//! What gathering journal files into objects needs of a shard: see
//! [`GatherHost`](gem_store::gather::GatherHost). These calls block on the index, and belong to
//! the gatherer's thread.

use std::ops::Range;
use std::sync::Arc;

use gem_store::StoreError;
use gem_store::index::locations::Move;
use gem_store::index::ordered::OrderedStore;
use gem_types::{Offset, PartitionId};

use super::Shard;
use crate::entry;

/// The batches in an entry's payload: partition, base offset, and where in the payload.
pub fn batches_in_entry(payload: &[u8]) -> Vec<(PartitionId, Offset, Range<usize>)> {
    let found = entry::batches_in(payload).unwrap_or_else(|error| {
        tracing::error!("an entry of the journal can't be read: {error}");
        Vec::new()
    });
    found.into_iter().map(|batch| (batch.partition, batch.base, batch.range)).collect()
}

impl Shard {
    /// Its index.
    pub fn store(&self) -> Arc<dyn OrderedStore> {
        self.shared.store.clone()
    }

    /// Lets locations point elsewhere, in one write with the counters and in turn with applying.
    pub fn repoint(&self, moves: &[Move]) -> Result<(), StoreError> {
        self.shared.repoint(moves)
    }

    /// Flushes the index, and raises the durable applied index.
    pub fn flush_blocking(&self) -> Result<(), StoreError> {
        self.shared.flush_index(self.group.durable())
    }

    /// What is durable of the index.
    pub fn durable_applied(&self) -> Option<u64> {
        self.group.durable().applied().map(|id| id.index)
    }

    /// Asks for the log to be purged up to the durable applied index. Does not wait.
    pub fn purge(&self) {
        self.purge.notify_one();
    }
}
