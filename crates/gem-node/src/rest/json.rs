//! Messages as JSON: what comes in, what goes out.
//!
//! A payload that is JSON is never parsed into numbers and back: its text is kept, without the
//! white space between its tokens.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use gem_shard::log::{GroupInfo, Mode, Ordering};
use gem_types::batch;
use gem_types::message::{CONTENT_TYPE_HEADER, ID_HEADER};
use gem_types::{Error, Message, Result, TimestampMs, TopicName};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::body::is_json;
use crate::gateway::admin::TopicState;
use crate::gateway::prepare::place_id;
use crate::gateway::read::Item;

const JSON: &str = "application/json";

/// A message object on its way in.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessageIn<'a> {
    id: Option<String>,
    key: Option<String>,
    key_base64: Option<String>,
    #[serde(default)]
    headers: Option<std::collections::BTreeMap<String, String>>,
    #[serde(borrow, default, deserialize_with = "given")]
    payload: Option<&'a RawValue>,
    payload_base64: Option<String>,
}

/// A payload of `null` is a payload.
fn given<'de, D: Deserializer<'de>>(value: D) -> std::result::Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

impl MessageIn<'_> {
    /// The message. Malformed parts are `invalid_argument`.
    pub fn into_message(self) -> Result<Message> {
        let mut headers: Vec<(String, Bytes)> = Vec::new();
        for (mut name, value) in self.headers.unwrap_or_default() {
            name.make_ascii_lowercase();
            headers.push((name, Bytes::from(value)));
        }
        let key = match (self.key, self.key_base64) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid("key and key_base64 exclude each other: give one of them"));
            }
            (Some(key), None) => Some(Bytes::from(key)),
            (None, Some(text)) => Some(unbase64("key_base64", &text)?),
            (None, None) => None,
        };
        let payload = match (self.payload, self.payload_base64) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid("payload and payload_base64 exclude each other: give one of them"));
            }
            (None, Some(text)) => unbase64("payload_base64", &text)?,
            (Some(raw), None) => payload(raw.get(), &mut headers)?,
            (None, None) => return Err(Error::invalid("the message has no payload: give payload or payload_base64")),
        };
        Ok(Message { id: self.id, key, headers, payload })
    }
}

/// A string is its UTF-8 bytes; anything else is compact JSON, and says so.
fn payload(raw: &str, headers: &mut Vec<(String, Bytes)>) -> Result<Bytes> {
    if raw.starts_with('"') {
        let text: String =
            serde_json::from_str(raw).map_err(|e| Error::invalid(format!("the payload is no text: {e}")))?;
        return Ok(Bytes::from(text));
    }
    if !headers.iter().any(|(name, _)| name == CONTENT_TYPE_HEADER) {
        headers.push((CONTENT_TYPE_HEADER.to_owned(), Bytes::from_static(JSON.as_bytes())));
    }
    Ok(Bytes::from(compact(raw)))
}

/// JSON without the white space between its tokens. `json` is valid JSON.
fn compact(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for c in json.chars() {
        if in_string {
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if matches!(c, ' ' | '\t' | '\n' | '\r') {
            continue;
        } else {
            in_string = c == '"';
        }
        out.push(c);
    }
    out
}

fn unbase64(what: &str, text: &str) -> Result<Bytes> {
    let bytes = STANDARD.decode(text).map_err(|e| Error::invalid(format!("{what} is not base64 (RFC 4648): {e}")))?;
    Ok(Bytes::from(bytes))
}

/// A message object on its way out.
#[derive(Debug)]
pub struct MessageOut<'a> {
    topic: &'a TopicName,
    item: &'a Item,
}

impl<'a> MessageOut<'a> {
    /// `item`, read from `topic`.
    pub fn new(topic: &'a TopicName, item: &'a Item) -> Self {
        MessageOut { topic, item }
    }
}

impl Serialize for MessageOut<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let Item { partition, record, delivery, token } = self.item;
        let record = record.get();
        let value = record.value.unwrap_or_default();
        let id = match record.header(ID_HEADER) {
            Some(id) => String::from_utf8_lossy(id),
            None => Cow::Owned(place_id(*partition, record.offset)),
        };
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &id)?;
        map.serialize_entry("topic", self.topic.as_str())?;
        match record.key.map(|key| (key, std::str::from_utf8(key))) {
            Some((key, Err(_))) => map.serialize_entry("key_base64", &STANDARD.encode(key))?,
            Some((_, Ok(text))) => map.serialize_entry("key", text)?,
            None => map.serialize_entry("key", &None::<&str>)?,
        }
        map.serialize_entry("headers", &Headers(record.headers()))?;
        let is_json = record.header(CONTENT_TYPE_HEADER).is_some_and(|v| is_json(&String::from_utf8_lossy(v)));
        match std::str::from_utf8(value) {
            Ok(text) => match serde_json::from_str::<&RawValue>(text) {
                Ok(raw) if is_json => map.serialize_entry("payload", raw)?,
                _ => map.serialize_entry("payload", text)?,
            },
            Err(_) => map.serialize_entry("payload_base64", &STANDARD.encode(value))?,
        }
        map.serialize_entry("timestamp", &rfc3339(record.timestamp_ms))?;
        map.serialize_entry("partition", partition)?;
        map.serialize_entry("offset", &record.offset)?;
        if *delivery > 0 {
            map.serialize_entry("delivery", delivery)?;
            map.serialize_entry("ack_token", token.as_str())?;
        }
        map.end()
    }
}

/// Headers as an object: the first of a name counts, and the id is not one of them.
struct Headers<'a>(batch::Headers<'a>);

impl Serialize for Headers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let all = || self.0.clone().map_while(std::result::Result::ok);
        for (index, (name, value)) in all().enumerate() {
            let seen = all().take(index).any(|(earlier, _)| earlier == name);
            if !seen && name != ID_HEADER.as_bytes() {
                map.serialize_entry(&*String::from_utf8_lossy(name), &*String::from_utf8_lossy(value))?;
            }
        }
        map.end()
    }
}

/// A time, RFC 3339 with milliseconds.
pub fn rfc3339(ms: TimestampMs) -> String {
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(time) => format!("{time:.3}"),
        // Beyond the year 9999: no clock of GEM's stamps that.
        Err(_) => format!("{:.3}", if ms < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX }),
    }
}

/// A topic object.
#[derive(Debug, Serialize)]
pub struct TopicOut {
    name: String,
    retention_ms: u64,
    retention_bytes: Option<u64>,
    max_deliveries: u32,
    ack_timeout_ms: u64,
    ordering: Ordering,
    dedup_window_ms: u64,
    partitions: usize,
    messages: u64,
    bytes: u64,
}

impl From<TopicState> for TopicOut {
    fn from(state: TopicState) -> Self {
        let config = state.info.config;
        TopicOut {
            name: state.info.name.as_str().to_owned(),
            retention_ms: config.retention_ms,
            retention_bytes: config.retention_bytes,
            max_deliveries: config.max_deliveries,
            ack_timeout_ms: config.ack_timeout_ms,
            ordering: config.ordering,
            dedup_window_ms: config.dedup_window_ms,
            partitions: state.info.partitions.len(),
            messages: state.messages,
            bytes: state.bytes,
        }
    }
}

/// A group object.
#[derive(Debug, Serialize)]
pub struct GroupOut {
    group: String,
    mode: Mode,
    lag: u64,
    pending: u64,
    redelivered: u64,
    dead_lettered: u64,
    members: Vec<MemberOut>,
}

#[derive(Debug, Serialize)]
struct MemberOut {
    consumer: String,
    pending: u64,
    last_seen: String,
}

impl From<GroupInfo> for GroupOut {
    fn from(info: GroupInfo) -> Self {
        let members = info.members.into_iter().map(|m| MemberOut {
            consumer: m.consumer,
            pending: m.pending,
            last_seen: rfc3339(m.last_seen_ms),
        });
        GroupOut {
            group: info.group.as_str().to_owned(),
            mode: info.mode,
            lag: info.lag,
            pending: info.pending,
            redelivered: info.redelivered,
            dead_lettered: info.dead_lettered,
            members: members.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gem_shard::log::TokenText;
    use gem_types::batch::BatchBuilder;

    fn read(json: &str) -> Result<Message> {
        serde_json::from_str::<MessageIn>(json).map_err(|e| Error::invalid(e.to_string()))?.into_message()
    }

    fn shown(payload: &'static [u8], kind: Option<&'static str>) -> serde_json::Value {
        let headers = kind.map(|k| ("content-type".to_owned(), Bytes::from_static(k.as_bytes())));
        let message = Message {
            id: None,
            key: None,
            headers: headers.into_iter().collect(),
            payload: Bytes::from_static(payload),
        };
        let time = 1_700_000_000_001;
        let mut builder = BatchBuilder::new();
        builder.push(&message, "i");
        let record = builder.finish(time).records().shared().next().unwrap().unwrap();
        let item = Item { partition: 0, record, delivery: 0, token: TokenText::NONE };
        serde_json::to_value(MessageOut::new(&TopicName::new("t").unwrap(), &item)).unwrap()
    }

    #[test]
    fn a_string_is_its_bytes_and_anything_else_is_compact_json() {
        let text = read(r#"{"payload":"gr\u00fc\u00dfe"}"#).unwrap();
        assert_eq!((text.payload.as_ref(), text.headers.len()), ("grüße".as_bytes(), 0));
        let object = read(r#"{"payload": {"b" : [1.10, 12345678901234567890123], "a b": "x \" y" } }"#).unwrap();
        assert_eq!(object.payload.as_ref(), br#"{"b":[1.10,12345678901234567890123],"a b":"x \" y"}"#);
        assert_eq!(object.header("content-type").unwrap().as_ref(), b"application/json");
        assert_eq!(read(r#"{"payload":null}"#).unwrap().payload.as_ref(), b"null");
        assert_eq!(read(r#"{"payload_base64":"AP8="}"#).unwrap().payload.as_ref(), [0, 255]);
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for bad in [
            "{}",
            "[]",
            r#"{"payload":1,"payload_base64":""}"#,
            r#"{"payload":1,"colour":2}"#,
            r#"{"payload_base64":"*"}"#,
            r#"{"payload":1,"key":2}"#,
            r#"{"payload":1,"headers":{"a":1}}"#,
            r#"{"payload":"\ud800"}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_payload_goes_out_as_what_it_is() {
        assert_eq!(shown(br#"{"a":1}"#, Some("application/json; charset=utf-8"))["payload"]["a"], 1);
        assert_eq!(shown(br#"{"a":1}"#, None)["payload"], r#"{"a":1}"#);
        assert_eq!(shown(b"{", Some("application/json"))["payload"], "{");
        assert_eq!(shown(&[0, 255], Some("application/json"))["payload_base64"], "AP8=");
        let message = shown(b"x", None);
        assert_eq!(message["timestamp"], "2023-11-14T22:13:20.001Z");
        assert_eq!(message["headers"], serde_json::json!({}));
        assert!(message["key"].is_null() && message.get("delivery").is_none());
    }
}
