//! Topics: made, changed and deleted in their home shard.

use std::ops::Bound;

use gem_store::StoreError;
use gem_types::{Error, PartitionId, TopicName};

use super::rows::{Partition, Topic};
use super::{Machine, Outcome, keys};
use crate::log::{Ordering, PartitionInfo, TopicChange, TopicConfig, TopicInfo, TopicPage};

pub(crate) fn no_topic(name: &TopicName) -> Error {
    Error::not_found(format!("there is no topic {name}: create it, or check the name"))
}

impl TopicChange {
    /// `config` with the keys given changed.
    pub fn apply_to(&self, config: &TopicConfig) -> TopicConfig {
        TopicConfig {
            retention_ms: self.retention_ms.unwrap_or(config.retention_ms),
            retention_bytes: self.retention_bytes.unwrap_or(config.retention_bytes),
            max_deliveries: self.max_deliveries.unwrap_or(config.max_deliveries),
            ack_timeout_ms: self.ack_timeout_ms.unwrap_or(config.ack_timeout_ms),
            ordering: self.ordering.unwrap_or(config.ordering),
            dedup_window_ms: self.dedup_window_ms.unwrap_or(config.dedup_window_ms),
        }
    }
}

impl Topic {
    /// The topic as users of the log see it.
    pub fn info(&self, name: &TopicName) -> TopicInfo {
        TopicInfo {
            name: name.clone(),
            config: self.config.clone(),
            version: self.version,
            partitions: self.partitions.clone(),
        }
    }
}

impl Machine {
    /// The topic called `name`, if this shard is its home.
    pub fn topic(&mut self, name: &TopicName) -> Result<Option<&Topic>, StoreError> {
        self.topics.get(&self.rows, name)
    }

    /// The configuration of the topic that `partition` belongs to.
    pub fn config_of(&mut self, partition: PartitionId) -> Result<Option<&TopicConfig>, StoreError> {
        let Some(row) = self.partitions.get(&self.rows, &partition)? else { return Ok(None) };
        Ok(self.topics.get(&self.rows, &row.topic)?.map(|topic| &topic.config))
    }

    /// The topics after `after` whose names begin with `prefix`, in order of name.
    pub fn list_topics(&mut self, prefix: &str, after: Option<&str>, limit: usize) -> Result<TopicPage, StoreError> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut names: Vec<TopicName> = self
            .names
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|name| name.as_str().starts_with(prefix))
            .take(limit.saturating_add(1))
            .cloned()
            .collect();
        let more = names.len() > limit;
        names.truncate(limit);
        let mut page = TopicPage { topics: Vec::with_capacity(names.len()), more };
        for name in &names {
            page.topics.extend(self.topics.get(&self.rows, name)?.map(|topic| topic.info(name)));
        }
        Ok(page)
    }

    /// How many topics have their home here.
    pub fn topic_count(&self) -> usize {
        self.names.len()
    }

    pub(super) fn apply_create_topic(&mut self, name: &TopicName, config: &TopicConfig) -> Result<Outcome, StoreError> {
        if let Some(topic) = self.topics.get(&self.rows, name)? {
            return Ok(if topic.config == *config {
                Outcome::Topic { info: topic.info(name), new: false }
            } else {
                Outcome::Refused(Error::conflict(format!(
                    "topic {name} stands with another configuration: alter it, or create it as it stands"
                )))
            });
        }
        // No id of a partition is ever used again, though its topic's name may be.
        self.meta.lives += 1;
        let id = PartitionId::new(name, 0, &self.meta.lives.to_be_bytes());
        let first =
            PartitionInfo { number: 0, id, first_hash: 0, last_hash: u64::MAX, sealed_at: None, parents: Vec::new() };
        let topic = Topic { config: config.clone(), version: 1, partitions: vec![first] };
        let info = topic.info(name);
        self.topics.insert(name.clone(), topic);
        self.names.insert(name.clone());
        self.partitions.insert(id, Partition::new(name.clone(), 0));
        Ok(Outcome::Topic { info, new: true })
    }

    pub(super) fn apply_alter_topic(&mut self, name: &TopicName, change: &TopicChange) -> Result<Outcome, StoreError> {
        let Some(topic) = self.topics.get(&self.rows, name)? else {
            return Ok(Outcome::Refused(no_topic(name)));
        };
        let config = change.apply_to(&topic.config);
        if config.ordering == Ordering::Total && topic.partitions.len() > 1 {
            return Ok(Outcome::Refused(Error::conflict(format!(
                "topic {name} has {} partitions: its messages can't be put in one order any more",
                topic.partitions.len()
            ))));
        }
        if config == topic.config {
            return Ok(Outcome::Topic { info: topic.info(name), new: false });
        }
        match self.topics.get_mut(&self.rows, name)? {
            Some(topic) => {
                topic.config = config;
                topic.version += 1;
                Ok(Outcome::Topic { info: topic.info(name), new: false })
            }
            None => Ok(Outcome::Refused(no_topic(name))),
        }
    }

    pub(super) fn apply_delete_topic(&mut self, name: &TopicName) -> Result<Outcome, StoreError> {
        let Some(topic) = self.topics.get(&self.rows, name)? else {
            return Ok(Outcome::Refused(no_topic(name)));
        };
        let all: Vec<PartitionId> = topic.partitions.iter().map(|partition| partition.id).collect();
        let mut partitions = Vec::new();
        for id in all {
            if self.partitions.get(&self.rows, &id)?.is_some() {
                self.remove_partition(id)?;
                partitions.push(id);
            }
        }
        self.topics.remove(&mut self.rows, name);
        self.names.remove(name);
        Ok(Outcome::TopicDeleted { name: name.clone(), partitions })
    }

    /// Removes a partition and all that hangs on it.
    fn remove_partition(&mut self, id: PartitionId) -> Result<(), StoreError> {
        let (from, to) = keys::partition_range(keys::BATCHES, id);
        self.rows.clear(from, to)?;
        self.locations.remove_partition(id)?;
        self.ids.remove_partition(&mut self.rows, id)?;
        self.remove_producers(id)?;
        self.groups.remove_partition(&mut self.rows, id)?;
        self.partitions.remove(&mut self.rows, &id);
        Ok(())
    }
}
