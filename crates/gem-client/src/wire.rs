//! Between the wire's messages and the client's.

use bytes::Bytes;
use gem_proto::v1;
use gem_types::batch::BatchBuilder;
use gem_types::message::{Receipt, StoredMessage};
use gem_types::seams::{Clock, OsRandom, Random, SystemClock};
use gem_types::{Error, Result, TopicName};
use prost::Message as _;

use crate::message::Message;
use crate::status;

/// What a record takes more than a message on the wire, at the most.
const RECORD_ROOM_BYTES: usize = 32;
const PACKED_BYTES_MAX: usize = 256 << 20;

pub(crate) fn message(message: Message) -> v1::Message {
    let message = message.inner;
    let headers = message.headers.into_iter().map(|(name, value)| v1::Header { name, value }).collect();
    v1::Message { id: message.id.unwrap_or_default(), key: message.key, headers, payload: message.payload }
}

/// The messages as one record batch; `None` where they are far beyond what a node takes, and go as
/// they are for the node to say so.
pub(crate) fn packed(messages: &[v1::Message]) -> Option<Bytes> {
    let bytes = messages.iter().map(|message| message.encoded_len() + RECORD_ROOM_BYTES).sum();
    if bytes > PACKED_BYTES_MAX {
        return None;
    }
    let mut batch = BatchBuilder::with_capacity(bytes);
    for message in messages {
        let headers = message.headers.iter().map(|header| (header.name.clone(), header.value.clone())).collect();
        let (key, payload) = (message.key.clone(), message.payload.clone());
        batch.push(&gem_types::Message { id: None, key, headers, payload }, &message.id);
    }
    Some(batch.finish(SystemClock::new().wall_ms()).to_bytes())
}

/// A fresh id: with one, a repeated publish is recognised.
pub(crate) fn fresh_id() -> String {
    let mut random = [0; 10];
    OsRandom.fill(&mut random);
    let now_ms = SystemClock::new().wall_ms().max(0) as u64;
    uuid::Builder::from_unix_timestamp_millis(now_ms, &random).into_uuid().to_string()
}

/// The id of a message of a stored run that came without one: the run's UUID plus its index; without
/// a UUID its place.
pub(crate) fn id_in_run(base: &[u8], index: usize, partition: u32, offset: u64) -> String {
    let Ok(base) = <[u8; 16]>::try_from(base) else { return format!("{partition}:{offset}") };
    uuid::Uuid::from_u128(u128::from_be_bytes(base).wrapping_add(index as u128)).to_string()
}

pub(crate) fn stored(topic: &TopicName, message: v1::StoredMessage) -> (StoredMessage, u32, String) {
    let timestamp_ms = message.timestamp.map_or(0, timestamp_ms);
    let headers = message.headers.into_iter().map(|header| (header.name, header.value)).collect();
    let inner = gem_types::Message { id: Some(message.id), key: message.key, headers, payload: message.payload };
    let stored = StoredMessage {
        message: inner,
        topic: topic.clone(),
        partition: message.partition,
        offset: message.offset,
        timestamp_ms,
    };
    (stored, message.delivery, message.ack_token)
}

pub(crate) fn timestamp_ms(timestamp: prost_types::Timestamp) -> i64 {
    timestamp.seconds.saturating_mul(1000).saturating_add(i64::from(timestamp.nanos / 1_000_000))
}

pub(crate) fn receipt(receipt: v1::Receipt) -> Receipt {
    Receipt { id: receipt.id, partition: receipt.partition, offset: receipt.offset, duplicate: receipt.duplicate }
}

pub(crate) fn result(result: v1::PublishResult) -> Result<Receipt> {
    match result.outcome {
        Some(v1::publish_result::Outcome::Receipt(place)) => Ok(receipt(place)),
        Some(v1::publish_result::Outcome::Error(refusal)) => Err(status::refusal(refusal)),
        None => Err(Error::internal("the node answered a message with neither a receipt nor an error")),
    }
}
