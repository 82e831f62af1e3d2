//! Record batches: the unit in which messages travel, are stored and are delivered.

use bytes::Bytes;

/// A checked record batch.
#[derive(Clone, Debug)]
pub struct RecordBatch {
    _bytes: Bytes,
}
