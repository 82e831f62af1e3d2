//! Record batches: the unit in which messages travel, are stored and are delivered.
//!
//! What it is: Kafka's RecordBatch v2 (magic 2), as a codec over shared buffers. A
//! [`RecordBatch`] is a parsed head and a slice; cloning, checking, stamping and reading it copy
//! no payload. [`BatchBuilder`] makes one from messages and copies each payload once.
//!
//! What it is not: it knows no partition, no limits on messages ([`crate::limits`]) and no older
//! Kafka formats (magic 0 and 1).
//!
//! Invariants:
//! - No input makes a decoder panic, or allocate more than the bounds in [`Rules`].
//! - What [`RecordBatch::check`] let through iterates without error, and its offsets are dense:
//!   record `i` has offset `base_offset + i`.
//! - The checksum of a batch in memory is right at every moment: whatever changes the head
//!   updates it.

mod carry;
mod codec;
mod crc;
mod cut;
mod decode;
mod encode;
mod error;
mod layout;
mod record;
mod shape;
mod stamp;
mod varint;

use std::fmt;

use bytes::{Bytes, BytesMut};

use crate::ids::{Offset, ProducerId, TimestampMs};

pub use codec::Codec;
pub use decode::{MAX_DECOMPRESSED, Rules};
pub use encode::{BatchBuilder, MAX_ENCODED};
pub use error::BatchError;
pub use layout::HEAD_LEN;
pub use record::{Headers, Record, RecordRef, RecordRefs, Records, SharedRecord};

use layout::Head;

/// A record batch: its head, and its records in a shared buffer. Cheap to clone.
#[derive(Clone)]
pub struct RecordBatch {
    head: Head,
    /// The whole batch. Its first [`HEAD_LEN`] bytes are the head as it was when the buffer was
    /// made: they agree with `head` unless `restamped`.
    bytes: Bytes,
    /// Whether `head` has changed since `bytes` was made.
    restamped: bool,
}

impl RecordBatch {
    /// The encoded size in bytes: head and records.
    #[expect(clippy::len_without_is_empty, reason = "a batch always has a head and a record")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The offset of the first record.
    pub fn base_offset(&self) -> Offset {
        // A negative base offset is refused when a batch is read, and can't be stamped.
        self.head.base_offset as u64
    }

    /// The offset of the last record.
    pub fn last_offset(&self) -> Offset {
        self.base_offset() + self.head.last_offset_delta as u64
    }

    /// The offset after the last record.
    pub fn next_offset(&self) -> Offset {
        self.last_offset() + 1
    }

    /// The number of records: at least one.
    pub fn count(&self) -> u32 {
        self.head.count as u32
    }

    /// The index among the batch's records of the one at `offset`.
    pub fn index_of(&self, offset: Offset) -> Option<u32> {
        let index = offset.checked_sub(self.base_offset())?;
        (index < u64::from(self.count())).then_some(index as u32)
    }

    /// The time of the first record: the append time once the batch is stamped.
    pub fn first_timestamp_ms(&self) -> TimestampMs {
        if self.has_append_time() { self.head.max_timestamp } else { self.head.base_timestamp }
    }

    /// The greatest time of any record: the append time once the batch is stamped.
    pub fn max_timestamp_ms(&self) -> TimestampMs {
        self.head.max_timestamp
    }

    /// Whether all records have the time at which the batch was appended (`LogAppendTime`).
    pub fn has_append_time(&self) -> bool {
        self.head.attributes & layout::APPEND_TIME != 0
    }

    /// The idempotent producer, as Kafka's clients number them; `None` where there is none.
    pub fn producer_id(&self) -> Option<ProducerId> {
        (self.head.producer_id >= 0).then_some(ProducerId(self.head.producer_id))
    }

    /// The producer's epoch; -1 where there is no producer.
    pub fn producer_epoch(&self) -> i16 {
        self.head.producer_epoch
    }

    /// The producer's number of the first record; -1 where there is no producer.
    pub fn base_sequence(&self) -> i32 {
        self.head.base_sequence
    }

    /// How the records are compressed.
    pub fn codec(&self) -> Codec {
        // An unknown codec is refused when a batch is read.
        Codec::from_attributes(self.head.attributes).unwrap_or(Codec::None)
    }

    /// Whether the batch belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.head.attributes & layout::TRANSACTIONAL != 0
    }

    /// Whether the batch is a control batch: a marker and no user's message.
    pub fn is_control(&self) -> bool {
        self.head.attributes & layout::CONTROL != 0
    }

    /// The batch's CRC-32C, over everything from the attributes on.
    pub fn crc(&self) -> u32 {
        self.head.crc
    }

    /// Head and records, to be written one after the other. The records are shared, not copied.
    pub fn parts(&self) -> [Bytes; 2] {
        let records = self.bytes.slice(HEAD_LEN..);
        if !self.restamped {
            return [self.bytes.slice(..HEAD_LEN), records];
        }
        [Bytes::copy_from_slice(&self.head.to_bytes(records.len())), records]
    }

    /// The encoded batch in one piece. Copies the records only if the batch was stamped since it
    /// was read or built; [`parts`](Self::parts) never does.
    pub fn to_bytes(&self) -> Bytes {
        if !self.restamped {
            return self.bytes.clone();
        }
        let records = self.record_bytes();
        let mut out = BytesMut::with_capacity(HEAD_LEN + records.len());
        out.extend_from_slice(&self.head.to_bytes(records.len()));
        out.extend_from_slice(records);
        out.freeze()
    }

    /// The records' bytes, as they are stored: compressed where [`codec`](Self::codec) says so.
    fn record_bytes(&self) -> &[u8] {
        self.bytes.get(HEAD_LEN..).unwrap_or_default()
    }
}

impl PartialEq for RecordBatch {
    fn eq(&self, other: &Self) -> bool {
        self.head == other.head && self.record_bytes() == other.record_bytes()
    }
}

impl Eq for RecordBatch {}

impl fmt::Debug for RecordBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordBatch")
            .field("base_offset", &self.base_offset())
            .field("count", &self.count())
            .field("len", &self.len())
            .field("codec", &self.codec())
            .field("max_timestamp_ms", &self.max_timestamp_ms())
            .finish_non_exhaustive()
    }
}
