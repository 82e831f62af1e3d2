//! Topics and groups.

use std::time::Duration;

use gem_proto::v1;
use gem_proto::v1::admin_client::AdminClient;
use gem_types::{Error, Result, TimestampMs};

use crate::client::{ANSWER_BYTES_MAX, Client, timed};
use crate::subscription::Mode;
use crate::wire;

/// How a topic's messages are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ordering {
    /// By key.
    #[default]
    Key,
    /// All messages of the topic.
    Total,
}

/// A topic's configuration. An absent key means the default on creation, no change on alteration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicConfig {
    /// How long messages are kept, in milliseconds.
    pub retention_ms: Option<u64>,
    /// The most encoded bytes kept; `Some(None)` takes the limit away.
    pub retention_bytes: Option<Option<u64>>,
    /// Deliveries after which a message becomes a dead letter.
    pub max_deliveries: Option<u32>,
    /// How long a delivered message is leased, in milliseconds.
    pub ack_timeout_ms: Option<u64>,
    /// How messages are ordered.
    pub ordering: Option<Ordering>,
    /// How long a client's message id is remembered, in milliseconds.
    pub dedup_window_ms: Option<u64>,
}

/// A topic as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its configuration; every key is present, and no limit on bytes is `Some(None)`.
    pub config: TopicConfig,
    /// How many partitions it has.
    pub partitions: u32,
    /// Messages retained.
    pub messages: u64,
    /// Encoded bytes retained, before replication.
    pub bytes: u64,
}

/// A group as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub group: String,
    /// Its mode.
    pub mode: Mode,
    /// Stored, neither acked nor dead-lettered, pending included.
    pub lag: u64,
    /// Leased now.
    pub pending: u64,
    /// Redeliveries since it was made.
    pub redelivered: u64,
    /// Dead letters since it was made.
    pub dead_lettered: u64,
    /// Its members.
    pub members: Vec<Member>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub consumer: String,
    /// Leased to it now.
    pub pending: u64,
    /// When it was last heard of.
    pub last_seen_ms: TimestampMs,
}

/// One admin call: the method's name is the request's.
macro_rules! admin {
    ($client:expr, $what:expr, $wait:expr, $method:ident, $request:expr) => {{
        let request = $request;
        $client
            .call($what, $wait, |channel, left| {
                let request = timed(request.clone(), left);
                async move { AdminClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX).$method(request).await }
            })
            .await
    }};
}

const AT_ONCE: Duration = Duration::ZERO;

impl Client {
    /// Creates a topic; the flag is false where it stood already with the same configuration.
    pub async fn create_topic(&self, name: &str, config: TopicConfig) -> Result<(Topic, bool)> {
        let request = v1::CreateTopicRequest { name: name.to_owned(), config: Some(config_out(config)) };
        let answer = admin!(self, "create topic", AT_ONCE, create_topic, request)?;
        Ok((topic_in(answer.topic)?, answer.created))
    }

    /// The topic as it stands.
    pub async fn topic(&self, name: &str) -> Result<Topic> {
        let request = v1::GetTopicRequest { name: name.to_owned() };
        topic_in(admin!(self, "show topic", AT_ONCE, get_topic, request)?.topic)
    }

    /// Changes the keys given.
    pub async fn alter_topic(&self, name: &str, config: TopicConfig) -> Result<Topic> {
        let request = v1::AlterTopicRequest { name: name.to_owned(), config: Some(config_out(config)) };
        topic_in(admin!(self, "alter topic", AT_ONCE, alter_topic, request)?.topic)
    }

    /// Deletes the topic, its groups and its messages.
    pub async fn delete_topic(&self, name: &str) -> Result<()> {
        let request = v1::DeleteTopicRequest { name: name.to_owned() };
        admin!(self, "delete topic", AT_ONCE, delete_topic, request).map(drop)
    }

    /// Forgets all messages of the topic; offsets go on.
    pub async fn purge_topic(&self, name: &str) -> Result<()> {
        let request = v1::PurgeTopicRequest { name: name.to_owned() };
        admin!(self, "purge topic", AT_ONCE, purge_topic, request).map(drop)
    }

    /// Topics whose names begin with `prefix`, and where more follow, the cursor for the next call.
    pub async fn topics(&self, prefix: &str, limit: u32, cursor: Option<&str>) -> Result<(Vec<Topic>, Option<String>)> {
        let cursor = cursor.unwrap_or_default().to_owned();
        let request = v1::ListTopicsRequest { prefix: prefix.to_owned(), limit, cursor };
        let answer = admin!(self, "list topics", AT_ONCE, list_topics, request)?;
        let topics = answer.topics.into_iter().map(|topic| topic_in(Some(topic))).collect::<Result<_>>()?;
        Ok((topics, Some(answer.cursor).filter(|cursor| !cursor.is_empty())))
    }

    /// The topic's groups.
    pub async fn groups(&self, topic: &str) -> Result<Vec<Group>> {
        let request = v1::ListGroupsRequest { topic: topic.to_owned() };
        let answer = admin!(self, "list groups", AT_ONCE, list_groups, request)?;
        answer.groups.into_iter().map(|group| group_in(Some(group))).collect()
    }

    /// One group.
    pub async fn group(&self, topic: &str, group: &str) -> Result<Group> {
        let request = v1::GetGroupRequest { topic: topic.to_owned(), group: group.to_owned() };
        group_in(admin!(self, "show group", AT_ONCE, get_group, request)?.group)
    }

    /// Moves a group to `to` (where reading starts); its leases end.
    pub async fn seek_group(&self, topic: &str, group: &str, to: &str) -> Result<Group> {
        let request = v1::SeekGroupRequest { topic: topic.to_owned(), group: group.to_owned(), to: to.to_owned() };
        group_in(admin!(self, "seek group", AT_ONCE, seek_group, request)?.group)
    }

    /// Deletes a group.
    pub async fn delete_group(&self, topic: &str, group: &str) -> Result<()> {
        let request = v1::DeleteGroupRequest { topic: topic.to_owned(), group: group.to_owned() };
        admin!(self, "delete group", AT_ONCE, delete_group, request).map(drop)
    }
}

fn config_out(config: TopicConfig) -> v1::TopicConfig {
    let ordering = match config.ordering {
        None => v1::Ordering::Unspecified,
        Some(Ordering::Key) => v1::Ordering::Key,
        Some(Ordering::Total) => v1::Ordering::Total,
    };
    v1::TopicConfig {
        retention_ms: config.retention_ms,
        retention_bytes: config.retention_bytes.flatten(),
        max_deliveries: config.max_deliveries,
        ack_timeout_ms: config.ack_timeout_ms,
        ordering: ordering.into(),
        dedup_window_ms: config.dedup_window_ms,
        no_retention_bytes: config.retention_bytes == Some(None),
    }
}

fn topic_in(topic: Option<v1::Topic>) -> Result<Topic> {
    let topic = topic.ok_or_else(|| Error::internal("the node answered without a topic"))?;
    let config = topic.config.unwrap_or_default();
    let ordering = match config.ordering() {
        v1::Ordering::Total => Ordering::Total,
        v1::Ordering::Key | v1::Ordering::Unspecified => Ordering::Key,
    };
    Ok(Topic {
        name: topic.name,
        config: TopicConfig {
            retention_ms: config.retention_ms,
            retention_bytes: Some(config.retention_bytes),
            max_deliveries: config.max_deliveries,
            ack_timeout_ms: config.ack_timeout_ms,
            ordering: Some(ordering),
            dedup_window_ms: config.dedup_window_ms,
        },
        partitions: topic.partitions,
        messages: topic.messages,
        bytes: topic.bytes,
    })
}

fn group_in(group: Option<v1::Group>) -> Result<Group> {
    let group = group.ok_or_else(|| Error::internal("the node answered without a group"))?;
    let member = |member: v1::Member| Member {
        consumer: member.consumer,
        pending: member.pending,
        last_seen_ms: member.last_seen.map_or(0, wire::timestamp_ms),
    };
    Ok(Group {
        mode: Mode::read(group.mode),
        group: group.group,
        lag: group.lag,
        pending: group.pending,
        redelivered: group.redelivered,
        dead_lettered: group.dead_lettered,
        members: group.members.into_iter().map(member).collect(),
    })
}
