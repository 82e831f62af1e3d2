//! Batches for tests.

use bytes::Bytes;
use gem_types::Message;
use gem_types::batch::{BatchBuilder, RecordBatch};

/// A stamped batch of `count` records of `size` bytes each, told apart by their offsets.
pub fn batch(base: u64, count: u64, size: usize) -> RecordBatch {
    let mut builder = BatchBuilder::new();
    for n in 0..count {
        let mut payload = (base + n).to_le_bytes().to_vec();
        payload.resize(size.max(8), b'.');
        let message = Message { payload: Bytes::from(payload), ..Message::default() };
        builder.push(&message, &format!("id-{:06}", base + n));
    }
    let mut batch = builder.finish(1_000);
    batch.stamp(base, 2_000);
    batch
}
