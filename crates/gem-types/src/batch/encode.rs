//! From messages to a batch.

use bytes::{BufMut, Bytes, BytesMut};

use super::codec::Codec;
use super::layout::{self, HEAD_LEN, Head};
use super::{RecordBatch, varint};
use crate::ids::{ProducerId, TimestampMs};
use crate::message::{ID_HEADER, Message};

/// The most bytes that an encoded batch may have: 1 GiB. Limits on what clients send are far
/// below ([`crate::limits`]).
pub const MAX_ENCODED: usize = 1 << 30;

/// Gathers messages into a batch. Each payload is copied once, into the batch's one buffer.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    /// Room for the head, then the records; empty before the first record.
    buffer: BytesMut,
    count: i32,
    codec: Codec,
    producer: Option<Producer>,
}

#[derive(Clone, Copy, Debug)]
struct Producer {
    id: ProducerId,
    epoch: i16,
    base_sequence: i32,
}

impl BatchBuilder {
    /// An empty builder.
    pub fn new() -> Self {
        BatchBuilder::default()
    }

    /// An empty builder with room for `bytes` bytes of encoded batch.
    pub fn with_capacity(bytes: usize) -> Self {
        BatchBuilder { buffer: BytesMut::with_capacity(bytes), ..BatchBuilder::default() }
    }

    /// Compresses the records at the end.
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Names a numbered producer, as Kafka's idempotent producers are.
    pub fn producer(mut self, id: ProducerId, epoch: i16, base_sequence: i32) -> Self {
        self.producer = Some(Producer { id, epoch, base_sequence });
        self
    }

    /// Adds a message, whose id becomes the record's first header; `message.id` is not looked at.
    /// An empty id makes no header.
    ///
    /// Panics if the batch would pass [`MAX_ENCODED`]; [`encoded_size`](Self::encoded_size) tells
    /// beforehand.
    pub fn push(&mut self, message: &Message, id: &str) {
        let body = body_len(self.count, message, id);
        let room = varint::len(body as i64) + body;
        if self.count == 0 {
            self.buffer.reserve(HEAD_LEN + room);
            self.buffer.put_bytes(0, HEAD_LEN);
        }
        assert!(self.buffer.len() + room <= MAX_ENCODED, "a record batch never passes {MAX_ENCODED} bytes");
        self.buffer.reserve(room);
        let out = &mut self.buffer;
        varint::put(out, body as i64);
        out.put_u8(0); // attributes
        varint::put(out, 0); // timestamp delta
        varint::put(out, self.count.into());
        match &message.key {
            Some(key) => put_field(out, key),
            None => varint::put(out, -1),
        }
        put_field(out, &message.payload);
        varint::put(out, message.headers.len() as i64 + i64::from(!id.is_empty()));
        if !id.is_empty() {
            put_field(out, ID_HEADER.as_bytes());
            put_field(out, id.as_bytes());
        }
        for (name, value) in &message.headers {
            put_field(out, name.as_bytes());
            put_field(out, value);
        }
        self.count += 1;
    }

    /// The most bytes by which `message` under `id` makes a batch longer.
    pub fn encoded_size(message: &Message, id: &str) -> usize {
        let body = body_len(i32::MAX, message, id);
        varint::len(body as i64) + body
    }

    /// The bytes of the batch so far, before compression; 0 while there is no record.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether there is no record yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The number of records so far.
    pub fn count(&self) -> u32 {
        self.count as u32
    }

    /// The batch: base offset 0, every record with `timestamp_ms`, until a leader stamps it.
    ///
    /// Panics if the builder is empty: a batch has at least one record.
    pub fn finish(self, timestamp_ms: TimestampMs) -> RecordBatch {
        assert!(self.count > 0, "a record batch has at least one record");
        let mut buffer = self.buffer;
        let mut codec = self.codec;
        if codec != Codec::None {
            // Writing into memory doesn't fail; should a codec refuse, the batch goes as it is.
            match codec.compress(&buffer[HEAD_LEN..]) {
                Ok(compressed) if compressed.len() < buffer.len() - HEAD_LEN => {
                    buffer.truncate(HEAD_LEN);
                    buffer.extend_from_slice(&compressed);
                }
                _ => codec = Codec::None,
            }
        }
        let head = Head {
            base_offset: 0,
            leader_epoch: -1,
            crc: 0,
            attributes: codec.attributes(),
            last_offset_delta: self.count - 1,
            base_timestamp: timestamp_ms,
            max_timestamp: timestamp_ms,
            producer_id: self.producer.map_or(-1, |producer| producer.id.0),
            producer_epoch: self.producer.map_or(-1, |producer| producer.epoch),
            base_sequence: self.producer.map_or(-1, |producer| producer.base_sequence),
            count: self.count,
        };
        RecordBatch::assemble(head, buffer)
    }
}

impl RecordBatch {
    /// Puts `head` with its checksum into the first bytes of `buffer`, before its records.
    pub(super) fn assemble(head: Head, mut buffer: BytesMut) -> RecordBatch {
        let (space, records) = buffer.split_at_mut(HEAD_LEN);
        let head = head.sealed(records);
        space.copy_from_slice(&head.to_bytes(records.len()));
        RecordBatch { head, bytes: buffer.freeze(), restamped: false }
    }

    /// As [`assemble`](Self::assemble), over a buffer that is shared: its first bytes stay.
    pub(super) fn assemble_shared(head: Head, bytes: Bytes) -> RecordBatch {
        let head = head.sealed(bytes.get(layout::HEAD_LEN..).unwrap_or_default());
        RecordBatch { head, bytes, restamped: true }
    }
}

/// The bytes of a record behind its length.
fn body_len(offset_delta: i32, message: &Message, id: &str) -> usize {
    let headers: usize =
        message.headers.iter().map(|(name, value)| field_len(name.len()) + field_len(value.len())).sum();
    let id_header = if id.is_empty() { 0 } else { field_len(ID_HEADER.len()) + field_len(id.len()) };
    2 + varint::len(offset_delta.into())
        + message.key.as_ref().map_or(1, |key| field_len(key.len()))
        + field_len(message.payload.len())
        + varint::len(message.headers.len() as i64 + i64::from(!id.is_empty()))
        + id_header
        + headers
}

fn field_len(length: usize) -> usize {
    varint::len(length as i64) + length
}

fn put_field(out: &mut BytesMut, bytes: &[u8]) {
    varint::put(out, bytes.len() as i64);
    out.extend_from_slice(bytes);
}
