//! The limits on what a client may send: one place for their meaning and their check.

use crate::error::{Error, Result};
use crate::message::Message;

/// The most headers of one message, whatever their size: as many as the default `max_headers` has
/// room for at two bytes each.
pub const MAX_HEADER_COUNT: usize = 1 << 14;

/// Limits on one message and one batch, in bytes. Keys of `gem.toml`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `max_message`: a message's payload, key, headers and id together.
    pub max_message: usize,
    /// `max_batch`: all messages of one publish together.
    pub max_batch: usize,
    /// `max_headers`: all header names and values of one message.
    pub max_headers: usize,
    /// `max_key`: a key.
    pub max_key: usize,
    /// `max_id`: a client's own message id.
    pub max_id: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { max_message: 1 << 20, max_batch: 8 << 20, max_headers: 32 << 10, max_key: 4 << 10, max_id: 256 }
    }
}

impl Limits {
    /// Refuses a message that is over a limit (`too_large`) or malformed (`invalid_argument`).
    pub fn check(&self, message: &Message) -> Result<()> {
        let over = |what: &str, size: usize, max: usize, key: &str| {
            Err(Error::too_large(format!(
                "{what} has {size} bytes; at most {max} are allowed ({key}): send less, or raise {key}"
            )))
        };
        let key = message.key.as_ref().map_or(0, |k| k.len());
        let id = message.id.as_ref().map_or(0, |id| id.len());
        let headers = message.headers_size();
        if key > self.max_key {
            return over("the key", key, self.max_key, "max_key");
        }
        if id > self.max_id {
            return over("the id", id, self.max_id, "max_id");
        }
        if headers > self.max_headers {
            return over("the headers", headers, self.max_headers, "max_headers");
        }
        if message.headers.len() > MAX_HEADER_COUNT {
            return Err(Error::too_large(format!(
                "the message has {} headers; at most {MAX_HEADER_COUNT} are allowed: send fewer",
                message.headers.len()
            )));
        }
        if message.size() > self.max_message {
            return over("the message", message.size(), self.max_message, "max_message");
        }
        if message.id.as_ref().is_some_and(|id| id.is_empty()) {
            return Err(Error::invalid("the id is empty: leave it out, or give at least one character"));
        }
        Ok(())
    }
}
