//! A message to be published.

use bytes::Bytes;

/// A message on its way in: a payload and, where wanted, a key, headers and an id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub(crate) inner: gem_types::Message,
}

impl Message {
    /// A message with this payload, at most 1 MiB by default.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Message { inner: gem_types::Message { payload: payload.into(), ..Default::default() } }
    }

    /// Messages with the same key keep their order.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.inner.key = Some(key.into());
        self
    }

    /// Adds a header. Header names are lower-case on every interface.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Bytes>) -> Self {
        self.inner.headers.push((name.to_ascii_lowercase(), value.into()));
        self
    }

    /// The message's own id: within the topic's `dedup_window`, the same (topic, key, id) is stored once.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.inner.id = Some(id.into());
        self
    }

    /// The id, where one was given.
    pub fn id_str(&self) -> Option<&str> {
        self.inner.id.as_deref()
    }
}

impl From<gem_types::Message> for Message {
    fn from(inner: gem_types::Message) -> Self {
        Message { inner }
    }
}
