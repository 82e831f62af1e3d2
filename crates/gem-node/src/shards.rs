//! The shards of this node: they come and go as the mesh places replicas.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use gem_shard::{Shard, Status};
use gem_types::{GroupId, Position};

/// The shards of this node, by group. A clone is another handle to the same ones.
#[derive(Clone, Default)]
pub struct Shards(Arc<RwLock<BTreeMap<GroupId, Arc<Shard>>>>);

impl Shards {
    /// Takes in a shard that was opened.
    pub fn put(&self, shard: Arc<Shard>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(shard.id(), shard);
    }

    /// Takes out a shard that is to be closed.
    pub fn take(&self, group: GroupId) -> Option<Arc<Shard>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&group)
    }

    /// Lets go of all: they are closed.
    pub fn clear(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The shard of `group`.
    pub fn get(&self, group: GroupId) -> Option<Arc<Shard>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&group).cloned()
    }

    /// All shards, in ring order.
    pub fn all(&self) -> Vec<Arc<Shard>> {
        let mut all: Vec<_> = self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        all.sort_by_cached_key(|shard| shard.prefix().first());
        all
    }

    /// The shard that holds `position`, where this node has a replica of it: the one with the
    /// longest prefix, for a split may have reached one replica and not yet another.
    pub fn holding(&self, position: Position) -> Option<Arc<Shard>> {
        let shards = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let holding = shards.values().map(|shard| (shard.prefix(), shard)).filter(|(p, _)| p.contains(position));
        holding.max_by_key(|(prefix, _)| prefix.length()).map(|(_, shard)| shard.clone())
    }

    /// Why a shard here is not served; `None` where all are.
    pub fn trouble(&self) -> Option<String> {
        self.all().iter().find_map(|shard| match shard.status() {
            Status::Leading { .. } | Status::Following { .. } => None,
            Status::Starting => Some(format!("shard {} has no leader", shard.prefix())),
            Status::Stopped { reason } => {
                Some(format!("shard {} has stopped: {reason}; restart the node", shard.prefix()))
            }
        })
    }
}

impl fmt::Debug for Shards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.read().unwrap_or_else(PoisonError::into_inner).len();
        f.debug_struct("Shards").field("count", &count).finish()
    }
}
