//! Messages between nodes, as lists of parts: a head of small values, then batches, each in the
//! buffer that it came in.
//!
//! ```text
//!  part 0                                              part 1    part 2
//!  ┌────────┬──────────────────────────────────┐       ┌──────┐  ┌──────┐
//!  │version │ values; a batch stands as        │       │batch │  │batch │ …
//!  │ u8     │ 0: the next part                 │       └──────┘  └──────┘
//!  │        │ 1: the next part, but its first  │
//!  │        │    61 bytes are these            │
//!  │        │ 2: its length and its bytes      │
//!  └────────┴──────────────────────────────────┘
//! ```
//!
//! Writing shares the batches' buffers, and reading slices the parts: no payload is copied but
//! that of small batches, for which a part of their own would cost more. A transport may cut its
//! own buffer into the parts, but must keep their bounds.
//!
//! Invariants: a reader never panics, whatever it is given, never allocates more than its input's
//! size times a small constant, and refuses what is left over.

use bytes::Bytes;
use gem_types::batch::{HEAD_LEN, RecordBatch};

use crate::entry::wire::{Malformed, Reader, Writer};

/// Batches below this size, in bytes, are written into the head.
const INLINE_MAX: usize = 512;
/// The most parts of a message: more batches than that stand in the head, of whatever size.
pub const PARTS_MAX: usize = 32_768;

const WHOLE: u8 = 0;
const STAMPED: u8 = 1;
const INLINE: u8 = 2;

/// Writes a message.
#[derive(Debug)]
pub(crate) struct PartsWriter {
    /// The values.
    pub head: Writer,
    buffers: Vec<Bytes>,
}

impl PartsWriter {
    /// A message in `version` of its format.
    pub fn new(version: u8) -> Self {
        let mut head = Writer::new();
        head.u8(version);
        PartsWriter { head, buffers: Vec::new() }
    }

    /// A batch.
    pub fn batch(&mut self, batch: &RecordBatch) {
        if batch.len() < INLINE_MAX || self.buffers.len() + 1 >= PARTS_MAX {
            let [head, records] = batch.parts();
            self.head.u8(INLINE).u64(batch.len() as u64).fixed(&head).fixed(&records);
            return;
        }
        let (stamped, buffer) = batch.carried();
        match stamped {
            Some(head) => self.head.u8(STAMPED).fixed(&head),
            None => self.head.u8(WHOLE),
        };
        self.buffers.push(buffer);
    }

    /// The message.
    pub fn finish(self) -> Vec<Bytes> {
        let mut parts = Vec::with_capacity(1 + self.buffers.len());
        parts.push(self.head.finish().into());
        parts.extend(self.buffers);
        parts
    }
}

/// Reads a message.
#[derive(Clone, Debug)]
pub(crate) struct PartsReader<'a> {
    /// The values.
    pub head: Reader<'a>,
    first: &'a Bytes,
    buffers: std::slice::Iter<'a, Bytes>,
}

impl<'a> PartsReader<'a> {
    /// Reads `parts`, in `version` of their format; errors name `what` is being read.
    pub fn new(parts: &'a [Bytes], version: u8, what: &'static str) -> Result<Self, Malformed> {
        let (first, buffers) = parts.split_first().ok_or(Malformed(what))?;
        let mut head = Reader::new(first, what);
        if head.u8()? != version {
            return Err(Malformed("message: not a version that this release knows"));
        }
        Ok(PartsReader { head, first, buffers: buffers.iter() })
    }

    /// A batch: head and checksum are verified. Its bytes are a slice of the part.
    pub fn batch(&mut self) -> Result<RecordBatch, Malformed> {
        const WHAT: Malformed = Malformed("message's batch");
        let opened = match self.head.u8()? {
            WHOLE => RecordBatch::open(self.buffers.next().ok_or(WHAT)?.clone()),
            STAMPED => {
                let head: [u8; HEAD_LEN] = self.head.fixed()?;
                RecordBatch::open_carried(Some(&head), self.buffers.next().ok_or(WHAT)?.clone())
            }
            // The bytes are those of the first part: they can be sliced from it.
            INLINE => RecordBatch::open(self.first.slice_ref(self.head.bytes()?)),
            _ => return Err(WHAT),
        };
        opened.map_err(|_| WHAT)
    }

    /// Refuses what is left over.
    pub fn end(mut self) -> Result<(), Malformed> {
        if self.buffers.next().is_some() {
            return Err(self.head.malformed());
        }
        self.head.end()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use gem_types::Message;
    use gem_types::batch::BatchBuilder;

    /// A batch of one record, stamped at `stamp` where that is given.
    pub fn batch(payload: usize, stamp: Option<u64>) -> RecordBatch {
        let mut builder = BatchBuilder::new();
        builder.push(&Message { payload: vec![7; payload].into(), ..Message::default() }, "id");
        let mut batch = builder.finish(5);
        if let Some(base) = stamp {
            batch.stamp(base, 1_790_000_000_000);
        }
        batch
    }

    /// Bends `parts`: cuts a part, flips a bit of it, takes it away or adds one.
    pub fn bend(parts: &mut Vec<Bytes>, part: prop::sample::Index, at: prop::sample::Index, how: u8) {
        let part = part.index(parts.len());
        let mut bytes = parts[part].to_vec();
        match how {
            0 => bytes.truncate(at.index(bytes.len() + 1)),
            1..=8 if !bytes.is_empty() => {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << (how - 1);
            }
            9 => {
                parts.remove(part);
                return;
            }
            _ => {
                parts.insert(part, Bytes::from_static(b"one too many"));
                return;
            }
        }
        parts[part] = bytes.into();
    }

    use proptest::prelude::*;

    #[test]
    fn batches_come_back_and_are_not_copied() {
        for (payload, stamp) in [(10, None), (10, Some(4)), (5000, None), (5000, Some(4))] {
            let batch = batch(payload, stamp);
            let mut out = PartsWriter::new(1);
            out.head.u64(7);
            out.batch(&batch);
            out.head.u64(8);
            let parts = out.finish();
            let mut reader = PartsReader::new(&parts, 1, "test").unwrap();
            assert_eq!(reader.head.u64(), Ok(7));
            let arrived = reader.batch().unwrap();
            assert_eq!(arrived, batch);
            assert_eq!(reader.head.u64(), Ok(8));
            reader.end().unwrap();
            let held = |bytes: &Bytes| parts.iter().any(|part| part.as_ptr_range().contains(&bytes.as_ptr()));
            assert!(held(&arrived.parts()[1]), "copied on reading");
            assert_eq!(held(&batch.parts()[1]), payload > INLINE_MAX, "copied on writing");
        }
    }

    #[test]
    fn more_batches_than_parts_stand_in_the_head() {
        let batch = batch(INLINE_MAX, Some(4));
        let mut out = PartsWriter::new(1);
        (0..PARTS_MAX + 5).for_each(|_| out.batch(&batch));
        let parts = out.finish();
        assert_eq!(parts.len(), PARTS_MAX);
        let mut reader = PartsReader::new(&parts, 1, "test").unwrap();
        assert!((0..PARTS_MAX + 5).all(|_| reader.batch().as_ref() == Ok(&batch)));
        reader.end().unwrap();
    }

    #[test]
    fn what_is_left_over_is_refused() {
        let mut out = PartsWriter::new(1);
        out.batch(&batch(5000, None));
        let mut parts = out.finish();
        let reader = PartsReader::new(&parts, 1, "test").unwrap();
        assert!(reader.clone().end().is_err());
        assert!(PartsReader::new(&parts, 2, "test").is_err() && PartsReader::new(&[], 1, "test").is_err());
        parts.push(Bytes::new());
        let mut reader = PartsReader::new(&parts, 1, "test").unwrap();
        reader.batch().unwrap();
        assert!(reader.end().is_err());
    }
}
