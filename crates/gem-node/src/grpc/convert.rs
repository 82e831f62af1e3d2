//! Between the wire's messages and the gateway's.

use bytes::Bytes;
use gem_proto::v1;
use gem_shard::log::{From as Start, GroupInfo, Mode, Ordering, Status, TopicChange, TopicConfig, Verb};
use gem_types::{Error, Message, Result, TimestampMs, TopicName};

use crate::gateway::admin::TopicState;
use crate::gateway::prepare::{Ids, Input};
use crate::gateway::publish::{Place, Places};
use crate::gateway::start;

/// A publish's messages, or its record batch: one of them.
pub fn input(messages: Vec<v1::Message>, record_batch: Bytes) -> Result<Input> {
    match (messages.is_empty(), record_batch.is_empty()) {
        (false, false) => Err(Error::invalid("messages and record_batch exclude each other: give one of them")),
        (true, false) => Ok(Input::Encoded(record_batch)),
        _ => Ok(Input::Messages(messages.into_iter().map(message).collect())),
    }
}

fn message(message: v1::Message) -> Message {
    Message {
        id: Some(message.id).filter(|id| !id.is_empty()),
        key: message.key,
        headers: message.headers.into_iter().map(header).collect(),
        payload: message.payload,
    }
}

fn header(header: v1::Header) -> (String, Bytes) {
    let mut name = header.name;
    name.make_ascii_lowercase();
    (name, header.value)
}

/// The outcomes of a publish, in input order.
pub fn results(topic: &TopicName, ids: &Ids, places: Places) -> Vec<v1::PublishResult> {
    let receipt = |(index, outcome): (usize, Result<Place>)| {
        let outcome = match outcome {
            Ok(place) => v1::publish_result::Outcome::Receipt(v1::Receipt {
                id: ids.text(index, place.partition, place.offset),
                topic: topic.as_str().to_owned(),
                partition: place.partition,
                offset: place.offset,
                duplicate: place.duplicate,
            }),
            Err(error) => v1::publish_result::Outcome::Error(super::status::refusal(error)),
        };
        v1::PublishResult { outcome: Some(outcome) }
    };
    places.into_each().into_iter().enumerate().map(receipt).collect()
}

/// A time as protobuf has it.
pub fn timestamp(ms: TimestampMs) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: ms.div_euclid(1000), nanos: (ms.rem_euclid(1000) * 1_000_000) as i32 }
}

/// Where reading starts; `None` where the text is empty.
pub fn start(text: &str) -> Result<Option<Start>> {
    if text.is_empty() { Ok(None) } else { start::parse(text).map(Some) }
}

/// A mode; `None` where it is not given.
pub fn mode(value: i32) -> Result<Option<Mode>> {
    match v1::Mode::try_from(value) {
        Ok(v1::Mode::Unspecified) => Ok(None),
        Ok(v1::Mode::Shared) => Ok(Some(Mode::Shared)),
        Ok(v1::Mode::Key) => Ok(Some(Mode::Key)),
        Err(_) => Err(Error::invalid(format!("{value} is no mode: use MODE_SHARED or MODE_KEY"))),
    }
}

/// A mode on its way out.
pub fn mode_out(mode: Option<Mode>) -> i32 {
    match mode {
        None => v1::Mode::Unspecified as i32,
        Some(Mode::Shared) => v1::Mode::Shared as i32,
        Some(Mode::Key) => v1::Mode::Key as i32,
    }
}

/// Tokens and what became of them.
pub fn settlements(verbs: &[(String, Verb)], statuses: &[Status]) -> Vec<v1::Settlement> {
    let settlement = |((token, _), status): (&(String, _), &Status)| v1::Settlement {
        token: token.clone(),
        status: status.as_str().to_owned(),
    };
    verbs.iter().zip(statuses).map(settlement).collect()
}

fn ordering(value: i32) -> Result<Option<Ordering>> {
    match v1::Ordering::try_from(value) {
        Ok(v1::Ordering::Unspecified) => Ok(None),
        Ok(v1::Ordering::Key) => Ok(Some(Ordering::Key)),
        Ok(v1::Ordering::Total) => Ok(Some(Ordering::Total)),
        Err(_) => Err(Error::invalid(format!("{value} is no ordering: use ORDERING_KEY or ORDERING_TOTAL"))),
    }
}

/// The keys that an alteration gives.
pub fn change(config: Option<v1::TopicConfig>) -> Result<TopicChange> {
    let config = config.unwrap_or_default();
    if config.no_retention_bytes && config.retention_bytes.is_some() {
        return Err(Error::invalid("retention_bytes and no_retention_bytes exclude each other: give one of them"));
    }
    Ok(TopicChange {
        retention_ms: config.retention_ms,
        retention_bytes: config.retention_bytes.map(Some).or(config.no_retention_bytes.then_some(None)),
        max_deliveries: config.max_deliveries,
        ack_timeout_ms: config.ack_timeout_ms,
        ordering: ordering(config.ordering)?,
        dedup_window_ms: config.dedup_window_ms,
    })
}

/// A new topic's configuration: absent fields mean the defaults.
pub fn config(config: Option<v1::TopicConfig>) -> Result<TopicConfig> {
    let given = change(config)?;
    let default = TopicConfig::default();
    Ok(TopicConfig {
        retention_ms: given.retention_ms.unwrap_or(default.retention_ms),
        retention_bytes: given.retention_bytes.flatten(),
        max_deliveries: given.max_deliveries.unwrap_or(default.max_deliveries),
        ack_timeout_ms: given.ack_timeout_ms.unwrap_or(default.ack_timeout_ms),
        ordering: given.ordering.unwrap_or_default(),
        dedup_window_ms: given.dedup_window_ms.unwrap_or(default.dedup_window_ms),
    })
}

/// A topic on its way out.
pub fn topic(state: TopicState) -> v1::Topic {
    let config = state.info.config;
    v1::Topic {
        name: state.info.name.as_str().to_owned(),
        config: Some(v1::TopicConfig {
            retention_ms: Some(config.retention_ms),
            retention_bytes: config.retention_bytes,
            max_deliveries: Some(config.max_deliveries),
            ack_timeout_ms: Some(config.ack_timeout_ms),
            ordering: match config.ordering {
                Ordering::Key => v1::Ordering::Key as i32,
                Ordering::Total => v1::Ordering::Total as i32,
            },
            dedup_window_ms: Some(config.dedup_window_ms),
            no_retention_bytes: false,
        }),
        partitions: state.info.partitions.len() as u32,
        messages: state.messages,
        bytes: state.bytes,
    }
}

/// A group on its way out.
pub fn group(info: GroupInfo) -> v1::Group {
    let members = info.members.into_iter().map(|m| v1::Member {
        consumer: m.consumer,
        pending: m.pending,
        last_seen: Some(timestamp(m.last_seen_ms)),
    });
    v1::Group {
        group: info.group.as_str().to_owned(),
        mode: mode_out(Some(info.mode)),
        lag: info.lag,
        pending: info.pending,
        redelivered: info.redelivered,
        dead_lettered: info.dead_lettered,
        members: members.collect(),
    }
}
