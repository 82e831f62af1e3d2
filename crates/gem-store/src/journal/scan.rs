//! Reading a file that has no footer: flush by flush, up to where it ends, and then telling a
//! crash's tail from damage.
//!
//! A flush is only written once the one before it has been flushed. So a flush that reads proves
//! that everything before it was durable, and so does a mark. Where a flush does not read, the
//! rest of the file is searched for such proof:
//!
//! | found behind the damage | means |
//! | --- | --- |
//! | a flush head whose frontier lies above it, or a later flush's tail | damage to what was flushed: [`StoreError::Corrupt`] |
//! | its own tail | in doubt: a power cut in the middle of the flush, or damage |
//! | nothing | a crash's tail |
//!
//! After Alagappan et al., *Protocol-Aware Recovery for Consensus-Based Storage*, FAST 2018.

use super::layout::{
    FLUSH_HEAD, FlushTail, Kind, RECORD_HEAD, RecordHead, SECTOR, read_flush_head, read_flush_tail, read_record,
};
use super::segment::file_name;
use super::types::Doubt;
use crate::StoreError;
use crate::disk::DiskFile;

/// A record of a file, its payload's position.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub head: RecordHead,
    pub position: u64,
}

/// What a scan found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub records: Vec<Found>,
    /// Where the good part ends: the next flush goes there.
    pub end: u64,
    /// The sequence of the next flush.
    pub sequence: u64,
    /// Where the last whole flush begins and ends; equal where there is none.
    pub last_flush: (u64, u64),
    /// Something stood behind the end that did not read.
    pub torn: bool,
    pub doubts: Vec<Doubt>,
}

/// Reads all of a file.
pub(super) fn read_all(handle: &dyn DiskFile, size: u64) -> Result<Vec<u8>, StoreError> {
    let mut bytes = vec![0; size as usize];
    let got = handle.read_at(&mut bytes, 0)?;
    bytes.truncate(got);
    Ok(bytes)
}

/// Scans the flushes of file `file` from `start` on; the first has number `sequence`.
pub(super) fn scan(bytes: &[u8], file: u64, generation: u64, start: u64, sequence: u64) -> Result<Scan, StoreError> {
    let mut found = Scan { end: start, sequence, last_flush: (start, start), ..Default::default() };
    let rest = |at: u64| bytes.get(at as usize..).unwrap_or_default();
    loop {
        let at = found.end;
        let Some(head) = read_flush_head(rest(at), generation, at).filter(|head| head.sequence == found.sequence)
        else {
            found.torn = rest(at).iter().take(FLUSH_HEAD).any(|byte| *byte != 0);
            break;
        };
        if head.records == 0 {
            // A mark: always the last thing in a file, and overwritten by the next flush.
            return behind(bytes, file, generation, found);
        }
        let Some(records) = rest(at)
            .get(..head.length as usize)
            .and_then(|flush| read_records(flush, generation, at, head.records, head.tail))
        else {
            found.torn = true;
            break;
        };
        found.records.extend(records);
        found.last_flush = (at, at + head.length);
        found.end = at + head.length;
        found.sequence += 1;
    }
    behind(bytes, file, generation, found)
}

/// The records of one flush; `None` unless all of them read.
fn read_records(flush: &[u8], generation: u64, start: u64, count: u32, tail: u64) -> Option<Vec<Found>> {
    let mut records = Vec::new();
    let mut at = FLUSH_HEAD;
    for _ in 0..count {
        let body = flush.get(at..tail as usize)?;
        let head = read_record(body, generation, start + at as u64)?;
        records.push(Found { head, position: start + (at + RECORD_HEAD) as u64 });
        at += head.size();
    }
    Some(records)
}

/// Searches what lies behind the end for proof that more had been flushed.
fn behind(bytes: &[u8], file: u64, generation: u64, mut found: Scan) -> Result<Scan, StoreError> {
    let mut at = found.end;
    let mut tail: Option<FlushTail> = None;
    let mut proof = false;
    while let Some(sector) = bytes.get(at as usize..).filter(|rest| !rest.is_empty()) {
        if let Some(head) = read_flush_head(sector, generation, at) {
            proof |= head.sequence > found.sequence && head.frontier > (generation, found.end);
        } else if let Some(read) = read_flush_tail(sector, generation, at) {
            proof |= read.sequence > found.sequence;
            if read.sequence == found.sequence && read.start == found.end {
                tail = Some(read);
            }
        }
        at += SECTOR;
    }
    let named = |tail: &FlushTail| {
        let names: Vec<_> = tail
            .identifiers
            .iter()
            .map(|id| format!("{} {}@{} of group {}", id.kind.name(), id.index, id.term, id.group))
            .collect();
        names.join(", ")
    };
    if proof {
        let what = match &tail {
            Some(tail) => format!("a flush was damaged after it had been written: {}", named(tail)),
            None => "a flush was damaged after it had been written; its groups and indexes are unknown".into(),
        };
        return Err(StoreError::Corrupt { file: file_name(file), position: found.end, what });
    }
    if let Some(tail) = tail {
        found.torn = true;
        let doubt = |id: super::layout::Identifier| Doubt {
            group: id.group,
            kind: id.kind.name(),
            term: id.term,
            index: id.index,
            file,
            position: found.end,
        };
        let of_groups = tail.identifiers.into_iter().filter(|id| id.kind != Kind::Recycled);
        found.doubts = of_groups.map(doubt).collect();
    }
    Ok(found)
}

/// Searches a file without a usable head for flushes of generations above `newest`. Answers the
/// highest generation found, and whether one of them was known to be flushed: then it is the head
/// that is damaged, and not just never written.
pub(super) fn lost_head(bytes: &[u8], newest: u64) -> (u64, bool) {
    let (mut highest, mut flushed) = (newest, false);
    let mut at = 0;
    while let Some(sector) = bytes.get(at as usize..).filter(|rest| !rest.is_empty()) {
        let claimed = sector.get(48..56).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
        if claimed > newest
            && let Some(head) = read_flush_head(sector, claimed, at)
        {
            highest = highest.max(claimed);
            flushed |= head.frontier.0 == claimed;
        }
        at += SECTOR;
    }
    (highest, flushed)
}
