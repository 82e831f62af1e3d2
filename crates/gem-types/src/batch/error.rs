//! Why bytes are not a record batch.

use super::codec::Codec;

/// Why a record batch is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// Fewer bytes than a head has.
    #[error("a record batch has at least {need} bytes, and there are {have}")]
    Short {
        /// The bytes there are.
        have: usize,
        /// The bytes that a head needs.
        need: usize,
    },
    /// Not magic 2.
    #[error("the record batch has magic {0}; only magic 2 (RecordBatch v2) is understood")]
    Magic(i8),
    /// The length in the head is not the length of the bytes: cut, or followed by something.
    #[error("the record batch says that {said} bytes follow its length, and there are {have} bytes in all")]
    Length {
        /// The length in the head.
        said: i32,
        /// All bytes given.
        have: usize,
    },
    /// More bytes than a batch may have.
    #[error("the record batch has {0} bytes: more than any batch may have")]
    TooLong(usize),
    /// The checksum does not match.
    #[error("the record batch is damaged: its CRC-32C is {computed:08x}, its head says {stored:08x}")]
    Crc {
        /// What the head says.
        stored: u32,
        /// What the bytes have.
        computed: u32,
    },
    /// The codec is none of the known ones.
    #[error("the record batch has codec {0}, which is not known")]
    Codec(u8),
    /// The record count and the last offset delta disagree, or there is no record.
    #[error("the record batch says {said} records and last offset delta {last_offset_delta}; they must be n and n - 1")]
    Count {
        /// The count in the head.
        said: i32,
        /// The last offset delta in the head.
        last_offset_delta: i32,
    },
    /// There are other records than the count says.
    #[error("the record batch has bytes after its {0} records")]
    TrailingBytes(u32),
    /// A record's offset delta is not its index.
    #[error("record {index} has offset delta {delta}: a batch's records must be dense")]
    OffsetDelta {
        /// The record's index.
        index: u32,
        /// Its offset delta.
        delta: i32,
    },
    /// The base offset is negative, or the batch would reach beyond the last offset there is.
    #[error("{0} is not an offset at which the record batch can begin")]
    BaseOffset(i64),
    /// A bit is set that a client may not set (transactional, control, delete horizon, unused).
    #[error("the record batch has attributes {0:#06x}: a client may set only the codec and the timestamp type")]
    Attributes(i16),
    /// The bytes end within a record.
    #[error("the record batch ends within a record")]
    Truncated,
    /// A varint is longer than its type.
    #[error("a varint in the record batch is too long")]
    Varint,
    /// A length within a record is negative where it must not be, or does not fit its record.
    #[error("a record has a field of length {0}, which does not fit")]
    FieldLength(i64),
    /// A header's name is not UTF-8.
    #[error("a header's name is not UTF-8")]
    HeaderName,
    /// Decompression failed.
    #[error("the records do not decompress as {codec}: {reason}")]
    Decompress {
        /// The batch's codec.
        codec: Codec,
        /// What the decoder said.
        reason: String,
    },
    /// More decompressed bytes than are allowed.
    #[error("the records decompress to more than the {limit} bytes that are allowed")]
    TooLarge {
        /// The bytes allowed.
        limit: usize,
    },
    /// Records are asked for in place, and they are compressed.
    #[error("the records are compressed: decompress the batch first")]
    Compressed,
    /// There is no such record.
    #[error("the batch has no record {index}: it has {count}")]
    NoSuchRecord {
        /// The index asked for.
        index: u32,
        /// The number of records.
        count: u32,
    },
    /// Batches that can't become one: of a numbered producer, or control batches.
    #[error("batches of a numbered producer and control batches can't be joined")]
    NotJoinable,
}

impl From<BatchError> for crate::Error {
    fn from(error: BatchError) -> Self {
        match error {
            BatchError::TooLarge { .. } | BatchError::TooLong(_) => crate::Error::too_large(error.to_string()),
            _ => crate::Error::invalid(error.to_string()),
        }
    }
}
