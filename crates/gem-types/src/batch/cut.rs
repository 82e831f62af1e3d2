//! Batches out of batches: a part of one, or several as one.
//!
//! A record holds its own index (the offset delta), and batches are dense, so records that move
//! to another index are copied, with the index and the length before it rewritten. The first
//! records of a batch stay where they are and are shared.

use std::ops::Range;

use bytes::{BufMut, BytesMut};

use super::error::BatchError;
use super::layout::{HEAD_LEN, Head};
use super::shape::Shape;
use super::{MAX_ENCODED, RecordBatch, varint};

impl RecordBatch {
    /// The batch of the records with the indexes in `range`, uncompressed. Its base offset is that
    /// of its first record. From index 0 on records are shared, otherwise copied.
    ///
    /// An empty range, or one that reaches beyond the records, is `NoSuchRecord`.
    pub fn split(&self, range: Range<u32>) -> Result<RecordBatch, BatchError> {
        if range.is_empty() || range.end > self.count() {
            return Err(BatchError::NoSuchRecord { index: range.end.max(range.start), count: self.count() });
        }
        if range.start > 0 {
            return self.select(|index| range.contains(&index));
        }
        let plain = self.uncompressed()?;
        if range.end == self.count() {
            return Ok(plain);
        }
        let mut at = 0;
        for _ in range.clone() {
            Shape::read(plain.record_bytes(), &mut at)?;
        }
        let mut head = plain.head;
        head.count = range.end as i32;
        head.last_offset_delta = head.count - 1;
        Ok(RecordBatch::assemble_shared(head, plain.bytes.slice(..HEAD_LEN + at)))
    }

    /// A batch for each of `ranges`, which rise and don't overlap: copied, uncompressed, and no
    /// larger than its records are. Each begins at the offset of its first record. The batch is
    /// walked once, however many ranges there are.
    ///
    /// An empty range, or one that reaches beyond the records or behind the one before it, is
    /// `NoSuchRecord`.
    pub fn cut_out(&self, ranges: &[Range<u32>]) -> Result<Vec<RecordBatch>, BatchError> {
        let plain = self.uncompressed()?;
        let records = plain.record_bytes();
        let (mut index, mut at) = (0, 0);
        let mut batches = Vec::with_capacity(ranges.len().min(self.count() as usize));
        for range in ranges {
            if range.is_empty() || range.start < index || range.end > self.count() {
                return Err(BatchError::NoSuchRecord { index: range.end.max(range.start), count: self.count() });
            }
            while index < range.start {
                Shape::read(records, &mut at)?;
                index += 1;
            }
            let start = at;
            let mut shapes = Vec::with_capacity(range.len().min(1024));
            while index < range.end {
                shapes.push(Shape::read(records, &mut at)?);
                index += 1;
            }
            let mut out = Packer::with_capacity(at - start);
            for shape in &shapes {
                out.put(shape, records, 0)?;
            }
            batches.push(RecordBatch::assemble(plain.head_from(range.start, out.count), out.buffer));
        }
        Ok(batches)
    }

    /// The batch of the records whose index `keep` wants, uncompressed, packed densely from the
    /// first one's offset. `NoSuchRecord` where it wants none.
    pub fn select(&self, keep: impl Fn(u32) -> bool) -> Result<RecordBatch, BatchError> {
        let plain = self.uncompressed()?;
        let first = (0..self.count()).find(|index| keep(*index));
        let first = first.ok_or(BatchError::NoSuchRecord { index: 0, count: self.count() })?;
        let mut out = Packer::with_capacity(plain.len());
        let mut at = 0;
        for index in 0..self.count() {
            let shape = Shape::read(plain.record_bytes(), &mut at)?;
            if keep(index) {
                out.put(&shape, plain.record_bytes(), 0)?;
            }
        }
        Ok(RecordBatch::assemble(plain.head_from(first, out.count), out.buffer))
    }

    /// The head of a batch of `count` records that begins with this one's record `first`.
    fn head_from(&self, first: u32, count: i32) -> Head {
        let mut head = self.head;
        head.base_offset += i64::from(first);
        if head.producer_id >= 0 {
            head.base_sequence = head.base_sequence.wrapping_add(first as i32) & i32::MAX;
        }
        head.count = count;
        head.last_offset_delta = count - 1;
        head
    }

    /// One batch of the records of all `batches`, in order, uncompressed, from the first one's
    /// base offset: one row in the index instead of many. Records keep their times unless the
    /// batches are stamped.
    ///
    /// Batches of numbered producers and control batches are `NotJoinable`, no batch at all is
    /// `NoSuchRecord`, and more than [`MAX_ENCODED`] bytes are `TooLong`.
    pub fn join(batches: &[RecordBatch]) -> Result<RecordBatch, BatchError> {
        let first = batches.first().ok_or(BatchError::NoSuchRecord { index: 0, count: 0 })?;
        let mut out = Packer::with_capacity(batches.iter().map(RecordBatch::len).sum::<usize>().min(MAX_ENCODED));
        let mut head = first.head;
        for batch in batches {
            if batch.producer_id().is_some() || batch.is_control() || batch.is_transactional() {
                return Err(BatchError::NotJoinable);
            }
            let plain = batch.uncompressed()?;
            let shift = batch.head.base_timestamp.wrapping_sub(head.base_timestamp);
            let mut at = 0;
            for _ in 0..plain.count() {
                let shape = Shape::read(plain.record_bytes(), &mut at)?;
                out.put(&shape, plain.record_bytes(), shift)?;
            }
            head.max_timestamp = head.max_timestamp.max(batch.head.max_timestamp);
        }
        head.attributes &= !super::layout::CODEC;
        head.count = out.count;
        head.last_offset_delta = out.count - 1;
        Ok(RecordBatch::assemble(head, out.buffer))
    }
}

/// Writes records one after another under indexes of their own.
struct Packer {
    buffer: BytesMut,
    count: i32,
}

impl Packer {
    fn with_capacity(bytes: usize) -> Self {
        let mut buffer = BytesMut::with_capacity(bytes + 16);
        buffer.put_bytes(0, HEAD_LEN);
        Packer { buffer, count: 0 }
    }

    fn put(&mut self, shape: &Shape, records: &[u8], time_shift: i64) -> Result<(), BatchError> {
        let rest = shape.rest.of(records);
        let timestamp_delta = shape.timestamp_delta.wrapping_add(time_shift);
        let body = 1 + varint::len(timestamp_delta) + varint::len(self.count.into()) + rest.len();
        let length = self.buffer.len() + body + 5;
        if length > MAX_ENCODED {
            return Err(BatchError::TooLong(length));
        }
        varint::put(&mut self.buffer, body as i64);
        self.buffer.put_u8(0);
        varint::put(&mut self.buffer, timestamp_delta);
        varint::put(&mut self.buffer, self.count.into());
        self.buffer.extend_from_slice(rest);
        self.count += 1;
        Ok(())
    }
}
