//! A message: what a client publishes, and what it gets back.

use bytes::Bytes;

use crate::ids::{Offset, TimestampMs, TopicName};

/// The record header that holds a message's id.
pub const ID_HEADER: &str = "gem-id";
/// The record header that holds a payload's content type.
pub const CONTENT_TYPE_HEADER: &str = "content-type";

/// A message on its way in: not yet in a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The client's own id; `None` lets the gateway make one.
    pub id: Option<String>,
    /// The key: orders and places the message.
    pub key: Option<Bytes>,
    /// Headers, names in lower case, in the order given. Never holds [`ID_HEADER`].
    pub headers: Vec<(String, Bytes)>,
    /// The payload.
    pub payload: Bytes,
}

impl Message {
    /// The value of the first header called `name`.
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    /// The bytes that count against the limits: key, headers, id and payload.
    pub fn size(&self) -> usize {
        self.payload.len()
            + self.key.as_ref().map_or(0, Bytes::len)
            + self.id.as_ref().map_or(0, String::len)
            + self.headers_size()
    }

    /// The bytes of all headers' names and values.
    pub fn headers_size(&self) -> usize {
        self.headers.iter().map(|(n, v)| n.len() + v.len()).sum()
    }
}

/// A message as it is stored and read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage {
    /// The message; its id is always there.
    pub message: Message,
    /// Its topic.
    pub topic: TopicName,
    /// The number of its partition within the topic.
    pub partition: u32,
    /// Its place in the partition, for ever.
    pub offset: Offset,
    /// When it was stored, by the mesh's clock.
    pub timestamp_ms: TimestampMs,
}

/// The answer to a publish: where the message is stored for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The message's id: the client's, or the one the gateway made.
    pub id: String,
    /// The number of its partition within the topic.
    pub partition: u32,
    /// Its place in the partition.
    pub offset: Offset,
    /// Whether it had been stored before, under the same id.
    pub duplicate: bool,
}
