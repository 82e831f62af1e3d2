//! Carrying: how a batch goes from node to node without its bytes being joined.
//!
//! A stamped batch's buffer still begins with the head it had before. So it goes as two things:
//! the new head, 61 bytes, and the buffer as it is; the stale head within is not looked at.

use bytes::Bytes;

use super::RecordBatch;
use super::encode::MAX_ENCODED;
use super::error::BatchError;
use super::layout::{HEAD_LEN, Head};

impl RecordBatch {
    /// The buffer that holds the batch, shared, and the head that stands in place of the buffer's
    /// first [`HEAD_LEN`] bytes, where the batch was changed since the buffer was made.
    pub fn carried(&self) -> (Option<[u8; HEAD_LEN]>, Bytes) {
        let head = self.restamped.then(|| self.head.to_bytes(self.record_bytes().len()));
        (head, self.bytes.clone())
    }

    /// The batch that [`carried`](Self::carried) gave out, as [`open`](Self::open) would read it:
    /// head and checksum are verified, the records are not walked. `buffer` is shared.
    pub fn open_carried(head: Option<&[u8; HEAD_LEN]>, buffer: Bytes) -> Result<RecordBatch, BatchError> {
        let Some(head) = head else { return RecordBatch::open(buffer) };
        if buffer.len() > MAX_ENCODED {
            return Err(BatchError::TooLong(buffer.len()));
        }
        let Some(records) = buffer.get(HEAD_LEN..) else {
            return Err(BatchError::Short { have: buffer.len(), need: HEAD_LEN });
        };
        let head = Head::of(head, buffer.len())?;
        let sealed = head.sealed(records);
        if sealed.crc != head.crc {
            return Err(BatchError::Crc { stored: head.crc, computed: sealed.crc });
        }
        Ok(RecordBatch { head, bytes: buffer, restamped: true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Message;
    use crate::batch::BatchBuilder;

    fn batch() -> RecordBatch {
        let mut builder = BatchBuilder::new();
        builder.push(&Message { payload: Bytes::from(vec![7; 300]), ..Message::default() }, "id");
        builder.finish(5)
    }

    #[test]
    fn a_batch_is_carried_as_it_is() {
        let mut batch = batch();
        assert!(batch.carried().0.is_none());
        for _ in 0..2 {
            let (head, buffer) = batch.carried();
            let arrived = RecordBatch::open_carried(head.as_ref(), buffer.clone()).unwrap();
            assert_eq!(arrived, batch);
            assert_eq!(arrived.to_bytes(), batch.to_bytes());
            assert_eq!(arrived.carried().1.as_ptr(), buffer.as_ptr(), "the buffer was copied");
            batch.stamp(1 << 33, 77);
        }
    }

    #[test]
    fn what_was_bent_on_the_way_is_refused() {
        let mut batch = batch();
        batch.stamp(9, 77);
        let (head, buffer) = batch.carried();
        let head = head.unwrap();
        // From the length on; base offset and leader epoch lie outside the checksum.
        for at in (8..12).chain(16..HEAD_LEN) {
            let mut bent = head;
            bent[at] ^= 1;
            assert!(RecordBatch::open_carried(Some(&bent), buffer.clone()).is_err(), "{at}");
        }
        let mut bent = buffer.to_vec();
        bent[HEAD_LEN] ^= 1;
        assert!(RecordBatch::open_carried(Some(&head), bent.into()).is_err());
        for len in [0, 60, 61, 100] {
            assert!(RecordBatch::open_carried(Some(&head), buffer.slice(..len)).is_err(), "{len}");
        }
    }
}
