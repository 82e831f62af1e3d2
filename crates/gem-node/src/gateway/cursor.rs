//! Cursors: opaque to clients, a vector over the partitions to GEM.
//!
//! ```text
//! version 1 (u8) | topic (u32) | per partition: number (u32) | life (u32) | next offset (u64)
//! ```
//! in big-endian, as base64url without padding. `topic` is a digest of the topic's name, so that a
//! cursor of another topic is refused; `life` tells apart the partitions that a name had over
//! time, so that a topic made anew is read from its beginning.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Buf, BufMut};
use gem_types::{Error, Offset, PartitionId, Result, TopicName};

const VERSION: u8 = 1;
const HEAD: usize = 5;
const ENTRY: usize = 16;

/// Where a groupless reader goes on, per partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    number: u32,
    life: u32,
    next: Offset,
}

fn life(partition: PartitionId) -> u32 {
    let [.., a, b, c, d] = partition.0;
    u32::from_be_bytes([a, b, c, d])
}

fn mark(topic: &TopicName) -> u32 {
    (topic.position().0 >> 32) as u32
}

impl Cursor {
    /// A cursor that knows no partition.
    pub fn new() -> Self {
        Cursor { entries: Vec::new() }
    }

    /// The next offset of `partition`; `None` where it is not known, or has begun a new life.
    pub fn next(&self, number: u32, partition: PartitionId) -> Option<Offset> {
        let known = |e: &&Entry| e.number == number && e.life == life(partition);
        self.entries.iter().find(known).map(|e| e.next)
    }

    /// Sets the next offset of `partition`.
    pub fn set(&mut self, number: u32, partition: PartitionId, next: Offset) {
        let entry = Entry { number, life: life(partition), next };
        match self.entries.iter_mut().find(|e| e.number == number) {
            Some(known) => *known = entry,
            None => self.entries.push(entry),
        }
    }

    /// Moves a partition that is known, within its life.
    pub fn advance(&mut self, number: u32, next: Offset) {
        if let Some(entry) = self.entries.iter_mut().find(|e| e.number == number) {
            entry.next = next;
        }
    }

    /// As a client sees it.
    pub fn encode(&self, topic: &TopicName) -> String {
        let mut out = Vec::with_capacity(HEAD + ENTRY * self.entries.len());
        out.put_u8(VERSION);
        out.put_u32(mark(topic));
        for entry in &self.entries {
            out.put_u32(entry.number);
            out.put_u32(entry.life);
            out.put_u64(entry.next);
        }
        URL_SAFE_NO_PAD.encode(out)
    }

    /// Reads what [`encode`](Self::encode) wrote for the same topic.
    pub fn decode(text: &str, topic: &TopicName) -> Result<Self> {
        let bad = || {
            Error::invalid(format!("{text:?} is not a cursor of topic {topic}: give one as an earlier answer had it"))
        };
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad())?;
        let mut rest = bytes.as_slice();
        if rest.len() < HEAD
            || !(rest.len() - HEAD).is_multiple_of(ENTRY)
            || rest.get_u8() != VERSION
            || rest.get_u32() != mark(topic)
        {
            return Err(bad());
        }
        let mut entries = Vec::with_capacity(rest.len() / ENTRY);
        while rest.has_remaining() {
            entries.push(Entry { number: rest.get_u32(), life: rest.get_u32(), next: rest.get_u64() });
        }
        Ok(Cursor { entries })
    }
}

impl Default for Cursor {
    fn default() -> Self {
        Self::new()
    }
}

/// The cursor of a listing: the last name on the page before.
pub fn encode_name(name: &str) -> String {
    URL_SAFE_NO_PAD.encode([&[VERSION], name.as_bytes()].concat())
}

/// Reads what [`encode_name`] wrote.
pub fn decode_name(text: &str) -> Result<String> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok();
    let name = bytes.as_deref().and_then(|b| b.strip_prefix(&[VERSION])).and_then(|b| std::str::from_utf8(b).ok());
    name.map(str::to_owned).ok_or_else(|| {
        Error::invalid(format!("{text:?} is not a cursor of a listing: give one as an earlier answer had it"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_goes_there_and_back() {
        let (topic, other) = (TopicName::new("orders").unwrap(), TopicName::new("other").unwrap());
        let (first, second) = (PartitionId::new(&topic, 0, b"1"), PartitionId::new(&topic, 0, b"2"));
        let mut cursor = Cursor::new();
        cursor.set(0, first, 4);
        cursor.set(0, first, 5);
        let text = cursor.encode(&topic);
        let read = Cursor::decode(&text, &topic).unwrap();
        assert_eq!(read.next(0, first), Some(5));
        assert_eq!(read.next(0, second), None, "a topic made anew");
        assert!(Cursor::decode(&text, &other).is_err());
        for bad in ["", "x", "AAAA", &text[1..], "ä"] {
            assert!(Cursor::decode(bad, &topic).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_listing_goes_on_after_a_name() {
        assert_eq!(decode_name(&encode_name("a.b")).unwrap(), "a.b");
        assert!(decode_name("zzz").is_err());
    }
}
