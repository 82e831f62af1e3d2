//! The way to dead-letter topics, as gem-node's gateway has it: once per move.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use gem_shard::log::{Append, DeadLetter, DeadLetters, ShardLog, TopicConfig};
use gem_types::batch::{BatchBuilder, RecordBatch};
use gem_types::{Code, Error, Position, Result};

use crate::world::World;

/// The headers that name the source, as the gateway's.
pub const SOURCE_OFFSET: &str = "gem-source-offset";
/// See [`SOURCE_OFFSET`].
pub const SOURCE_PARTITION: &str = "gem-source-partition";
const WAIT: Duration = Duration::from_secs(5);

/// The way from a ring position to the log of its shard.
type Way = Box<dyn Fn(Position) -> Option<Arc<dyn ShardLog>> + Send + Sync>;

/// Publishes to the shards of one life.
pub struct DeadLetterPublisher {
    world: Arc<World>,
    way: OnceLock<Way>,
}

impl DeadLetterPublisher {
    /// Not before [`fill`](Self::fill) does it reach a shard.
    pub fn new(world: Arc<World>) -> Self {
        DeadLetterPublisher { world, way: OnceLock::new() }
    }

    /// This is the way to the shards.
    pub fn fill(&self, way: impl Fn(Position) -> Option<Arc<dyn ShardLog>> + Send + Sync + 'static) {
        let _ = self.way.set(Box::new(way));
    }

    async fn publish(&self, letter: DeadLetter) -> Result<()> {
        let producer = letter.producer();
        let DeadLetter { topic, source, offset, record, .. } = letter;
        let damaged = |error: &dyn std::fmt::Display| Error::internal(format!("the dead letter is damaged: {error}"));
        let shard = self.way.get().and_then(|way| way(topic.position()));
        let shard = shard.ok_or_else(|| Error::unavailable("no shard", 100))?;
        let batch = RecordBatch::open(record).map_err(|e| damaged(&e))?;
        let mut message = batch.record(0).map_err(|e| damaged(&e))?.into_message();
        message.headers.push((SOURCE_PARTITION.to_owned(), Bytes::from(source.to_string())));
        message.headers.push((SOURCE_OFFSET.to_owned(), Bytes::from(offset.to_string())));
        let id = message.id.clone().unwrap_or_default();
        let mut builder = BatchBuilder::new();
        builder.push(&message, &id);
        let info = match shard.topic(topic.clone()).await {
            Err(error) if error.code == Code::NotFound => {
                shard.create_topic(topic.clone(), TopicConfig::default()).await?.0
            }
            other => other?,
        };
        let partition = info.partitions.first().ok_or_else(|| Error::internal("a topic without partitions"))?.id;
        self.world.meet(partition, &topic, &info.config);
        let batch = builder.finish(0);
        let append = Append { partition, batch, dedup: Vec::new(), producer: Some(producer), wait: WAIT };
        shard.append(append).await.map(drop)
    }
}

impl DeadLetters for DeadLetterPublisher {
    fn publish(&self, letter: DeadLetter) -> BoxFuture<'_, Result<()>> {
        self.publish(letter).boxed()
    }
}
