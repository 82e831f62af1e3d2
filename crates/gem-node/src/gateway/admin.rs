//! Topics as users administer them.

use std::sync::Arc;

use futures::future::try_join_all;
use gem_shard::log::{TopicChange, TopicConfig, TopicInfo};
use gem_types::{Error, Result, TopicName};

use super::Gateway;
use super::cursor;
use super::topics::{Topic, check_writable};

/// The most topics on one page.
pub const PAGE_MAX: usize = 10_000;
/// The longest time that may be configured: a hundred years.
const MS_MAX: u64 = 100 * 365 * 86_400_000;

/// A topic and what it holds.
#[derive(Clone, Debug)]
pub struct TopicState {
    /// Its name, configuration and partitions.
    pub info: TopicInfo,
    /// Messages retained.
    pub messages: u64,
    /// Encoded bytes retained, before replication.
    pub bytes: u64,
}

impl Gateway {
    /// Creates a topic. The flag says whether it is new.
    pub async fn create_topic(&self, name: &TopicName, config: TopicConfig) -> Result<(TopicState, bool)> {
        self.check_open()?;
        check_writable(name)?;
        check_config(&config)?;
        let (info, created) = self.home(name)?.create_topic(name.clone(), config).await?;
        let topic = self.topics.put(info, self.clock.monotonic());
        Ok((self.state_of(topic.info.clone()).await?, created))
    }

    /// A topic and what it holds, asked of its home shard.
    pub async fn show_topic(&self, name: &TopicName) -> Result<TopicState> {
        let topic = self.topic_afresh(name, false).await?;
        self.state_of(topic.info.clone()).await
    }

    /// Changes the keys given.
    pub async fn alter_topic(&self, name: &TopicName, change: TopicChange) -> Result<TopicState> {
        self.check_open()?;
        check_writable(name)?;
        check_change(&change)?;
        let info = self.home(name)?.alter_topic(name.clone(), change).await?;
        let topic = self.topics.put(info, self.clock.monotonic());
        self.state_of(topic.info.clone()).await
    }

    /// Deletes a topic, its groups and its messages.
    pub async fn delete_topic(&self, name: &TopicName) -> Result<()> {
        self.check_open()?;
        check_writable(name)?;
        let deleted = self.home(name)?.delete_topic(name.clone()).await;
        self.topics.forget(name);
        self.metrics.forget(name);
        deleted
    }

    /// Forgets all messages; offsets go on.
    pub async fn purge_topic(&self, name: &TopicName) -> Result<()> {
        self.check_open()?;
        check_writable(name)?;
        let topic: Arc<Topic> = self.topic_afresh(name, false).await?;
        for partition in &topic.info.partitions {
            self.shard(partition.id)?.trim(partition.id, None).await?;
        }
        Ok(())
    }

    /// A page of topics in order of name, and the cursor of the next.
    pub async fn list_topics(
        &self,
        prefix: &str,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<(Vec<TopicState>, Option<String>)> {
        let after = cursor.map(cursor::decode_name).transpose()?;
        let shards = self.router.all();
        let asked = shards.iter().map(|s| s.list_topics(prefix.to_owned(), after.clone(), limit));
        let pages = try_join_all(asked).await?;
        let more_there = pages.iter().any(|p| p.more);
        let mut infos: Vec<TopicInfo> = pages.into_iter().flat_map(|p| p.topics).collect();
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        let more = more_there || infos.len() > limit;
        infos.truncate(limit);
        let next = infos.last().filter(|_| more).map(|last| cursor::encode_name(last.name.as_str()));
        let mut states = Vec::with_capacity(infos.len());
        for info in infos {
            // One that is deleted meanwhile is left out.
            states.extend(self.state_of(info).await.ok());
        }
        Ok((states, next))
    }

    async fn state_of(&self, info: TopicInfo) -> Result<TopicState> {
        let (mut messages, mut bytes) = (0, 0);
        for partition in &info.partitions {
            let stats = self.shard(partition.id)?.stats(partition.id).await?;
            messages += stats.messages;
            bytes += stats.bytes;
        }
        Ok(TopicState { info, messages, bytes })
    }
}

fn range(key: &str, value: u64, min: u64, max: u64) -> Result<()> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(Error::invalid(format!("{key} is {value}; allowed are {min} to {max}")))
}

/// Refuses a configuration that makes no sense.
pub fn check_config(config: &TopicConfig) -> Result<()> {
    check_change(&TopicChange {
        retention_ms: Some(config.retention_ms),
        retention_bytes: Some(config.retention_bytes),
        max_deliveries: Some(config.max_deliveries),
        ack_timeout_ms: Some(config.ack_timeout_ms),
        ordering: Some(config.ordering),
        dedup_window_ms: Some(config.dedup_window_ms),
    })
}

fn check_change(change: &TopicChange) -> Result<()> {
    let check = |key, value: Option<u64>, min, max| value.map_or(Ok(()), |value| range(key, value, min, max));
    check("retention_ms", change.retention_ms, 1, MS_MAX)?;
    check("retention_bytes", change.retention_bytes.flatten(), 1, i64::MAX as u64)?;
    check("max_deliveries", change.max_deliveries.map(u64::from), 1, 1_000_000)?;
    check("ack_timeout_ms", change.ack_timeout_ms, 1, 86_400_000)?;
    check("dedup_window_ms", change.dedup_window_ms, 0, 30 * 86_400_000)
}
