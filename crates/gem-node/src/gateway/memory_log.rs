//! A shard's log in memory, for this crate's own tests: topics and batches, no groups.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures::future::{BoxFuture, FutureExt, ready};
use gem_shard::log::*;
use gem_types::{Error, Offset, PartitionId, Position, Result, TopicName};

#[derive(Debug, Default)]
struct Held {
    topics: BTreeMap<TopicName, TopicInfo>,
    batches: BTreeMap<PartitionId, Vec<gem_types::batch::RecordBatch>>,
    made: u64,
    /// Errors that the next appends meet.
    refusals: Vec<Error>,
    appends: Vec<Append>,
}

/// One shard that holds everything.
#[derive(Clone, Debug)]
pub struct MemoryLog {
    held: Arc<Mutex<Held>>,
    partitions: u32,
}

impl MemoryLog {
    pub fn new(partitions: u32) -> Self {
        MemoryLog { held: Arc::default(), partitions }
    }

    pub fn refuse(&self, errors: Vec<Error>) {
        self.held.lock().unwrap().refusals = errors;
    }

    pub fn appends(&self) -> Vec<Append> {
        std::mem::take(&mut self.held.lock().unwrap().appends)
    }

    fn partitions_of(&self, name: &TopicName, made: u64) -> Vec<PartitionInfo> {
        let share = u64::MAX / u64::from(self.partitions);
        let partition = |number: u32| PartitionInfo {
            number,
            id: PartitionId::new(name, number, &made.to_be_bytes()),
            first_hash: if number == 0 { 0 } else { share * u64::from(number) + 1 },
            last_hash: if number + 1 == self.partitions { u64::MAX } else { share * u64::from(number + 1) },
            sealed_at: None,
            parents: Vec::new(),
        };
        (0..self.partitions).map(partition).collect()
    }

    fn do_append(&self, append: Append) -> Result<Vec<Placed>> {
        let mut held = self.held.lock().unwrap();
        held.appends.push(append.clone());
        if let Some(error) = held.refusals.pop() {
            return Err(error);
        }
        if !held.topics.values().any(|t| t.partitions.iter().any(|p| p.id == append.partition)) {
            return Err(Error::not_found("no such partition"));
        }
        let log = held.batches.entry(append.partition).or_default();
        let base = log.last().map_or(0, |b| b.next_offset());
        let mut batch = append.batch;
        batch.stamp(base, 1_700_000_000_000);
        let count = batch.count();
        log.push(batch);
        Ok((0..u64::from(count)).map(|i| Placed { offset: base + i, duplicate: false }).collect())
    }
}

fn now<T: Send + 'static>(value: Result<T>) -> BoxFuture<'static, Result<T>> {
    ready(value).boxed()
}

fn none<T: Send + 'static>() -> BoxFuture<'static, Result<T>> {
    now(Err(Error::internal("not in memory")))
}

impl ShardLog for MemoryLog {
    fn create_topic(&self, name: TopicName, config: TopicConfig) -> BoxFuture<'_, Result<(TopicInfo, bool)>> {
        let mut held = self.held.lock().unwrap();
        if let Some(known) = held.topics.get(&name) {
            return now(if known.config == config {
                Ok((known.clone(), false))
            } else {
                Err(Error::conflict("other"))
            });
        }
        held.made += 1;
        let partitions = self.partitions_of(&name, held.made);
        let info = TopicInfo { name: name.clone(), config, version: held.made, partitions };
        held.topics.insert(name, info.clone());
        now(Ok((info, true)))
    }
    fn topic(&self, name: TopicName) -> BoxFuture<'_, Result<TopicInfo>> {
        let missing = || Error::not_found(format!("no topic {name}"));
        now(self.held.lock().unwrap().topics.get(&name).cloned().ok_or_else(missing))
    }
    fn alter_topic(&self, _: TopicName, _: TopicChange) -> BoxFuture<'_, Result<TopicInfo>> {
        none()
    }
    fn delete_topic(&self, name: TopicName) -> BoxFuture<'_, Result<()>> {
        now(self.held.lock().unwrap().topics.remove(&name).map(|_| ()).ok_or_else(|| Error::not_found("no topic")))
    }
    fn list_topics(&self, prefix: String, after: Option<String>, limit: usize) -> BoxFuture<'_, Result<TopicPage>> {
        let held = self.held.lock().unwrap();
        let wanted = |n: &&TopicInfo| {
            n.name.as_str().starts_with(&prefix) && after.as_deref().is_none_or(|a| n.name.as_str() > a)
        };
        let mut topics: Vec<_> = held.topics.values().filter(wanted).take(limit + 1).cloned().collect();
        let more = topics.len() > limit;
        topics.truncate(limit);
        now(Ok(TopicPage { topics, more }))
    }
    fn append(&self, append: Append) -> BoxFuture<'_, Result<Vec<Placed>>> {
        now(self.do_append(append))
    }
    fn read(&self, read: Read) -> BoxFuture<'_, Result<ReadOut>> {
        let held = self.held.lock().unwrap();
        let log = held.batches.get(&read.partition).cloned().unwrap_or_default();
        let next = log.last().map_or(0, |b| b.next_offset());
        let batches: Vec<_> = log.into_iter().filter(|b| b.last_offset() >= read.from).collect();
        let empty = batches.is_empty();
        let out = ReadOut { batches, next, stats: PartitionStats { next, ..Default::default() } };
        async move {
            if empty {
                tokio::time::sleep(read.wait).await;
            }
            Ok(out)
        }
        .boxed()
    }
    fn stats(&self, partition: PartitionId) -> BoxFuture<'_, Result<PartitionStats>> {
        let held = self.held.lock().unwrap();
        let log = held.batches.get(&partition).cloned().unwrap_or_default();
        let messages = log.iter().map(|b| u64::from(b.count())).sum();
        let bytes = log.iter().map(|b| b.len() as u64).sum();
        now(Ok(PartitionStats { earliest: 0, next: messages, messages, bytes }))
    }
    fn resolve(&self, partition: PartitionId, number: u32, from: From) -> BoxFuture<'_, Result<Offset>> {
        let held = self.held.lock().unwrap();
        let next = held.batches.get(&partition).and_then(|l| l.last()).map_or(0, |b| b.next_offset());
        now(Ok(match from {
            From::Latest => next,
            From::At(n, offset) if n == number => offset,
            _ => 0,
        }))
    }
    fn trim(&self, _: PartitionId, _: Option<Offset>) -> BoxFuture<'_, Result<()>> {
        none()
    }
    fn pull(&self, _: Pull) -> BoxFuture<'_, Result<Vec<Delivered>>> {
        none()
    }
    fn settle(&self, _: GroupRef, _: Settles) -> BoxFuture<'_, Result<Vec<Status>>> {
        none()
    }
    fn heartbeat(&self, _: GroupRef, _: String) -> BoxFuture<'_, Result<u64>> {
        none()
    }
    fn close_stream(&self, _: GroupRef, _: String, _: u64) -> BoxFuture<'_, Result<()>> {
        none()
    }
    fn groups(&self, _: TopicName, _: PartitionId) -> BoxFuture<'_, Result<Vec<GroupInfo>>> {
        now(Ok(Vec::new()))
    }
    fn group(&self, _: GroupRef) -> BoxFuture<'_, Result<GroupInfo>> {
        none()
    }
    fn seek(&self, _: GroupRef, _: Offset) -> BoxFuture<'_, Result<()>> {
        none()
    }
    fn delete_group(&self, _: GroupRef) -> BoxFuture<'_, Result<()>> {
        none()
    }
}

impl Router for MemoryLog {
    fn route(&self, _: Position) -> Result<Arc<dyn ShardLog>> {
        Ok(Arc::new(self.clone()))
    }
    fn all(&self) -> Vec<Arc<dyn ShardLog>> {
        vec![Arc::new(self.clone())]
    }
}
