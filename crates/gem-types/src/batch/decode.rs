//! From bytes to a batch: [`RecordBatch::check`] for what others made, [`RecordBatch::open`] for
//! what GEM itself stored.

use bytes::{Bytes, BytesMut};

use super::encode::MAX_ENCODED;
use super::error::BatchError;
use super::layout::{self, CRC_AT, HEAD_LEN, Head};
use super::shape::Shape;
use super::{Codec, RecordBatch};

/// The most bytes to which any batch may decompress: 64 MiB.
pub const MAX_DECOMPRESSED: usize = 64 << 20;
/// What may always be decompressed, however little came: small batches compress without limit.
const RATIO_FREE: usize = 1 << 20;

/// How strict [`RecordBatch::check_with`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The most bytes to which the records may decompress; never above [`MAX_DECOMPRESSED`].
    pub max_decompressed: usize,
    /// The most bytes out of one compressed byte, above the first MiB.
    pub max_ratio: usize,
    /// Whether control and transactional batches pass: not from clients.
    pub allow_system: bool,
}

impl Rules {
    /// For batches from clients.
    pub const CLIENT: Rules = Rules { max_decompressed: MAX_DECOMPRESSED, max_ratio: 1024, allow_system: false };
    /// For batches from other nodes.
    pub const STORED: Rules = Rules { max_decompressed: MAX_DECOMPRESSED, max_ratio: usize::MAX, allow_system: true };

    fn limit(&self, compressed: usize) -> usize {
        let by_ratio = compressed.saturating_mul(self.max_ratio).max(RATIO_FREE);
        self.max_decompressed.min(MAX_DECOMPRESSED).min(by_ratio)
    }
}

impl RecordBatch {
    /// Checks a client's batch through and through: layout, lengths, magic, checksum, counts, and
    /// every record, decompressed within the bounds of [`Rules::CLIENT`]. `bytes` must be one
    /// batch and nothing more, and is shared, not copied.
    pub fn check(bytes: Bytes) -> Result<RecordBatch, BatchError> {
        RecordBatch::check_with(bytes, &Rules::CLIENT)
    }

    /// As [`check`](Self::check), by other rules.
    pub fn check_with(bytes: Bytes, rules: &Rules) -> Result<RecordBatch, BatchError> {
        let batch = RecordBatch::open(bytes)?;
        if !rules.allow_system && batch.head.attributes & !layout::CLIENT != 0 {
            return Err(BatchError::Attributes(batch.head.attributes));
        }
        if batch.codec() == Codec::None {
            check_records(batch.record_bytes(), batch.count())?;
        } else {
            let mut records = Vec::new();
            let compressed = batch.record_bytes();
            batch.codec().decompress(compressed, rules.limit(compressed.len()), &mut records)?;
            check_records(&records, batch.count())?;
        }
        Ok(batch)
    }

    /// Opens a batch that GEM checked before it stored it: reads the head and verifies the
    /// checksum, but does not walk the records. Control batches pass.
    pub fn open(bytes: Bytes) -> Result<RecordBatch, BatchError> {
        if bytes.len() > MAX_ENCODED {
            return Err(BatchError::TooLong(bytes.len()));
        }
        let head = Head::read(&bytes)?;
        let computed = crc32c::crc32c(bytes.get(CRC_AT..).unwrap_or_default());
        if computed != head.crc {
            return Err(BatchError::Crc { stored: head.crc, computed });
        }
        Ok(RecordBatch { head, bytes, restamped: false })
    }

    /// The bytes that the batch at the start of `stream` has in all, once at least 12 are there;
    /// for readers of concatenated batches. The length is not checked against anything.
    pub fn peek_len(stream: &[u8]) -> Option<usize> {
        let length = i32::from_be_bytes(*stream.get(8..)?.first_chunk::<4>()?);
        usize::try_from(length).ok()?.checked_add(12)
    }

    /// The same batch without compression; the batch itself where it has none. Fails if the
    /// records do not decompress, or to more than [`MAX_DECOMPRESSED`] bytes.
    pub fn uncompressed(&self) -> Result<RecordBatch, BatchError> {
        if self.codec() == Codec::None {
            return Ok(self.clone());
        }
        let mut out = vec![0; HEAD_LEN];
        self.codec().decompress(self.record_bytes(), MAX_DECOMPRESSED, &mut out)?;
        let mut head = self.head;
        head.attributes &= !layout::CODEC;
        Ok(RecordBatch::assemble(head, BytesMut::from(Bytes::from(out))))
    }
}

/// Walks the records: as many as `count`, dense, well-formed, and nothing behind them.
fn check_records(records: &[u8], count: u32) -> Result<(), BatchError> {
    let mut at = 0;
    for index in 0..count {
        let shape = Shape::read(records, &mut at)?;
        if i64::from(shape.offset_delta) != i64::from(index) {
            return Err(BatchError::OffsetDelta { index, delta: shape.offset_delta });
        }
        shape.check_headers(records)?;
    }
    if at == records.len() { Ok(()) } else { Err(BatchError::TrailingBytes(count)) }
}
