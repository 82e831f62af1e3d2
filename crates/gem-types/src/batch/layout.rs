//! The head of a batch, byte for byte (Kafka's RecordBatch v2; all integers big-endian).
//!
//! ```text
//!  0        8        12       16    17      21     23       27        35        43       51      53      57      61
//!  ┌────────┬────────┬────────┬─────┬───────┬──────┬────────┬─────────┬─────────┬────────┬───────┬───────┬───────┬────────
//!  │ base   │ batch  │ leader │magic│ crc   │attri-│ last   │ base    │ max     │producer│ prod. │ base  │record │records…
//!  │ offset │ length │ epoch  │ = 2 │       │butes │ offset │timestamp│timestamp│ id     │ epoch │ seq.  │ count │
//!  │ i64    │ i32    │ i32    │ i8  │ u32   │ i16  │ Δ i32  │ i64 ms  │ i64 ms  │ i64    │ i16   │ i32   │ i32   │
//!  └────────┴────────┴────────┴─────┴───────┴──────┴────────┴─────────┴─────────┴────────┴───────┴───────┴───────┴────────
//!                    └── batch length counts from here to the end ──…           CRC-32C covers attributes … end
//!
//!  attributes   15 …… 7 │   6    │    5    │     4     │    3     │ 2 1 0
//!               unused  │ delete │ control │ transac-  │ append   │ codec: 0 none, 1 gzip,
//!                       │ horizon│         │ tional    │ time     │ 2 snappy, 3 lz4, 4 zstd
//! ```
//!
//! The base offset and the leader epoch lie outside the checksum, so that a broker can set them
//! alone. See [`super::shape`] for the records.

use super::error::BatchError;

/// Bytes of a batch's head.
pub const HEAD_LEN: usize = 61;
/// Where the counted part of the batch begins: the base offset and the length are not counted.
const COUNTED_AT: usize = 12;
/// Where the checksummed part begins: at the attributes.
pub(super) const CRC_AT: usize = 21;
const MAGIC: u8 = 2;

/// Attribute bits 0 to 2: the codec.
pub(super) const CODEC: i16 = 0b111;
/// Attribute bit 3: every record has the batch's greatest timestamp, set by the mesh.
pub(super) const APPEND_TIME: i16 = 1 << 3;
/// Attribute bit 4: part of a transaction.
pub(super) const TRANSACTIONAL: i16 = 1 << 4;
/// Attribute bit 5: a control batch.
pub(super) const CONTROL: i16 = 1 << 5;
/// What a client's batch may carry.
pub(super) const CLIENT: i16 = CODEC | APPEND_TIME;

/// The head's fields, apart from the length, which follows from the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub base_offset: i64,
    pub leader_epoch: i32,
    pub crc: u32,
    pub attributes: i16,
    pub last_offset_delta: i32,
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub count: i32,
}

/// The `N` bytes at `at`; the caller's layout says that they are there.
fn field<const N: usize>(head: &[u8; HEAD_LEN], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&head[at..at + N]);
    out
}

impl Head {
    /// Reads the head of `batch`, which must be one whole batch and nothing more. Checks what
    /// the head says of itself (length, magic, codec, counts), not the checksum.
    pub fn read(batch: &[u8]) -> Result<Head, BatchError> {
        match batch.first_chunk::<HEAD_LEN>() {
            Some(head) => Head::of(head, batch.len()),
            None => Err(BatchError::Short { have: batch.len(), need: HEAD_LEN }),
        }
    }

    /// As [`read`](Self::read), of a batch of `batch_len` bytes whose records lie elsewhere.
    pub fn of(head: &[u8; HEAD_LEN], batch_len: usize) -> Result<Head, BatchError> {
        if head[16] != MAGIC {
            return Err(BatchError::Magic(head[16] as i8));
        }
        let length = i32::from_be_bytes(field(head, 8));
        if usize::try_from(length).ok().and_then(|length| length.checked_add(COUNTED_AT)) != Some(batch_len) {
            return Err(BatchError::Length { said: length, have: batch_len });
        }
        let head = Head {
            base_offset: i64::from_be_bytes(field(head, 0)),
            leader_epoch: i32::from_be_bytes(field(head, 12)),
            crc: u32::from_be_bytes(field(head, 17)),
            attributes: i16::from_be_bytes(field(head, 21)),
            last_offset_delta: i32::from_be_bytes(field(head, 23)),
            base_timestamp: i64::from_be_bytes(field(head, 27)),
            max_timestamp: i64::from_be_bytes(field(head, 35)),
            producer_id: i64::from_be_bytes(field(head, 43)),
            producer_epoch: i16::from_be_bytes(field(head, 51)),
            base_sequence: i32::from_be_bytes(field(head, 53)),
            count: i32::from_be_bytes(field(head, 57)),
        };
        head.check_counts()?;
        Ok(head)
    }

    fn check_counts(&self) -> Result<(), BatchError> {
        if super::Codec::from_attributes(self.attributes).is_none() {
            return Err(BatchError::Codec((self.attributes & CODEC) as u8));
        }
        if self.count < 1 || self.last_offset_delta != self.count - 1 {
            return Err(BatchError::Count { said: self.count, last_offset_delta: self.last_offset_delta });
        }
        let fits = self.base_offset >= 0 && self.base_offset.checked_add(i64::from(self.count)).is_some();
        if fits { Ok(()) } else { Err(BatchError::BaseOffset(self.base_offset)) }
    }

    /// The head's bytes, before `records_len` bytes of records.
    pub fn to_bytes(self, records_len: usize) -> [u8; HEAD_LEN] {
        let mut out = [0; HEAD_LEN];
        // Batches are below MAX_ENCODED, far below what an i32 holds.
        let length = (HEAD_LEN - COUNTED_AT + records_len) as i32;
        out[0..8].copy_from_slice(&self.base_offset.to_be_bytes());
        out[8..12].copy_from_slice(&length.to_be_bytes());
        out[12..16].copy_from_slice(&self.leader_epoch.to_be_bytes());
        out[16] = MAGIC;
        out[17..21].copy_from_slice(&self.crc.to_be_bytes());
        out[21..23].copy_from_slice(&self.attributes.to_be_bytes());
        out[23..27].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        out[27..35].copy_from_slice(&self.base_timestamp.to_be_bytes());
        out[35..43].copy_from_slice(&self.max_timestamp.to_be_bytes());
        out[43..51].copy_from_slice(&self.producer_id.to_be_bytes());
        out[51..53].copy_from_slice(&self.producer_epoch.to_be_bytes());
        out[53..57].copy_from_slice(&self.base_sequence.to_be_bytes());
        out[57..61].copy_from_slice(&self.count.to_be_bytes());
        out
    }

    /// The checksum of the head's own checksummed bytes.
    pub fn own_crc(&self) -> u32 {
        crc32c::crc32c(&self.to_bytes(0)[CRC_AT..])
    }

    /// This head with the checksum that it and `records` have together.
    pub fn sealed(mut self, records: &[u8]) -> Head {
        self.crc = crc32c::crc32c_append(self.own_crc(), records);
        self
    }
}
