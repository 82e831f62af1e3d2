//! The dead-letter publisher: how a source shard's message reaches `<topic>.<group>.dlq`.
//!
//! The dead letter keeps its id, key, payload and headers, and gets four headers more:
//! `gem-source-topic`, `gem-source-group`, `gem-source-partition` (the partition's id) and
//! `gem-source-offset`.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use gem_shard::log::{Append, DeadLetter, DeadLetters, TopicConfig};
use gem_types::batch::RecordBatch;
use gem_types::ids::DEAD_LETTER_SUFFIX;
use gem_types::limits::Limits;
use gem_types::{Code, Error, Result, TopicName};

use super::Gateway;
use super::ids::IdRun;
use super::prepare::{Input, prepare};

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
    fn publish(&self, letter: DeadLetter) -> BoxFuture<'_, Result<()>> {
        self.0.publish_dead_letter(letter).boxed()
    }
}

impl Gateway {
    /// Publishes a dead letter under the number of its move. One attempt: dispatch makes the next.
    async fn publish_dead_letter(&self, letter: DeadLetter) -> Result<()> {
        let producer = letter.producer();
        let DeadLetter { topic, source, offset, record, .. } = letter;
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
        let part = prepared.parts.pop().ok_or_else(|| Error::internal("a dead letter became no batch"))?;
        let append = Append {
            partition: part.partition,
            batch: part.batch,
            // Its own id was judged where it was published first; here its move counts.
            dedup: Vec::new(),
            producer: Some(producer),
            wait: self.settings.publish_deadline,
        };
        let placed = self.shard(part.partition)?.append(append).await;
        match placed {
            Ok(placed) => {
                if let (Ok(source), false) = (TopicName::new(from), placed.iter().any(|place| place.duplicate)) {
                    self.metrics.topic(&source).dead_lettered.add(1);
                }
                Ok(())
            }
            Err(error) => {
                if error.code == Code::NotFound {
                    // Deleted, perhaps made again: the next attempt must know.
                    let _ = self.topic_afresh(&topic, false).await;
                }
                Err(error)
            }
        }
    }
}

/// The topic and the group of a dead-letter topic's name: groups have no dots.
fn source_of(topic: &TopicName) -> (&str, &str) {
    let name = topic.as_str().strip_suffix(DEAD_LETTER_SUFFIX).unwrap_or(topic.as_str());
    name.rsplit_once('.').unwrap_or((name, ""))
}
