//! What the gateway remembers of topics: a hint, renewed when it is old or proved wrong.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use gem_shard::log::{PartitionInfo, TopicConfig, TopicInfo};
use gem_types::{Code, Error, Result, TopicName};

use super::Gateway;
use crate::metrics::{Metrics, TopicStats};

/// How long an entry is believed unasked. A wrong one costs a redirect, never a wrong answer.
const BELIEVED: Duration = Duration::from_secs(10);
/// The most topics remembered; above it the memory starts anew.
const TOPICS_MAX: usize = 100_000;

/// A topic, as last seen.
#[derive(Debug)]
pub struct Topic {
    /// Its configuration and partition map.
    pub info: TopicInfo,
    /// Its counters.
    pub stats: Arc<TopicStats>,
}

impl Topic {
    /// The one partition that takes every message, where there is only one.
    pub fn only(&self) -> Option<&PartitionInfo> {
        match self.info.partitions.as_slice() {
            [one] if one.sealed_at.is_none() => Some(one),
            _ => None,
        }
    }

    /// The open partition that holds `hash`.
    pub fn holding(&self, hash: u64) -> Result<&PartitionInfo> {
        self.info
            .partitions
            .iter()
            .find(|p| p.sealed_at.is_none() && p.first_hash <= hash && hash <= p.last_hash)
            .ok_or_else(|| Error::internal(format!("topic {} has no partition for hash {hash:016x}", self.info.name)))
    }

    /// The partition called `number`.
    pub fn numbered(&self, number: u32) -> Option<&PartitionInfo> {
        self.info.partitions.iter().find(|p| p.number == number)
    }
}

#[derive(Debug)]
struct Seen {
    topic: Arc<Topic>,
    at: Duration,
}

/// The memory itself. The lock is held for a look-up only, never across a wait.
#[derive(Debug)]
pub struct Topics {
    seen: RwLock<BTreeMap<TopicName, Seen>>,
    metrics: Arc<Metrics>,
}

impl Topics {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Topics { seen: RwLock::default(), metrics }
    }

    fn get(&self, name: &TopicName, now: Duration) -> Option<Arc<Topic>> {
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        seen.get(name).filter(|s| now.saturating_sub(s.at) < BELIEVED).map(|s| s.topic.clone())
    }

    /// Remembers `info` unless something newer stands.
    pub(super) fn put(&self, info: TopicInfo, now: Duration) -> Arc<Topic> {
        let topic = Arc::new(Topic { stats: self.metrics.topic(&info.name), info });
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= TOPICS_MAX {
            seen.clear();
        }
        seen.insert(topic.info.name.clone(), Seen { topic: topic.clone(), at: now });
        topic
    }

    /// Forgets a topic: the next use asks its home shard.
    pub(super) fn forget(&self, name: &TopicName) {
        self.seen.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

impl Gateway {
    /// The topic; `not_found` where there is none.
    pub async fn topic(&self, name: &TopicName) -> Result<Arc<Topic>> {
        let now = self.clock.monotonic();
        if let Some(topic) = self.topics.get(name, now) {
            return Ok(topic);
        }
        match self.home(name)?.topic(name.clone()).await {
            Ok(info) => Ok(self.topics.put(info, now)),
            Err(error) => {
                self.topics.forget(name);
                Err(error)
            }
        }
    }

    /// The topic, made with the defaults where it is missing and may be made.
    pub async fn topic_or_new(&self, name: &TopicName) -> Result<Arc<Topic>> {
        match self.topic(name).await {
            Err(error) if error.code == Code::NotFound && self.settings.auto_create_topics && !name.is_system() => {}
            other => return other,
        }
        match self.home(name)?.create_topic(name.clone(), TopicConfig::default()).await {
            Ok((info, _)) => Ok(self.topics.put(info, self.clock.monotonic())),
            // Somebody made it meanwhile, with a configuration of their own.
            Err(error) if error.code == Code::Conflict => self.topic(name).await,
            Err(error) => Err(error),
        }
    }

    /// Asks again after a shard did not know what the memory named.
    pub(super) async fn topic_afresh(&self, name: &TopicName, create: bool) -> Result<Arc<Topic>> {
        self.topics.forget(name);
        if create { self.topic_or_new(name).await } else { self.topic(name).await }
    }
}

/// Refuses to change what is the system's.
pub fn check_writable(name: &TopicName) -> Result<()> {
    if name.is_system() {
        return Err(Error::invalid(format!(
            "topic {name} is the system's: names that start with _gem or end with .dlq can be read, not written, made, changed or deleted; choose another name"
        )));
    }
    Ok(())
}
