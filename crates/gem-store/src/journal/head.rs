//! A file's head: which life of which file this is, and a table of all groups' marks as of when
//! that life began. So no vote or purge mark ever lies only in a file that could be recycled.
//!
//! ```text
//!  0 magic      8   "GEMJRNL" and a newline
//!  8 crc        4   of all that follows, table included
//! 12 version    4
//! 16 generation 8
//! 24 file       8   the file's number
//! 32 size       8   the file's bytes
//! 40 sequence   8   of the first flush
//! 48 frontier  16   generation and position up to which all was flushed before
//! 64 length     4   of the table
//! 68 zero       4
//! 72 table: u32 groups, each: id 16, flags 1, then those of: created (u32, bytes), vote (u32,
//!    bytes), committed, purged, last (56 bytes each); u32 files, each: number 8, generation 8
//! ```

use std::collections::BTreeMap;

use crc32c::crc32c;
use gem_types::GroupId;

use super::codec::{Input, Output};
use super::layout::SECTOR;
use super::types::GroupMarks;

/// The on-disk format. A file of a later one is refused, never guessed at.
pub(super) const FORMAT_VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"GEMJRNL\n";
const FIXED: usize = 72;

const CREATED: u8 = 1;
const TOMBSTONE: u8 = 2;
const VOTE: u8 = 4;
const COMMITTED: u8 = 8;
const PURGED: u8 = 16;
const LAST: u8 = 32;

/// All groups' marks, and which files are in use (number → generation), at one point of the
/// journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub groups: BTreeMap<GroupId, GroupMarks>,
    pub files: BTreeMap<u64, u64>,
}

/// What a group's marks take in a table.
pub(super) fn marks_len(marks: &GroupMarks) -> usize {
    let bytes = |b: &Option<bytes::Bytes>| b.as_ref().map_or(0, |b| 4 + b.len());
    let ids = [marks.committed, marks.purged, marks.last].iter().flatten().count();
    16 + 1 + bytes(&marks.created) + bytes(&marks.vote) + ids * 56
}

/// Appends a table.
pub(super) fn put_table<'a>(
    out: &mut Vec<u8>,
    groups: impl ExactSizeIterator<Item = (&'a GroupId, &'a GroupMarks)>,
    files: &BTreeMap<u64, u64>,
) {
    out.put_u32(groups.len() as u32);
    for (id, marks) in groups {
        out.put(&id.0);
        let flag = |there: bool, flag: u8| if there { flag } else { 0 };
        out.put(&[flag(marks.created.is_some(), CREATED)
            | flag(marks.tombstone, TOMBSTONE)
            | flag(marks.vote.is_some(), VOTE)
            | flag(marks.committed.is_some(), COMMITTED)
            | flag(marks.purged.is_some(), PURGED)
            | flag(marks.last.is_some(), LAST)]);
        [&marks.created, &marks.vote].into_iter().flatten().for_each(|bytes| out.put_bytes(bytes));
        [&marks.committed, &marks.purged, &marks.last].into_iter().flatten().for_each(|id| out.put_pos(id));
    }
    out.put_u32(files.len() as u32);
    for (file, generation) in files {
        out.put_u64(*file);
        out.put_u64(*generation);
    }
}

impl Table {
    pub(super) fn read(input: &mut Input<'_>) -> Option<Table> {
        let mut table = Table::default();
        for _ in 0..input.u32()? {
            let id = input.group()?;
            let flags = input.u8()?;
            let has = |flag: u8| flags & flag != 0;
            let created = if has(CREATED) { Some(input.bytes()?) } else { None };
            let vote = if has(VOTE) { Some(input.bytes()?) } else { None };
            let committed = if has(COMMITTED) { Some(input.pos()?) } else { None };
            let purged = if has(PURGED) { Some(input.pos()?) } else { None };
            let last = if has(LAST) { Some(input.pos()?) } else { None };
            let marks = GroupMarks { created, tombstone: has(TOMBSTONE), vote, committed, purged, last };
            table.groups.insert(id, marks);
        }
        for _ in 0..input.u32()? {
            table.files.insert(input.u64()?, input.u64()?);
        }
        Some(table)
    }
}

/// A file's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileHead {
    pub generation: u64,
    pub file: u64,
    pub size: u64,
    pub sequence: u64,
    pub frontier: (u64, u64),
    pub table: Table,
    /// Where the first flush begins.
    pub end: u64,
}

/// What stands where a head should.
#[derive(Debug)]
pub(super) enum HeadRead {
    Head(FileHead),
    /// Nothing that reads as a head: a file that was never begun, or damage.
    None,
    /// A head of a later format.
    Later(u32),
}

impl FileHead {
    /// How many bytes hold the head at most, given its first sector; `None` where that is no head.
    pub(super) fn len(first: &[u8]) -> Option<usize> {
        let length = first.get(64..68)?.try_into().ok().map(u32::from_le_bytes)?;
        first.starts_with(MAGIC).then(|| FIXED + length as usize)
    }

    /// The head's bytes, padded to a sector; `table` as [`put_table`] wrote it.
    pub(super) fn encode(&self, table: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(FIXED + table.len() + SECTOR as usize);
        out.put(MAGIC);
        out.put_u32(0);
        out.put_u32(FORMAT_VERSION);
        out.put_u64(self.generation);
        out.put_u64(self.file);
        out.put_u64(self.size);
        out.put_u64(self.sequence);
        out.put_u64(self.frontier.0);
        out.put_u64(self.frontier.1);
        out.put_u32(table.len() as u32);
        out.put_u32(0);
        out.put(table);
        let crc = crc32c(&out[12..]);
        out[8..12].copy_from_slice(&crc.to_le_bytes());
        out.resize(out.len().next_multiple_of(SECTOR as usize), 0);
        out
    }

    /// Reads and checks a head.
    pub(super) fn decode(bytes: &[u8]) -> HeadRead {
        let Some(body) = FileHead::len(bytes).and_then(|length| bytes.get(..length)) else { return HeadRead::None };
        if crc32c(&body[12..]).to_le_bytes() != body[8..12] {
            return HeadRead::None;
        }
        match body[12..16].try_into().map(u32::from_le_bytes) {
            Ok(FORMAT_VERSION) => FileHead::decode_unchecked(body).map_or(HeadRead::None, HeadRead::Head),
            Ok(version) if version > FORMAT_VERSION => HeadRead::Later(version),
            _ => HeadRead::None,
        }
    }

    /// Reads a head whose CRC was checked.
    pub(super) fn decode_unchecked(bytes: &[u8]) -> Option<FileHead> {
        let mut input = Input(bytes);
        input.take(16)?;
        let (generation, file, size, sequence) = (input.u64()?, input.u64()?, input.u64()?, input.u64()?);
        let frontier = (input.u64()?, input.u64()?);
        let length = input.u32()? as usize;
        input.u32()?;
        let table = Table::read(&mut Input(input.take(length)?))?;
        let end = ((FIXED + length) as u64).next_multiple_of(SECTOR);
        Some(FileHead { generation, file, size, sequence, frontier, table, end })
    }
}
