//! Routes on a mesh of one: this node holds every shard.

use std::sync::Arc;

use gem_shard::log::{Router, ShardLog};
use gem_types::{Error, Position, Result};

use crate::shards::Shards;

/// Routes to this node's shards alone.
#[derive(Debug)]
pub struct LocalRouter(pub Shards);

impl Router for LocalRouter {
    fn route(&self, position: Position) -> Result<Arc<dyn ShardLog>> {
        match self.0.holding(position) {
            Some(shard) => Ok(shard),
            None => Err(Error::unavailable("this node is starting: try again", 200)),
        }
    }

    fn all(&self) -> Vec<Arc<dyn ShardLog>> {
        self.0.all().into_iter().map(|shard| shard as Arc<dyn ShardLog>).collect()
    }
}
