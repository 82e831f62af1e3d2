//! Records within a batch.
//!
//! ```text
//!   varint   i8           varint      varint   varint      varint        varint
//!  ┌────────┬────────────┬───────────┬────────┬─────┬─────┬───────┬─────┬─────────┬─────────────────────────
//!  │ length │ attributes │ timestamp │ offset │ key │ key │ value │value│ headers │ (name length, name,
//!  │        │ (unused)   │ Δ ms      │ Δ      │ len │     │ len   │     │ count   │  value length, value)…
//!  └────────┴────────────┴───────────┴────────┴─────┴─────┴───────┴─────┴─────────┴─────────────────────────
//!           └── length counts from here ──…          length -1: no key, no value (names have at least 0)
//! ```
//!
//! Varints are zigzag-coded. The offset Δ is the record's index: batches are dense.

use std::ops::Range;

use bytes::Bytes;

use super::error::BatchError;
use super::record::{Record, RecordRef};
use super::varint::{read_i32, read_i64};
use crate::ids::{Offset, TimestampMs};

/// A range of bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Refuses what lies beyond 32 bits.
    fn new(range: Range<usize>) -> Result<Span, BatchError> {
        match (u32::try_from(range.start), u32::try_from(range.end)) {
            (Ok(start), Ok(end)) => Ok(Span { start, end }),
            _ => Err(BatchError::FieldLength(range.end as i64)),
        }
    }

    #[inline]
    pub fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// Its bytes; it was checked against `bytes` when it was made.
    #[inline]
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.range()).unwrap_or_default()
    }
}

#[inline]
pub(super) fn header(bytes: &[u8], at: &mut usize) -> Result<(Span, Span), BatchError> {
    let name = field(bytes, at)?.ok_or(BatchError::FieldLength(-1))?;
    let value = match field(bytes, at)? {
        Some(value) => value,
        None => Span::new(*at..*at)?,
    };
    Ok((name, value))
}

/// A length and as many bytes; `None` for length -1.
#[inline]
fn field(bytes: &[u8], at: &mut usize) -> Result<Option<Span>, BatchError> {
    let length = read_i32(bytes, at)?;
    if length == -1 {
        return Ok(None);
    }
    let end = usize::try_from(length).ok().and_then(|length| at.checked_add(length)).filter(|end| *end <= bytes.len());
    let end = end.ok_or(BatchError::FieldLength(length.into()))?;
    let span = Span::new(*at..end)?;
    *at = end;
    Ok(Some(span))
}

/// The most headers of a record: those of a message, and as many again for GEM's own.
const MAX_HEADERS: usize = 2 * crate::limits::MAX_HEADER_COUNT;

/// Where a record's parts lie in the records' bytes: numbers of 32 bits, for a batch has fewer bytes
/// than that (its length is an i32), and these are kept for every message on its way out.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub timestamp_delta: i64,
    pub offset_delta: i32,
    /// From behind the offset delta to the record's end: what stays when a record moves.
    pub rest: Span,
    key: Option<Span>,
    value: Option<Span>,
    headers: Span,
    header_count: u32,
}

impl Shape {
    /// Reads the record at `*at` and moves `*at` behind it. Headers are counted, not read.
    #[inline]
    pub fn read(records: &[u8], at: &mut usize) -> Result<Shape, BatchError> {
        let length = read_i32(records, at)?;
        let body = usize::try_from(length).map_err(|_| BatchError::FieldLength(length.into()))?;
        let end = at.checked_add(body).filter(|end| *end <= records.len()).ok_or(BatchError::Truncated)?;
        // Everything below reads within the record, so that no field can reach into the next.
        let records = records.get(..end).ok_or(BatchError::Truncated)?;
        if *at >= end {
            return Err(BatchError::Truncated);
        }
        *at += 1; // attributes: no bit of theirs has a meaning
        let timestamp_delta = read_i64(records, at)?;
        let offset_delta = read_i32(records, at)?;
        let rest = Span::new(*at..end)?;
        let key = field(records, at)?;
        let value = field(records, at)?;
        let header_count = read_i32(records, at)?;
        // A header has at least two bytes, and takes some sixty once it is parsed.
        let most = MAX_HEADERS.min((end - *at) / 2);
        let header_count = u32::try_from(header_count)
            .ok()
            .filter(|count| *count as usize <= most)
            .ok_or(BatchError::FieldLength(header_count.into()))?;
        if header_count == 0 && *at != end {
            return Err(BatchError::FieldLength((end - *at) as i64));
        }
        let headers = Span::new(*at..end)?;
        *at = end;
        Ok(Shape { timestamp_delta, offset_delta, rest, key, value, headers, header_count })
    }

    /// Reads the headers too: names are text, and nothing follows the last.
    pub fn check_headers(&self, records: &[u8]) -> Result<(), BatchError> {
        let bytes = self.headers.of(records);
        let mut at = 0;
        for _ in 0..self.header_count {
            let (name, _) = header(bytes, &mut at)?;
            std::str::from_utf8(name.of(bytes)).map_err(|_| BatchError::HeaderName)?;
        }
        if at == bytes.len() { Ok(()) } else { Err(BatchError::FieldLength((bytes.len() - at) as i64)) }
    }

    #[inline]
    pub fn offset(&self, clock: BatchClock) -> Offset {
        clock.base_offset.saturating_add_signed(self.offset_delta.into())
    }

    #[inline]
    pub fn timestamp_ms(&self, clock: BatchClock) -> TimestampMs {
        clock.time(self.timestamp_delta)
    }

    pub fn payload_len(&self) -> usize {
        self.value.map_or(0, |value| value.range().len())
    }

    #[inline]
    pub fn to_ref<'a>(&self, records: &'a [u8], clock: BatchClock) -> RecordRef<'a> {
        RecordRef {
            offset: self.offset(clock),
            timestamp_ms: self.timestamp_ms(clock),
            key: self.key.map(|span| span.of(records)),
            value: self.value.map(|span| span.of(records)),
            headers: self.headers.of(records),
            header_count: self.header_count,
        }
    }

    pub fn to_record(&self, records: &Bytes, clock: BatchClock) -> Result<Record, BatchError> {
        // `field` checked every span against the buffer, so `Bytes::slice` can't panic.
        let share = |span: Span| records.slice(span.range());
        let mut headers = Vec::with_capacity(self.header_count as usize);
        let Range { start: mut at, end } = self.headers.range();
        let until = records.get(..end).unwrap_or_default();
        for _ in 0..self.header_count {
            let (name, value) = header(until, &mut at)?;
            headers.push((share(name), share(value)));
        }
        Ok(Record {
            offset: self.offset(clock),
            timestamp_ms: self.timestamp_ms(clock),
            key: self.key.map(share),
            value: self.value.map(share).unwrap_or_default(),
            headers,
        })
    }
}

/// What turns a record's deltas into its offset and time.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchClock {
    pub base_offset: Offset,
    pub base_timestamp: TimestampMs,
    pub append_time: Option<TimestampMs>,
}

impl BatchClock {
    #[inline]
    fn time(&self, delta: i64) -> TimestampMs {
        self.append_time.unwrap_or_else(|| self.base_timestamp.saturating_add(delta))
    }
}
