//! What gathering journal files into objects needs of a shard: see
//! [`GatherHost`](gem_store::gather::GatherHost). These calls block on the index, and belong to
//! the gatherer's thread.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use gem_store::StoreError;
use gem_store::gather::GatherHost;
use gem_store::index::locations::Move;
use gem_store::index::ordered::OrderedStore;
use gem_types::{GroupId, Offset, PartitionId};

use super::Shard;
use crate::entry;

/// All shards of a node.
pub struct GatheredShards(Arc<dyn Fn() -> Vec<Arc<Shard>> + Send + Sync>);

impl fmt::Debug for GatheredShards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatheredShards").field("shards", &(self.0)().len()).finish()
    }
}

impl GatheredShards {
    /// The shards that `all` answers: they come and go.
    pub fn new(all: Arc<dyn Fn() -> Vec<Arc<Shard>> + Send + Sync>) -> Self {
        GatheredShards(all)
    }

    /// The shards as they are now.
    pub fn all(&self) -> Vec<Arc<Shard>> {
        (self.0)()
    }

    fn shard(&self, group: GroupId) -> Option<Arc<Shard>> {
        (self.0)().into_iter().find(|shard| shard.id() == group)
    }
}

impl GatherHost for GatheredShards {
    fn store(&self, group: GroupId) -> Option<Arc<dyn OrderedStore>> {
        self.shard(group)?.shared.store().ok()
    }

    fn staged(&self, group: GroupId) -> Option<Arc<dyn OrderedStore>> {
        let staged = self.shard(group)?.shared.staging.get()?;
        let store = crate::raft::state_machine::lock(&staged).ok()?.store().clone();
        Some(store)
    }

    fn batches_in_entry(&self, payload: &[u8]) -> Vec<(PartitionId, Offset, Range<usize>)> {
        let found = entry::batches_in(payload).unwrap_or_else(|error| {
            tracing::error!("an entry of the journal can't be read: {error}");
            Vec::new()
        });
        found.into_iter().map(|batch| (batch.partition, batch.base, batch.range)).collect()
    }

    fn repoint(&self, group: GroupId, moves: &[Move]) -> Result<(), StoreError> {
        self.shard(group).map_or(Ok(()), |shard| shard.shared.repoint(moves))
    }

    fn flush(&self, group: GroupId) -> Result<(), StoreError> {
        self.shard(group).map_or(Ok(()), |shard| shard.flush_blocking())
    }

    fn durable_applied(&self, group: GroupId) -> Option<u64> {
        self.shard(group).and_then(|shard| shard.durable_applied())
    }

    fn purge(&self, group: GroupId) {
        if let Some(shard) = self.shard(group) {
            shard.purge();
        }
    }
}

impl Shard {
    /// Its index.
    pub fn store(&self) -> Result<Arc<dyn OrderedStore>, StoreError> {
        let machine = crate::raft::state_machine::lock(&self.shared.machine)?;
        Ok(machine.store().clone())
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
