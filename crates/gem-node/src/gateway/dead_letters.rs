//! The dead-letter publisher: how a source shard's message reaches `<topic>.<group>.dlq`.
//!
//! The dead letter keeps its id, key, payload and headers, and gets four headers more:
//! `gem-source-topic`, `gem-source-group`, `gem-source-partition` (the partition's id) and
//! `gem-source-offset`.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use gem_shard::log::{DeadLetters, TopicConfig};
use gem_types::batch::RecordBatch;
use gem_types::ids::DEAD_LETTER_SUFFIX;
use gem_types::limits::Limits;
use gem_types::{Code, Error, Offset, PartitionId, Result, TopicName, ring};
use tokio::time::Instant;

use super::Gateway;
use super::ids::IdRun;
use super::prepare::{Input, prepare};
use super::publish::Places;

/// What is stored already is within every limit; the added headers must not push it out.
const NO_LIMITS: Limits = Limits {
    max_message: usize::MAX,
    max_batch: usize::MAX,
    max_headers: usize::MAX,
    max_key: usize::MAX,
    max_id: usize::MAX,
};

/// Publishes dead letters through a gateway.
#[derive(Clone)]
pub struct DeadLetterPublisher(pub Arc<Gateway>);

impl DeadLetters for DeadLetterPublisher {
    fn publish(
        &self,
        topic: TopicName,
        source: PartitionId,
        offset: Offset,
        record: Bytes,
    ) -> BoxFuture<'_, Result<()>> {
        self.0.publish_dead_letter(topic, source, offset, record).boxed()
    }
}

impl Gateway {
    /// Publishes the one record of batch `record`, once per (source, offset) within the topic's
    /// `dedup_window`.
    async fn publish_dead_letter(
        &self,
        topic: TopicName,
        source: PartitionId,
        offset: Offset,
        record: Bytes,
    ) -> Result<()> {
        let damaged = |e: &dyn std::fmt::Display| Error::internal(format!("the dead letter is damaged: {e}"));
        let batch = RecordBatch::open(record).map_err(|e| damaged(&e))?;
        let record = batch.record(0).map_err(|e| damaged(&e))?;
        let mut message = record.into_message();
        let (from, group) = source_of(&topic);
        for (name, value) in [
            ("gem-source-topic", from.to_owned()),
            ("gem-source-group", group.to_owned()),
            ("gem-source-partition", source.to_string()),
            ("gem-source-offset", offset.to_string()),
        ] {
            message.headers.push((name.to_owned(), Bytes::from(value)));
        }
        let known = match self.topic(&topic).await {
            Err(error) if error.code == Code::NotFound => {
                let (info, _) = self.home(&topic)?.create_topic(topic.clone(), TopicConfig::default()).await?;
                self.topics.put(info, self.clock.monotonic())
            }
            other => other?,
        };
        let run = IdRun::draw(&*self.clock, &*self.random);
        let input = Input::Messages(vec![message]);
        let mut prepared = prepare(&known, input, &NO_LIMITS, run, self.clock.wall_ms())?;
        for part in &mut prepared.parts {
            part.dedup = vec![Some(move_digest(source, offset))];
        }
        let deadline = Instant::now() + self.settings.publish_deadline;
        let outcome = match self.place(&known, prepared.parts, 1, None, deadline).await {
            Places::Range { .. } => Ok(()),
            Places::Refused { error, .. } => Err(error),
            Places::Each(each) => each.into_iter().collect::<Result<Vec<_>>>().map(|_| ()),
        };
        if outcome.is_ok()
            && let Ok(source) = TopicName::new(from)
        {
            self.metrics.topic(&source).dead_lettered.add(1);
        }
        outcome
    }
}

/// What identifies one move, whatever the message's own id is.
fn move_digest(source: PartitionId, offset: Offset) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&ring::digest(&[b"gem dead letter", &source.0, &offset.to_be_bytes()])[..16]);
    out
}

/// The topic and the group of a dead-letter topic's name: groups have no dots.
fn source_of(topic: &TopicName) -> (&str, &str) {
    let name = topic.as_str().strip_suffix(DEAD_LETTER_SUFFIX).unwrap_or(topic.as_str());
    name.rsplit_once('.').unwrap_or((name, ""))
}
