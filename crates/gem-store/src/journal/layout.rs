//! Records and flushes: the bytes between a file's head and its footer. All little-endian.
//!
//! A **flush** is what one write and one fdatasync made durable. It starts and ends on a sector
//! (512 bytes), so that writing one never rewrites a sector that an earlier one made durable.
//!
//! ```text
//! | flush head | record | record | … | zeros to a sector | flush tail | zeros to a sector |
//!
//! flush head, 64 bytes
//!  0 crc      4   of all that follows in the head
//!  4 magic    4   "GEMf"
//!  8 sequence 8   rises by one with every flush of the journal
//! 16 length   4   of the flush; a multiple of 512
//! 20 records  4   0: a mark, which only says what its frontier says
//! 24 tail     4   where the tail begins, from the flush's start; 0 in a mark
//! 28 zero     4
//! 32 frontier 16  generation and position up to which all was flushed before this was written
//! 48 generation 8
//! 56 zero     8
//!
//! record, 88 bytes and the payload, padded to 8
//!  0 crc      4   of all that follows, payload included, padding not
//!  4 length   4   of the payload
//!  8 kind     1
//!  9 zero     7
//! 16 group   16
//! 32 term     8
//! 40 index    8
//! 48 leader  40   node id and incarnation
//! 88 payload
//!
//! flush tail: the identifiers of all records a second time, in sectors of its own
//!  0 crc      4   of all that follows, up to the last identifier
//!  4 magic    4   "GEMt"
//!  8 sequence 8
//! 16 start    8   the flush's position in the file
//! 24 count    4
//! 28 zero     4
//! 32 count times: kind 1, zero 7, group 16, term 8, index 8
//! ```
//!
//! Every CRC is a CRC-32C that starts from the CRC of the file's generation and the position of
//! the thing itself: what an earlier life of the file left behind never reads as new, nor does
//! what stands where it was not written.

use std::io::IoSlice;
use std::ops::Range;

use bytes::Bytes;
use crc32c::{crc32c, crc32c_append};
use gem_types::GroupId;

use super::codec::{Input, Output};
use super::types::{JournalOp, LogPos};

/// The unit in which a disk tears.
pub(super) const SECTOR: u64 = 512;
/// A flush head's bytes.
pub(super) const FLUSH_HEAD: usize = 64;
/// A record's bytes before its payload.
pub(super) const RECORD_HEAD: usize = 88;
const TAIL_HEAD: usize = 32;
const IDENTIFIER: usize = 40;
const FLUSH_MAGIC: u32 = u32::from_le_bytes(*b"GEMf");
const TAIL_MAGIC: u32 = u32::from_le_bytes(*b"GEMt");

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Append = 1,
    /// An entry copied forward out of a file that is to be recycled: it truncates nothing.
    Carry = 2,
    Vote = 3,
    Commit = 4,
    /// `index` is the first index that is discarded.
    Truncate = 5,
    Purge = 6,
    Create = 7,
    Tombstone = 8,
    /// The file numbered `index`, of generation `term`, holds nothing any more.
    Recycled = 9,
}

impl Kind {
    pub(super) fn of(byte: u8) -> Option<Kind> {
        use Kind::*;
        [Append, Carry, Vote, Commit, Truncate, Purge, Create, Tombstone, Recycled]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Append => "append",
            Kind::Carry => "carry",
            Kind::Vote => "vote",
            Kind::Commit => "commit",
            Kind::Truncate => "truncate",
            Kind::Purge => "purge",
            Kind::Create => "create",
            Kind::Tombstone => "tombstone",
            Kind::Recycled => "recycled",
        }
    }
}

/// What the writer writes: its users' operations, and the journal's own.
#[derive(Clone, Debug)]
pub(super) enum Op {
    User(JournalOp),
    Carry { group: GroupId, id: LogPos, payload: Bytes },
    Recycled { file: u64, generation: u64 },
}

impl Op {
    /// The record's fields and payload.
    fn record(&self) -> (Kind, GroupId, LogPos, &[Bytes]) {
        let bare = LogPos::default();
        match self {
            Op::User(JournalOp::Append { group, id, parts }) => (Kind::Append, *group, *id, parts),
            Op::User(JournalOp::Vote { group, vote }) => (Kind::Vote, *group, bare, std::slice::from_ref(vote)),
            Op::User(JournalOp::Commit { group, id }) => (Kind::Commit, *group, *id, &[]),
            Op::User(JournalOp::Truncate { group, after }) => {
                let index = after.map_or(0, |after| after.saturating_add(1));
                (Kind::Truncate, *group, LogPos { index, ..bare }, &[])
            }
            Op::User(JournalOp::Purge { group, id }) => (Kind::Purge, *group, *id, &[]),
            Op::User(JournalOp::Create { group, bytes }) => (Kind::Create, *group, bare, std::slice::from_ref(bytes)),
            Op::User(JournalOp::Tombstone { group }) => (Kind::Tombstone, *group, bare, &[]),
            Op::Carry { group, id, payload } => (Kind::Carry, *group, *id, std::slice::from_ref(payload)),
            Op::Recycled { file, generation } => {
                (Kind::Recycled, GroupId::default(), LogPos { term: *generation, index: *file, ..bare }, &[])
            }
        }
    }

    /// The payload's bytes.
    pub(super) fn payload_len(&self) -> usize {
        self.record().3.iter().map(Bytes::len).sum()
    }

    /// What the record takes in a flush.
    pub(super) fn record_len(&self) -> u64 {
        (RECORD_HEAD + self.payload_len().next_multiple_of(8)) as u64
    }

    /// Its place among a footer's items, if it changes which entries lie where.
    pub(super) fn moves(&self) -> Option<(Kind, GroupId, LogPos)> {
        let (kind, group, id, _) = self.record();
        matches!(kind, Kind::Append | Kind::Carry | Kind::Truncate).then_some((kind, group, id))
    }

    /// Whether it can wait for another flush to ride with.
    pub(super) fn is_lazy(&self) -> bool {
        matches!(self, Op::User(JournalOp::Commit { .. }))
    }
}

/// The CRC that those of a thing at `position` of a file of `generation` start from.
pub(super) fn salt(generation: u64, position: u64) -> u32 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&generation.to_le_bytes());
    bytes[8..].copy_from_slice(&position.to_le_bytes());
    crc32c(&bytes)
}

/// How long a flush of records of `records_len` bytes in all is, and where its tail begins.
pub(super) fn flush_len(count: usize, records_len: u64) -> (u64, u64) {
    let tail = (FLUSH_HEAD as u64 + records_len).next_multiple_of(SECTOR);
    (tail + ((TAIL_HEAD + count * IDENTIFIER) as u64).next_multiple_of(SECTOR), tail)
}

enum Piece {
    Scratch(Range<usize>),
    Part(Bytes),
}

/// A flush ready to be written: heads in a scratch buffer, payloads as they came.
#[derive(Default)]
pub(super) struct Encoded {
    scratch: Vec<u8>,
    pieces: Vec<Piece>,
    /// Where each operation's payload lies in the file.
    pub payloads: Vec<(u64, u32)>,
    /// The flush's length.
    pub length: u64,
}

/// Which flush this is and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FlushAt {
    pub generation: u64,
    pub position: u64,
    pub sequence: u64,
    /// Generation and position up to which all has been flushed.
    pub frontier: (u64, u64),
}

impl Encoded {
    /// Encodes `ops`, reusing this buffer. The caller has checked that the flush fits the file.
    pub(super) fn encode<'a>(&mut self, ops: impl ExactSizeIterator<Item = &'a Op> + Clone, at: FlushAt) {
        self.scratch.clear();
        self.pieces.clear();
        self.payloads.clear();
        let count = ops.len();
        let (length, tail) = flush_len(count, ops.clone().map(Op::record_len).sum());
        self.length = length;
        self.scratch.extend_from_slice(&flush_head(at, length as u32, count as u32, tail as u32));
        let mut identifiers = Vec::with_capacity((length - tail) as usize);
        let mut position = at.position + FLUSH_HEAD as u64;
        let mut from = 0;
        for op in ops {
            let (kind, group, id, parts) = op.record();
            let payload_len: usize = parts.iter().map(Bytes::len).sum();
            let head = self.scratch.len();
            self.scratch.put_u32(0);
            // An entry larger than a file was refused when it was submitted.
            self.scratch.put_u32(payload_len as u32);
            self.scratch.put(&[kind as u8, 0, 0, 0, 0, 0, 0, 0]);
            self.scratch.put(&group.0);
            self.scratch.put_u64(id.term);
            self.scratch.put_u64(id.index);
            self.scratch.put(&id.leader.node.0);
            self.scratch.put_u64(id.leader.incarnation.0);
            let mut crc = crc32c_append(salt(at.generation, position), &self.scratch[head + 4..]);
            for part in parts {
                crc = crc32c_append(crc, part);
            }
            self.scratch[head..head + 4].copy_from_slice(&crc.to_le_bytes());
            if payload_len > 0 {
                self.pieces.push(Piece::Scratch(from..self.scratch.len()));
                self.pieces.extend(parts.iter().filter(|part| !part.is_empty()).cloned().map(Piece::Part));
                from = self.scratch.len();
                self.scratch.resize(from + payload_len.next_multiple_of(8) - payload_len, 0);
            }
            self.payloads.push((position + RECORD_HEAD as u64, payload_len as u32));
            position += (RECORD_HEAD + payload_len.next_multiple_of(8)) as u64;
            identifiers.put(&[kind as u8, 0, 0, 0, 0, 0, 0, 0]);
            identifiers.put(&group.0);
            identifiers.put_u64(id.term);
            identifiers.put_u64(id.index);
        }
        let gap = at.position + tail - position;
        self.scratch.resize(self.scratch.len() + gap as usize, 0);
        let tail_start = self.scratch.len();
        self.scratch.put_u32(0);
        self.scratch.put_u32(TAIL_MAGIC);
        self.scratch.put_u64(at.sequence);
        self.scratch.put_u64(at.position);
        self.scratch.put_u32(count as u32);
        self.scratch.put_u32(0);
        self.scratch.put(&identifiers);
        let crc = crc32c_append(salt(at.generation, at.position + tail), &self.scratch[tail_start + 4..]);
        self.scratch[tail_start..tail_start + 4].copy_from_slice(&crc.to_le_bytes());
        self.scratch.resize(tail_start + (length - tail) as usize, 0);
        self.pieces.push(Piece::Scratch(from..self.scratch.len()));
    }

    /// Encodes a mark: a flush without records that tells what is flushed.
    pub(super) fn mark(at: FlushAt) -> [u8; SECTOR as usize] {
        let mut sector = [0; SECTOR as usize];
        sector[..FLUSH_HEAD].copy_from_slice(&flush_head(at, SECTOR as u32, 0, 0));
        sector
    }

    /// The flush's bytes in order.
    pub(super) fn slices(&self) -> Vec<IoSlice<'_>> {
        let slice = |piece| match piece {
            &Piece::Scratch(Range { start, end }) => IoSlice::new(&self.scratch[start..end]),
            Piece::Part(bytes) => IoSlice::new(bytes),
        };
        self.pieces.iter().map(slice).collect()
    }

    /// Lets go of the payloads.
    pub(super) fn clear(&mut self) {
        self.pieces.clear();
    }
}

fn flush_head(at: FlushAt, length: u32, records: u32, tail: u32) -> [u8; FLUSH_HEAD] {
    let mut out = Vec::with_capacity(FLUSH_HEAD);
    out.put_u32(0);
    out.put_u32(FLUSH_MAGIC);
    out.put_u64(at.sequence);
    out.put_u32(length);
    out.put_u32(records);
    out.put_u32(tail);
    out.put_u32(0);
    out.put_u64(at.frontier.0);
    out.put_u64(at.frontier.1);
    out.put_u64(at.generation);
    out.put_u64(0);
    let crc = crc32c_append(salt(at.generation, at.position), &out[4..]);
    let mut head = [0; FLUSH_HEAD];
    head.copy_from_slice(&out);
    head[..4].copy_from_slice(&crc.to_le_bytes());
    head
}

/// A flush head that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FlushHead {
    pub sequence: u64,
    pub length: u64,
    pub records: u32,
    pub tail: u64,
    pub frontier: (u64, u64),
}

/// Reads the flush head at the start of `bytes`; `None` for anything that is not exactly one.
pub(super) fn read_flush_head(bytes: &[u8], generation: u64, position: u64) -> Option<FlushHead> {
    let bytes = bytes.get(..FLUSH_HEAD)?;
    let mut input = Input(bytes);
    let crc = input.u32()?;
    if input.u32()? != FLUSH_MAGIC || crc32c_append(salt(generation, position), &bytes[4..]) != crc {
        return None;
    }
    let sequence = input.u64()?;
    let (length, records, tail) = (u64::from(input.u32()?), input.u32()?, u64::from(input.u32()?));
    input.u32()?;
    let frontier = (input.u64()?, input.u64()?);
    let legal = length > 0 && length.is_multiple_of(SECTOR) && tail <= length && input.u64()? == generation;
    legal.then_some(FlushHead { sequence, length, records, tail, frontier })
}

/// What a flush's tail repeats of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identifier {
    pub kind: Kind,
    pub group: GroupId,
    pub term: u64,
    pub index: u64,
}

/// A flush tail that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FlushTail {
    pub sequence: u64,
    pub start: u64,
    pub identifiers: Vec<Identifier>,
}

/// Reads the flush tail at the start of `bytes`.
pub(super) fn read_flush_tail(bytes: &[u8], generation: u64, position: u64) -> Option<FlushTail> {
    let mut input = Input(bytes);
    let crc = input.u32()?;
    if input.u32()? != TAIL_MAGIC {
        return None;
    }
    let (sequence, start, count) = (input.u64()?, input.u64()?, input.u32()? as usize);
    input.u32()?;
    let body = bytes.get(4..TAIL_HEAD.checked_add(count.checked_mul(IDENTIFIER)?)?)?;
    if crc32c_append(salt(generation, position), body) != crc {
        return None;
    }
    let mut identifiers = Vec::with_capacity(count);
    for _ in 0..count {
        let [kind, ..] = input.array::<8>()?;
        let kind = Kind::of(kind)?;
        identifiers.push(Identifier { kind, group: input.group()?, term: input.u64()?, index: input.u64()? });
    }
    Some(FlushTail { sequence, start, identifiers })
}

/// A record that was read; its payload lies in `RECORD_HEAD..RECORD_HEAD + length` of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHead {
    pub kind: Kind,
    pub group: GroupId,
    pub id: LogPos,
    pub length: u32,
}

impl RecordHead {
    /// The record's bytes with its padding.
    pub(super) fn size(&self) -> usize {
        RECORD_HEAD + (self.length as usize).next_multiple_of(8)
    }
}

/// Reads the record at the start of `bytes` and checks its payload.
pub(super) fn read_record(bytes: &[u8], generation: u64, position: u64) -> Option<RecordHead> {
    let mut input = Input(bytes);
    let crc = input.u32()?;
    let length = input.u32()?;
    let body = bytes.get(4..RECORD_HEAD.checked_add(length as usize)?)?;
    if crc32c_append(salt(generation, position), body) != crc {
        return None;
    }
    let [kind, ..] = input.array::<8>()?;
    let kind = Kind::of(kind)?;
    let group = input.group()?;
    let (term, index) = (input.u64()?, input.u64()?);
    let node = gem_types::NodeId(input.array()?);
    let leader = gem_types::ReplicaId { node, incarnation: gem_types::Incarnation(input.u64()?) };
    Some(RecordHead { kind, group, id: LogPos { term, leader, index }, length })
}

/// Feeds bytes to every decoder of the journal, for fuzzing: none may panic, or allocate more than
/// a small multiple of its input.
pub fn fuzz_decode(bytes: &[u8]) {
    let (generation, position) = (1, 4096);
    let _ = read_flush_head(bytes, generation, position);
    let _ = read_flush_tail(bytes, generation, position);
    let _ = read_record(bytes, generation, position);
    let _ = super::head::FileHead::decode_unchecked(bytes);
    let _ = super::footer::Footer::decode_unchecked(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use gem_types::{Incarnation, NodeId, ReplicaId};
    use proptest::prelude::*;

    pub(crate) fn any_pos() -> impl Strategy<Value = LogPos> {
        (any::<u64>(), any::<[u8; 32]>(), any::<u64>(), any::<u64>()).prop_map(|(term, node, incarnation, index)| {
            let leader = ReplicaId { node: NodeId(node), incarnation: Incarnation(incarnation) };
            LogPos { term, leader, index }
        })
    }

    fn any_op() -> impl Strategy<Value = Op> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..700).prop_map(Bytes::from);
        let group = || any::<[u8; 16]>().prop_map(GroupId);
        prop_oneof![
            (group(), any_pos(), proptest::collection::vec(bytes(), 0..4))
                .prop_map(|(group, id, parts)| Op::User(JournalOp::Append { group, id, parts })),
            (group(), bytes()).prop_map(|(group, vote)| Op::User(JournalOp::Vote { group, vote })),
            (group(), any_pos()).prop_map(|(group, id)| Op::User(JournalOp::Commit { group, id })),
            (group(), any::<Option<u64>>()).prop_map(|(group, after)| Op::User(JournalOp::Truncate { group, after })),
            (group(), any_pos()).prop_map(|(group, id)| Op::User(JournalOp::Purge { group, id })),
            (group(), any_pos(), bytes()).prop_map(|(group, id, payload)| Op::Carry { group, id, payload }),
            (any::<u64>(), any::<u64>()).prop_map(|(file, generation)| Op::Recycled { file, generation }),
        ]
    }

    proptest! {
        #[test]
        fn a_flush_reads_as_it_was_written(
            ops in proptest::collection::vec(any_op(), 1..12),
            generation: u64,
            sector in 1u64..1000,
            flip: proptest::sample::Index,
        ) {
            let at = FlushAt { generation, position: sector * SECTOR, sequence: 7, frontier: (3, 9) };
            let mut encoded = Encoded::default();
            encoded.encode(ops.iter(), at);
            let mut bytes: Vec<u8> = Vec::new();
            encoded.slices().iter().for_each(|slice| bytes.extend_from_slice(slice));
            prop_assert_eq!(bytes.len() as u64, encoded.length);

            let head = read_flush_head(&bytes, generation, at.position).unwrap();
            prop_assert_eq!((head.sequence, head.frontier, head.records as usize), (7, (3, 9), ops.len()));
            let mut at_byte = FLUSH_HEAD;
            let tail = read_flush_tail(&bytes[head.tail as usize..], generation, at.position + head.tail).unwrap();
            for ((op, place), identifier) in ops.iter().zip(&encoded.payloads).zip(&tail.identifiers) {
                let record = read_record(&bytes[at_byte..], generation, at.position + at_byte as u64).unwrap();
                let (kind, group, id, parts) = op.record();
                prop_assert_eq!((record.kind, record.group, record.id), (kind, group, id));
                prop_assert_eq!((identifier.kind, identifier.group, identifier.index), (kind, group, id.index));
                let payload = &bytes[at_byte + RECORD_HEAD..at_byte + RECORD_HEAD + record.length as usize];
                prop_assert_eq!(payload, &parts.concat()[..]);
                prop_assert_eq!(*place, (at.position + (at_byte + RECORD_HEAD) as u64, record.length));
                // Neither another generation nor another position reads it.
                prop_assert!(read_record(&bytes[at_byte..], generation ^ 1, at.position + at_byte as u64).is_none());
                prop_assert!(read_record(&bytes[at_byte..], generation, at.position + at_byte as u64 + 8).is_none());
                at_byte += record.size();
            }
            // A flipped bit in the first record shows.
            let first = FLUSH_HEAD + flip.index(RECORD_HEAD + ops[0].payload_len());
            bytes[first] ^= 1;
            prop_assert!(read_record(&bytes[FLUSH_HEAD..], generation, at.position + FLUSH_HEAD as u64).is_none());
        }

        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            fuzz_decode(&bytes);
        }
    }
}
