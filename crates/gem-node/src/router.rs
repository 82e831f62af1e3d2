//! Routes on a mesh of one: this node holds every shard.

use std::fmt;
use std::sync::{Arc, OnceLock};

use gem_shard::log::{Router, ShardLog};
use gem_shard::{Shard, Status};
use gem_types::{Error, Position, Result};

/// The shards of this node, in ring order. Empty until they are open: the gateway is made before
/// them, since dead letters leave through it.
#[derive(Default)]
pub struct LocalRouter {
    shards: OnceLock<Vec<Arc<Shard>>>,
}

impl LocalRouter {
    /// Takes the shards, once; in ring order.
    pub fn fill(&self, mut shards: Vec<Arc<Shard>>) {
        shards.sort_by_key(|shard| shard.prefix().first());
        // Filled twice is filled: both lists are all of this node's shards.
        let _ = self.shards.set(shards);
    }

    /// All shards, in ring order.
    pub fn shards(&self) -> &[Arc<Shard>] {
        self.shards.get().map(Vec::as_slice).unwrap_or_default()
    }

    /// Why some of the ring is not served; `None` where all is.
    pub fn trouble(&self) -> Option<String> {
        self.shards().iter().find_map(|shard| match shard.status() {
            Status::Leading { .. } => None,
            Status::Starting => Some(format!("shard {} is starting", shard.prefix())),
            Status::Stopped { reason } => {
                Some(format!("shard {} has stopped: {reason}; restart the node", shard.prefix()))
            }
        })
    }
}

impl fmt::Debug for LocalRouter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalRouter").field("shards", &self.shards().len()).finish()
    }
}

impl Router for LocalRouter {
    fn route(&self, position: Position) -> Result<Arc<dyn ShardLog>> {
        let shards = self.shards();
        // Prefixes tile the ring: the one that holds it is the last that begins at or before it.
        let index = shards.partition_point(|shard| shard.prefix().first() <= position);
        match index.checked_sub(1).and_then(|index| shards.get(index)) {
            Some(shard) => Ok(shard.clone()),
            None => Err(Error::unavailable("this node is starting: try again", 200)),
        }
    }

    fn all(&self) -> Vec<Arc<dyn ShardLog>> {
        self.shards().iter().map(|shard| shard.clone() as Arc<dyn ShardLog>).collect()
    }
}
