//! The shard as its users see it.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use gem_types::{Error, Offset, PartitionId, Result, TopicName};

use super::Shard;
use super::requests::{CHANGE_WAIT, Change, Changed, Request};
use crate::log::{
    Append, Delivered, From, GroupInfo, GroupRef, PartitionStats, Placed, Pull, Read, ReadOut, Settles, ShardLog,
    Status, TopicChange, TopicConfig, TopicInfo, TopicPage,
};
use crate::machine::{no_partition, no_topic};

/// How long a look at the state waits for a shard that is just starting.
const SERVING_WAIT: Duration = Duration::from_secs(10);

impl Shard {
    async fn change(&self, change: Change) -> Result<Changed> {
        self.shared.serving(CHANGE_WAIT).await?;
        self.asks.change(change).await
    }

    async fn change_done(&self, change: Change) -> Result<()> {
        self.change(change).await.map(drop)
    }

    async fn change_topic(&self, change: Change) -> Result<(TopicInfo, bool)> {
        match self.change(change).await? {
            Changed::Topic(info, new) => Ok((info, new)),
            Changed::Done => Err(self.shared.internal("a change of a topic came to no topic")),
        }
    }

    fn fault(&self, error: gem_store::StoreError) -> Error {
        self.shared.internal(error)
    }
}

impl ShardLog for Shard {
    fn create_topic(&self, name: TopicName, config: TopicConfig) -> BoxFuture<'_, Result<(TopicInfo, bool)>> {
        self.change_topic(Change::CreateTopic(name, config)).boxed()
    }

    fn topic(&self, name: TopicName) -> BoxFuture<'_, Result<TopicInfo>> {
        async move {
            self.shared.serving(SERVING_WAIT).await?;
            let mut machine = self.shared.machine()?;
            let topic = machine.topic(&name).map_err(|e| self.fault(e))?;
            topic.map(|topic| topic.info(&name)).ok_or_else(|| no_topic(&name))
        }
        .boxed()
    }

    fn alter_topic(&self, name: TopicName, change: TopicChange) -> BoxFuture<'_, Result<TopicInfo>> {
        self.change_topic(Change::AlterTopic(name, change)).map(|altered| altered.map(|(info, _)| info)).boxed()
    }

    fn delete_topic(&self, name: TopicName) -> BoxFuture<'_, Result<()>> {
        self.change_done(Change::DeleteTopic(name)).boxed()
    }

    fn list_topics(&self, prefix: String, after: Option<String>, limit: usize) -> BoxFuture<'_, Result<TopicPage>> {
        async move {
            self.shared.serving(SERVING_WAIT).await?;
            let mut machine = self.shared.machine()?;
            machine.list_topics(&prefix, after.as_deref(), limit).map_err(|e| self.fault(e))
        }
        .boxed()
    }

    fn append(&self, append: Append) -> BoxFuture<'_, Result<Vec<Placed>>> {
        async move {
            self.shared.serving(append.wait).await?;
            self.asks.append(append).await
        }
        .boxed()
    }

    fn read(&self, read: Read) -> BoxFuture<'_, Result<ReadOut>> {
        async move {
            self.shared.serving(SERVING_WAIT).await?;
            self.shared.read(read).await
        }
        .boxed()
    }

    fn stats(&self, partition: PartitionId) -> BoxFuture<'_, Result<PartitionStats>> {
        async move {
            self.shared.serving(SERVING_WAIT).await?;
            self.shared.stats_of(partition)
        }
        .boxed()
    }

    fn resolve(&self, partition: PartitionId, _number: u32, from: From) -> BoxFuture<'_, Result<Offset>> {
        async move {
            self.shared.serving(SERVING_WAIT).await?;
            // The partition knows its own number.
            let resolved = self.shared.machine()?.resolve(partition, from).map_err(|e| self.fault(e))?;
            resolved.ok_or_else(|| no_partition(partition))
        }
        .boxed()
    }

    fn trim(&self, partition: PartitionId, before: Option<Offset>) -> BoxFuture<'_, Result<()>> {
        self.change_done(Change::Trim(partition, before)).boxed()
    }

    fn pull(&self, pull: Pull) -> BoxFuture<'_, Result<Vec<Delivered>>> {
        async move {
            self.shared.serving(SERVING_WAIT).await?;
            self.asks.pull(pull).await
        }
        .boxed()
    }

    fn settle(&self, group: GroupRef, verbs: Settles) -> BoxFuture<'_, Result<Vec<Status>>> {
        async move {
            self.shared.serving(SERVING_WAIT).await?;
            self.asks.ask_short(|reply| Request::Settle(group, verbs, reply)).await
        }
        .boxed()
    }

    fn heartbeat(&self, group: GroupRef, consumer: String) -> BoxFuture<'_, Result<u64>> {
        async move {
            self.shared.serving(SERVING_WAIT).await?;
            self.asks.ask_short(|reply| Request::Heartbeat(group, consumer, reply)).await
        }
        .boxed()
    }

    fn close_stream(&self, group: GroupRef, consumer: String, stream: u64) -> BoxFuture<'_, Result<()>> {
        self.asks.ask_short(move |reply| Request::CloseStream(group, consumer, stream, reply)).boxed()
    }

    fn groups(&self, topic: TopicName, partition: PartitionId) -> BoxFuture<'_, Result<Vec<GroupInfo>>> {
        async move {
            self.shared.serving(SERVING_WAIT).await?;
            self.asks.ask_short(|reply| Request::Groups(topic, partition, reply)).await
        }
        .boxed()
    }

    fn group(&self, group: GroupRef) -> BoxFuture<'_, Result<GroupInfo>> {
        async move {
            self.shared.serving(SERVING_WAIT).await?;
            self.asks.ask_short(|reply| Request::Group(group, reply)).await
        }
        .boxed()
    }

    fn seek(&self, group: GroupRef, offset: Offset) -> BoxFuture<'_, Result<()>> {
        self.change_done(Change::Seek(group, offset)).boxed()
    }

    fn delete_group(&self, group: GroupRef) -> BoxFuture<'_, Result<()>> {
        self.change_done(Change::DeleteGroup(group)).boxed()
    }
}
