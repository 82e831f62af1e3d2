//! The contract's message object, in and out.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use gem_client::{Delivery, Message};
use gem_types::message::CONTENT_TYPE_HEADER;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

#[derive(Serialize)]
struct Out<'a> {
    id: &'a str,
    topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    key: Option<&'a str>,
    headers: BTreeMap<&'a str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none", rename = "payload")]
    payload_text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    timestamp: String,
    partition: u32,
    offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery: Option<u32>,
}

/// The message object of what a subscription got, on one line.
pub fn write(delivery: &Delivery) -> serde_json::Result<String> {
    let stored = &delivery.message;
    let message = &stored.message;
    let text = std::str::from_utf8(&message.payload).ok();
    let is_json = message.header(CONTENT_TYPE_HEADER).is_some_and(|kind| is_json(kind));
    // A pretty-printed payload would break the line: it is compacted first.
    let compact = text.filter(|_| is_json).and_then(compacted);
    let payload = compact.as_deref();
    let key = message.key.as_deref().map(std::str::from_utf8);
    serde_json::to_string(&Out {
        id: message.id.as_deref().unwrap_or_default(),
        topic: stored.topic.as_str(),
        key: key.and_then(Result::ok),
        key_base64: message.key.as_deref().filter(|_| key.is_some_and(|key| key.is_err())).map(|k| BASE64.encode(k)),
        headers: message.headers.iter().map(|(n, v)| (n.as_str(), String::from_utf8_lossy(v).into_owned())).collect(),
        payload,
        payload_text: text.filter(|_| payload.is_none()),
        payload_base64: text.is_none().then(|| BASE64.encode(&message.payload)),
        timestamp: rfc3339(stored.timestamp_ms),
        partition: stored.partition,
        offset: stored.offset,
        delivery: (delivery.delivery > 0).then_some(delivery.delivery),
    })
}

/// RFC 3339 in UTC with milliseconds.
pub fn rfc3339(timestamp_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(timestamp_ms)
        .map_or_else(|_| timestamp_ms.to_string(), |time| format!("{time:.3}"))
}

fn is_json(content_type: &[u8]) -> bool {
    let kind = String::from_utf8_lossy(content_type).to_ascii_lowercase();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind == "application/json" || kind.ends_with("+json")
}

fn compacted(text: &str) -> Option<Box<RawValue>> {
    if !text.contains(['\n', '\r']) {
        // As it stands: numbers keep their digits, keys their order.
        return RawValue::from_string(text.to_owned()).ok();
    }
    let value: Value = serde_json::from_str(text).ok()?;
    RawValue::from_string(value.to_string()).ok()
}

/// What `gem sub --json` adds is accepted and ignored, so that its lines can be published again.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct In {
    id: Option<String>,
    key: Option<String>,
    key_base64: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    payload: Option<Box<RawValue>>,
    payload_base64: Option<String>,
    #[serde(rename = "topic")]
    _topic: Option<Value>,
    #[serde(rename = "timestamp")]
    _timestamp: Option<Value>,
    #[serde(rename = "partition")]
    _partition: Option<Value>,
    #[serde(rename = "offset")]
    _offset: Option<Value>,
    #[serde(rename = "delivery")]
    _delivery: Option<Value>,
}

/// Reads a message object; the error says what is wrong with it.
pub fn read(line: &str) -> Result<Message, String> {
    let object: In = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let mut headers: Vec<(String, Bytes)> =
        object.headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), Bytes::from(value))).collect();
    let payload = match (object.payload, object.payload_base64) {
        (Some(_), Some(_)) => return Err("payload and payload_base64 exclude each other".to_owned()),
        (None, Some(text)) => decoded(&text, "payload_base64")?,
        (None, None) => return Err("there is neither payload nor payload_base64".to_owned()),
        (Some(raw), None) => match serde_json::from_str::<String>(raw.get()) {
            Ok(text) => Bytes::from(text),
            Err(_) => {
                if !headers.iter().any(|(name, _)| name == CONTENT_TYPE_HEADER) {
                    headers.push((CONTENT_TYPE_HEADER.to_owned(), Bytes::from_static(b"application/json")));
                }
                Bytes::from(compact_json(raw.get())?)
            }
        },
    };
    let key = match (object.key, object.key_base64) {
        (Some(_), Some(_)) => return Err("key and key_base64 exclude each other".to_owned()),
        (Some(key), None) => Some(Bytes::from(key)),
        (None, Some(text)) => Some(decoded(&text, "key_base64")?),
        (None, None) => None,
    };
    Ok(gem_types::Message { id: object.id, key, headers, payload }.into())
}

fn decoded(text: &str, name: &str) -> Result<Bytes, String> {
    BASE64.decode(text).map(Bytes::from).map_err(|error| format!("{name} is not base64: {error}"))
}

fn compact_json(text: &str) -> Result<String, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    Ok(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_object_becomes_a_message() {
        let message = read(r#"{"id":"a","key":"k","headers":{"X-Y":"1"},"payload":{"n": 1}}"#).unwrap();
        let expected =
            Message::new(r#"{"n":1}"#).id("a").key("k").header("x-y", "1").header("content-type", "application/json");
        assert_eq!(message, expected);
        assert_eq!(read(r#"{"payload":"text"}"#).unwrap(), Message::new("text"));
        assert_eq!(read(r#"{"payload_base64":"/w=="}"#).unwrap(), Message::new(vec![0xff]));
        for bad in ["{}", r#"{"payload":1,"payload_base64":""}"#, r#"{"payload":1,"x":2}"#, "[]"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_have_milliseconds() {
        assert_eq!(rfc3339(1_790_000_000_120), "2026-09-21T14:13:20.120Z");
    }
}
