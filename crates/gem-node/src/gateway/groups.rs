//! Groups: pulling, settling, heartbeats, and what users ask of a group.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use gem_shard::dispatch::partition_of;
use gem_shard::log::{From, GroupInfo, GroupRef, MemberInfo, Mode, PartitionInfo, Pull, Settles, Status};
use gem_types::{Code, Error, GroupName, PartitionId, Result, TopicName};
use tokio::time::Instant;

use super::Gateway;
use super::deliver::unpack;
use super::read::{Item, check_start};
use super::topics::Topic;

/// How long one partition of several is waited for before all are asked again.
const ROUND: Duration = Duration::from_millis(100);
/// The longest name of a member.
const CONSUMER_MAX: usize = 256;

/// A member's request for messages.
#[derive(Clone, Debug)]
pub struct Want {
    /// The topic.
    pub topic: TopicName,
    /// The group.
    pub group: GroupName,
    /// The member.
    pub consumer: String,
    /// See [`Pull::mode`].
    pub mode: Option<Mode>,
    /// See [`Pull::from`].
    pub from: Option<From>,
    /// See [`Pull::stream`].
    pub stream: Option<u64>,
}

/// Messages and bytes.
type Most = (usize, usize);

/// Refuses a group whose dead-letter topic's name would be too long.
pub fn check_group(topic: &TopicName, group: &GroupName) -> Result<()> {
    // Dead-letter topics have no dead letters of their own.
    if !topic.is_dead_letter() {
        topic.dead_letters(group)?;
    }
    Ok(())
}

/// Refuses what is no name of a member.
pub fn check_consumer(consumer: &str) -> Result<()> {
    if consumer.is_empty() || consumer.len() > CONSUMER_MAX || consumer.chars().any(char::is_control) {
        return Err(Error::invalid(format!(
            "{consumer:?} is no name of a consumer: use 1 to {CONSUMER_MAX} bytes of text"
        )));
    }
    Ok(())
}

impl Gateway {
    /// Hands up to `max` messages, or about `max_bytes`, to a member; makes topic and group where they are missing.
    pub async fn pull(&self, want: &Want, max: usize, max_bytes: usize, wait: Duration) -> Result<Vec<Item>> {
        self.check_open()?;
        check_group(&want.topic, &want.group)?;
        check_consumer(&want.consumer)?;
        let mut topic = self.topic_or_new(&want.topic).await?;
        if let Some(from) = want.from {
            check_start(&topic, from)?;
        }
        let until = Instant::now() + wait;
        let mut asked_afresh = false;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.pull_round(&topic, want, (max, max_bytes), left).await {
                Ok(items) if items.is_empty() && !until.saturating_duration_since(Instant::now()).is_zero() => {
                    if self.draining.is_cancelled() {
                        return Ok(items);
                    }
                    // A shard may answer early; not to ask it in a tight loop.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Ok(items) => {
                    self.count_delivered(&topic, &items);
                    topic.stats.redelivered.add(items.iter().filter(|i| i.delivery > 1).count() as u64);
                    return Ok(items);
                }
                // The topic was deleted, perhaps made again.
                Err(error) if error.code == Code::NotFound && !asked_afresh => {
                    asked_afresh = true;
                    topic = self.topic_afresh(&want.topic, true).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn pull_round(&self, topic: &Topic, want: &Want, max: Most, wait: Duration) -> Result<Vec<Item>> {
        let partitions = &topic.info.partitions;
        if let [only] = partitions.as_slice() {
            return self.pull_partition(only, want, max, wait).await;
        }
        let (max, max_bytes) = max;
        let mut items = Vec::new();
        // Begins somewhere else each time, so that no partition starves another.
        let start = (self.random.u64() % partitions.len().max(1) as u64) as usize;
        for partition in partitions.iter().cycle().skip(start).take(partitions.len()) {
            if items.len() < max {
                items.extend(
                    self.pull_partition(partition, want, (max - items.len(), max_bytes), Duration::ZERO).await?,
                );
            }
        }
        if !items.is_empty() || wait.is_zero() {
            return Ok(items);
        }
        // A pull that leased messages must be heard out: none is dropped half-way.
        let share = (max.div_ceil(partitions.len().max(1)), max_bytes);
        let waits = partitions.iter().map(|p| self.pull_partition(p, want, share, wait.min(ROUND)));
        Ok(try_join_all(waits).await?.into_iter().flatten().collect())
    }

    async fn pull_partition(&self, p: &PartitionInfo, want: &Want, max: Most, wait: Duration) -> Result<Vec<Item>> {
        let pull = Pull {
            group: group_ref(&want.topic, p, &want.group),
            consumer: want.consumer.clone(),
            mode: want.mode,
            // Absent means the earliest for a new group; a start in another partition likewise.
            from: want.from,
            max: max.0,
            max_bytes: max.1,
            wait,
            stream: want.stream,
        };
        unpack(p.number, self.shard(p.id)?.pull(pull).await?)
    }

    /// Settles tokens; answers each one's status, in order.
    pub async fn settle(&self, topic: &TopicName, group: &GroupName, verbs: Settles) -> Result<Vec<Status>> {
        let known = self.topic(topic).await?;
        let statuses = match known.info.partitions.as_slice() {
            [only] => self.shard(only.id)?.settle(group_ref(topic, only, group), verbs).await?,
            partitions => self.settle_by_partition(partitions, topic, group, &verbs).await?,
        };
        known.stats.acked.add(statuses.iter().filter(|s| **s == Status::Acked).count() as u64);
        Ok(statuses)
    }

    /// A token names its partition; one that names none of the topic's is nobody's.
    async fn settle_by_partition(
        &self,
        partitions: &[PartitionInfo],
        topic: &TopicName,
        group: &GroupName,
        verbs: &Settles,
    ) -> Result<Vec<Status>> {
        let mut indexes: BTreeMap<PartitionId, Vec<usize>> = BTreeMap::new();
        for (index, (token, _)) in verbs.iter().enumerate() {
            if let Some(partition) = partition_of(token) {
                indexes.entry(partition).or_default().push(index);
            }
        }
        let asked = partitions.iter().filter_map(|p| indexes.remove(&p.id).map(|indexes| (p, indexes)));
        let asked: Vec<_> = asked
            .map(|(p, indexes)| async move {
                let own = indexes.iter().filter_map(|index| verbs.get(*index).cloned()).collect();
                let statuses = self.shard(p.id)?.settle(group_ref(topic, p, group), Arc::new(own)).await?;
                Ok::<_, Error>(indexes.into_iter().zip(statuses))
            })
            .collect();
        let mut settled = vec![Status::Unknown; verbs.len()];
        for (index, status) in try_join_all(asked).await?.into_iter().flatten() {
            if let Some(slot) = settled.get_mut(index) {
                *slot = status;
            }
        }
        Ok(settled)
    }

    /// Extends all that the member holds; answers how many leases.
    pub async fn heartbeat(&self, topic: &TopicName, group: &GroupName, consumer: &str) -> Result<u64> {
        check_consumer(consumer)?;
        let known = self.topic(topic).await?;
        let beats =
            known.info.partitions.iter().map(|p| async move {
                self.shard(p.id)?.heartbeat(group_ref(topic, p, group), consumer.to_owned()).await
            });
        Ok(try_join_all(beats).await?.into_iter().sum())
    }

    /// Ends a stream: frees its leases.
    pub async fn close_stream(&self, want: &Want) {
        let (Ok(topic), Some(stream)) = (self.topic(&want.topic).await, want.stream) else {
            return;
        };
        let closes = topic.info.partitions.iter().map(|p| async move {
            let shard = self.shard(p.id)?;
            shard.close_stream(group_ref(&want.topic, p, &want.group), want.consumer.clone(), stream).await
        });
        // Where it fails, the leases end by themselves.
        for error in join_all(closes).await.into_iter().filter_map(Result::err) {
            tracing::debug!(%error, topic = %want.topic, group = %want.group, "a stream's end was not heard");
        }
    }

    /// The groups of a topic, by name.
    pub async fn groups(&self, topic: &TopicName) -> Result<Vec<GroupInfo>> {
        let known = self.topic(topic).await?;
        let asked =
            known.info.partitions.iter().map(|p| async move { self.shard(p.id)?.groups(topic.clone(), p.id).await });
        let mut all: BTreeMap<GroupName, GroupInfo> = BTreeMap::new();
        for info in try_join_all(asked).await?.into_iter().flatten() {
            match all.get_mut(&info.group) {
                Some(sum) => add(sum, info),
                None => {
                    all.insert(info.group.clone(), info);
                }
            }
        }
        Ok(all.into_values().collect())
    }

    /// One group; `not_found` where no partition knows it.
    pub async fn group(&self, topic: &TopicName, group: &GroupName) -> Result<GroupInfo> {
        let known = self.topic(topic).await?;
        let asked = known
            .info
            .partitions
            .iter()
            .map(|p| async move { self.shard(p.id)?.group(group_ref(topic, p, group)).await });
        let mut sum: Option<GroupInfo> = None;
        let mut missing = Error::not_found(format!("topic {topic} has no group {group}"));
        for answer in join_all(asked).await {
            match (answer, &mut sum) {
                (Ok(info), Some(sum)) => add(sum, info),
                (Ok(info), None) => sum = Some(info),
                (Err(error), _) if error.code == Code::NotFound => missing = error,
                (Err(error), _) => return Err(error),
            }
        }
        sum.ok_or(missing)
    }

    /// Moves a group to `to`; its leases end.
    pub async fn seek(&self, topic: &TopicName, group: &GroupName, to: From) -> Result<GroupInfo> {
        let known = self.topic(topic).await?;
        check_start(&known, to)?;
        self.group(topic, group).await?;
        for partition in &known.info.partitions {
            let shard = self.shard(partition.id)?;
            let offset = shard.resolve(partition.id, partition.number, to).await?;
            shard.seek(group_ref(topic, partition, group), offset).await?;
        }
        self.group(topic, group).await
    }

    /// Deletes a group.
    pub async fn delete_group(&self, topic: &TopicName, group: &GroupName) -> Result<()> {
        let known = self.topic(topic).await?;
        self.group(topic, group).await?;
        for partition in &known.info.partitions {
            match self.shard(partition.id)?.delete_group(group_ref(topic, partition, group)).await {
                Err(error) if error.code != Code::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// A group's share in one partition.
pub(super) fn group_ref(topic: &TopicName, partition: &PartitionInfo, group: &GroupName) -> GroupRef {
    GroupRef { topic: topic.clone(), partition: partition.id, group: group.clone() }
}

/// Adds one partition's share to a group.
fn add(sum: &mut GroupInfo, share: GroupInfo) {
    sum.lag += share.lag;
    sum.pending += share.pending;
    sum.redelivered += share.redelivered;
    sum.dead_lettered += share.dead_lettered;
    for member in share.members {
        match sum.members.iter_mut().find(|m| m.consumer == member.consumer) {
            Some(known) => {
                known.pending += member.pending;
                known.last_seen_ms = known.last_seen_ms.max(member.last_seen_ms);
            }
            None => sum.members.push(member),
        }
    }
    sum.members.sort_by(|a: &MemberInfo, b: &MemberInfo| a.consumer.cmp(&b.consumer));
}
