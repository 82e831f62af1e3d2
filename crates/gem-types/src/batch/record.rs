//! Records as their readers see them: taken apart ([`Record`]), in place ([`RecordRef`]), or in
//! place with their batch kept alive ([`SharedRecord`]).

use bytes::Bytes;

use super::error::BatchError;
use super::shape::{BatchClock, Shape, header};
use super::varint::read_i32;
use super::{Codec, HEAD_LEN, RecordBatch};
use crate::ids::{Offset, TimestampMs};
use crate::message::{ID_HEADER, Message};

/// A record, with its fields as slices of its batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in the partition.
    pub offset: Offset,
    /// Its time: the append time once the batch is stamped.
    pub timestamp_ms: TimestampMs,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; empty where Kafka has a null.
    pub value: Bytes,
    /// Its headers in order, [`ID_HEADER`] among them.
    pub headers: Vec<(Bytes, Bytes)>,
}

impl Record {
    /// The value of the first header called `name`.
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers.iter().find(|(n, _)| n.as_ref() == name.as_bytes()).map(|(_, value)| value)
    }

    /// The message that the record holds: the first [`ID_HEADER`] becomes its id, and none stays in the headers.
    /// The payload is not copied.
    pub fn into_message(self) -> Message {
        let mut message =
            Message { id: None, key: self.key, headers: Vec::with_capacity(self.headers.len()), payload: self.value };
        for (name, value) in self.headers {
            if name.as_ref() == ID_HEADER.as_bytes() {
                message.id.get_or_insert_with(|| String::from_utf8_lossy(&value).into_owned());
            } else {
                message.headers.push((String::from_utf8_lossy(&name).into_owned(), value));
            }
        }
        message
    }
}

/// A record in place: nothing is allocated, nothing counted.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    /// Its place in the partition.
    pub offset: Offset,
    /// Its time: the append time once the batch is stamped.
    pub timestamp_ms: TimestampMs,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` is Kafka's null.
    pub value: Option<&'a [u8]>,
    pub(super) headers: &'a [u8],
    pub(super) header_count: u32,
}

impl<'a> RecordRef<'a> {
    /// The headers, parsed as they are asked for.
    #[inline]
    pub fn headers(&self) -> Headers<'a> {
        Headers { bytes: self.headers, at: 0, left: self.header_count }
    }

    /// The value of the first header called `name`.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers().map_while(Result::ok).find(|(n, _)| *n == name.as_bytes()).map(|(_, value)| value)
    }

    /// The message's id, where the record has one that is text.
    pub fn id(&self) -> Option<&'a str> {
        self.header(ID_HEADER).and_then(|id| std::str::from_utf8(id).ok())
    }
}

/// A record in place, whose batch it keeps alive: one count, nothing allocated.
#[derive(Clone, Debug)]
pub struct SharedRecord {
    records: Bytes,
    shape: Shape,
    clock: BatchClock,
}

impl SharedRecord {
    /// Its fields.
    #[inline]
    pub fn get(&self) -> RecordRef<'_> {
        self.shape.to_ref(&self.records, self.clock)
    }

    /// Its place in the partition.
    pub fn offset(&self) -> Offset {
        self.shape.offset(self.clock)
    }

    /// See [`RecordRef::timestamp_ms`].
    pub fn timestamp_ms(&self) -> TimestampMs {
        self.shape.timestamp_ms(self.clock)
    }

    /// The bytes of key, value and headers, encoded.
    #[expect(clippy::len_without_is_empty, reason = "a record has at least the lengths of its parts")]
    pub fn len(&self) -> usize {
        self.shape.rest.range().len()
    }

    /// The bytes of its value.
    pub fn payload_len(&self) -> usize {
        self.shape.payload_len()
    }
}

/// A record's headers: name and value, a null value as an empty one.
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    bytes: &'a [u8],
    at: usize,
    left: u32,
}

impl<'a> Iterator for Headers<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), BatchError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let header = header(self.bytes, &mut self.at);
        if header.is_err() {
            self.left = 0;
        }
        Some(header.map(|(name, value)| (name.of(self.bytes), value.of(self.bytes))))
    }
}

/// The records of a batch, each with slices of its own.
#[derive(Debug)]
pub struct Records {
    records: Bytes,
    clock: BatchClock,
    at: usize,
    left: u32,
    failed: Option<BatchError>,
}

impl Records {
    fn next_shape(&mut self) -> Option<Result<Shape, BatchError>> {
        if let Some(error) = self.failed.take() {
            self.left = 0;
            return Some(Err(error));
        }
        self.left = self.left.checked_sub(1)?;
        let shape = Shape::read(&self.records, &mut self.at);
        if shape.is_err() {
            self.left = 0;
        }
        Some(shape)
    }

    /// The same records in place.
    pub fn shared(mut self) -> impl Iterator<Item = Result<SharedRecord, BatchError>> {
        std::iter::from_fn(move || {
            let shape = self.next_shape()?;
            Some(shape.map(|shape| SharedRecord { records: self.records.clone(), shape, clock: self.clock }))
        })
    }
}

impl Iterator for Records {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = self.next_shape()?.and_then(|shape| shape.to_record(&self.records, self.clock));
        if record.is_err() {
            self.left = 0;
        }
        Some(record)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left as usize))
    }
}

/// The records of an uncompressed batch in place.
#[derive(Clone, Debug)]
pub struct RecordRefs<'a> {
    records: &'a [u8],
    clock: BatchClock,
    at: usize,
    left: u32,
    failed: Option<BatchError>,
}

impl<'a> Iterator for RecordRefs<'a> {
    type Item = Result<RecordRef<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            self.left = 0;
            return Some(Err(error));
        }
        self.left = self.left.checked_sub(1)?;
        let shape = Shape::read(self.records, &mut self.at);
        if shape.is_err() {
            self.left = 0;
        }
        Some(shape.map(|shape| shape.to_ref(self.records, self.clock)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left as usize))
    }
}

impl RecordBatch {
    /// The records, in order, as slices of the batch. Of a batch that was
    /// [checked](RecordBatch::check) none is an error. A compressed batch is decompressed first.
    pub fn records(&self) -> Records {
        let (records, failed) = match self.plain_records() {
            Ok(records) => (records, None),
            Err(error) => (Bytes::new(), Some(error)),
        };
        Records { records, clock: self.clock(), at: 0, left: self.count(), failed }
    }

    /// The records in place, for scans of keys and ids. The only item for a compressed batch is
    /// the error `Compressed`: call [`uncompressed`](Self::uncompressed) first.
    pub fn scan(&self) -> RecordRefs<'_> {
        let failed = (self.codec() != Codec::None).then_some(BatchError::Compressed);
        RecordRefs { records: self.record_bytes(), clock: self.clock(), at: 0, left: self.count(), failed }
    }

    /// The record with that index. Steps over those before it; a compressed batch is decompressed
    /// each time, so keep the [`uncompressed`](Self::uncompressed) one where several are wanted.
    pub fn record(&self, index: u32) -> Result<Record, BatchError> {
        if index >= self.count() {
            return Err(BatchError::NoSuchRecord { index, count: self.count() });
        }
        let records = self.plain_records()?;
        let mut at = 0;
        for _ in 0..index {
            let length = read_i32(&records, &mut at)?;
            let length = usize::try_from(length).map_err(|_| BatchError::FieldLength(length.into()))?;
            at = at.checked_add(length).ok_or(BatchError::Truncated)?;
        }
        Shape::read(&records, &mut at)?.to_record(&records, self.clock())
    }

    fn plain_records(&self) -> Result<Bytes, BatchError> {
        Ok(self.uncompressed()?.bytes.slice(HEAD_LEN..))
    }

    fn clock(&self) -> BatchClock {
        BatchClock {
            base_offset: self.base_offset(),
            base_timestamp: self.head.base_timestamp,
            append_time: self.has_append_time().then_some(self.head.max_timestamp),
        }
    }
}
