//! How a group is stored: a small row, and a row for each chunk of offsets above its floor.
//!
//! ```text
//! group row   version = 1, mode, life, seeks, floor, frontier, redelivered, dead-lettered, acked,
//!             moves
//! chunk row   version = 1, form, acked, attempts, delayed, moving
//!             form 0: acked is a list of (start, length)
//!             form 1: acked is a bitmap of 4096 bits, the first offset in the lowest bit
//!             attempts, delayed, moving: lists of (offset, value)
//! ```
//! Offsets in a chunk row count from the chunk's first. A chunk that would say nothing has no row.

use std::ops::Range;

use bytes::Bytes;
use gem_store::StoreError;
use gem_types::Offset;

use super::groups::{CHUNK_LEN, GroupState};
use super::tables::damaged;
use crate::entry::wire::{Malformed, Reader, Writer};
use crate::entry::{mode_tag, take_mode};

const VERSION: u8 = 1;
const AS_RANGES: u8 = 0;
const AS_BITS: u8 = 1;
const BITMAP_LEN: usize = CHUNK_LEN as usize / 8;

/// The group's row.
pub(super) fn encode_group(group: &GroupState) -> Bytes {
    let mut out = Writer::new();
    out.u8(VERSION).u8(mode_tag(group.mode)).u64(group.life).u64(group.seeks.into());
    out.u64(group.floor).u64(group.frontier);
    out.u64(group.redelivered).u64(group.dead_lettered).u64(group.acked_total).u64(group.moves);
    out.finish().into()
}

/// Reads a group's row; its chunks are added by [`add_chunk`].
pub(super) fn decode_group(bytes: &[u8]) -> Result<GroupState, StoreError> {
    read_group(Reader::new(bytes, "group row")).map_err(|error| damaged(error, bytes))
}

fn read_group(mut input: Reader<'_>) -> Result<GroupState, Malformed> {
    if input.u8()? != VERSION {
        return Err(input.malformed());
    }
    let mut group = GroupState { mode: take_mode(&mut input)?, ..GroupState::default() };
    group.life = input.u64()?;
    group.seeks = input.u32()?;
    group.floor = input.u64()?;
    group.frontier = input.u64()?;
    group.redelivered = input.u64()?;
    group.dead_lettered = input.u64()?;
    group.acked_total = input.u64()?;
    group.moves = input.u64()?;
    input.end()?;
    Ok(group)
}

/// The row of chunk `number`; `None` where it would say nothing.
pub(super) fn encode_chunk(group: &GroupState, number: u64) -> Option<Bytes> {
    let first = number * CHUNK_LEN;
    let range = first..first.saturating_add(CHUNK_LEN);
    let acked: Vec<Range<Offset>> = group.acked.within(range.clone()).collect();
    let attempts: Vec<_> = group.attempts.range(range.clone()).collect();
    let delayed: Vec<_> = group.delayed.range(range.clone()).collect();
    let moving: Vec<_> = group.moving.range(range).collect();
    if acked.is_empty() && attempts.is_empty() && delayed.is_empty() && moving.is_empty() {
        return None;
    }
    let mut out = Writer::new();
    out.u8(VERSION);
    put_acked(&mut out, &acked, first);
    out.u64(attempts.len() as u64);
    for (offset, count) in attempts {
        out.u64(offset - first).u64((*count).into());
    }
    out.u64(delayed.len() as u64);
    for (offset, due_ms) in delayed {
        out.u64(offset - first).i64(*due_ms);
    }
    out.u64(moving.len() as u64);
    for (offset, number) in moving {
        out.u64(offset - first).u64(*number);
    }
    Some(out.finish().into())
}

fn put_acked(out: &mut Writer, acked: &[Range<Offset>], first: Offset) {
    let mut ranges = Writer::new();
    ranges.u64(acked.len() as u64);
    for range in acked {
        ranges.u64(range.start - first).u64(range.end - range.start);
    }
    if ranges.len() <= BITMAP_LEN {
        out.u8(AS_RANGES).fixed(&ranges.finish());
        return;
    }
    let mut bits = [0u8; BITMAP_LEN];
    for offset in acked.iter().cloned().flatten() {
        // Within the chunk: `acked` was cut to it.
        let at = (offset - first) as usize;
        bits[at / 8] |= 1 << (at % 8);
    }
    out.u8(AS_BITS).fixed(&bits);
}

/// Adds what the row of chunk `number` says.
pub(super) fn add_chunk(group: &mut GroupState, number: u64, bytes: &[u8]) -> Result<(), StoreError> {
    read_chunk(group, number, Reader::new(bytes, "group chunk row")).map_err(|error| damaged(error, bytes))?;
    group.chunks.insert(number);
    Ok(())
}

fn read_chunk(group: &mut GroupState, number: u64, mut input: Reader<'_>) -> Result<(), Malformed> {
    let first = number.checked_mul(CHUNK_LEN).filter(|first| first.checked_add(CHUNK_LEN).is_some());
    let first = first.ok_or(input.malformed())?;
    let within = |input: &mut Reader<'_>| match input.u64()? {
        offset if offset < CHUNK_LEN => first.checked_add(offset).ok_or(input.malformed()),
        _ => Err(input.malformed()),
    };
    if input.u8()? != VERSION {
        return Err(input.malformed());
    }
    match input.u8()? {
        AS_RANGES => {
            for _ in 0..input.count(2)? {
                let start = within(&mut input)?;
                let length = input.u64()?;
                if length > CHUNK_LEN - (start - first) {
                    return Err(input.malformed());
                }
                group.acked.insert(start..start.saturating_add(length));
            }
        }
        AS_BITS => {
            let bits: [u8; BITMAP_LEN] = input.fixed()?;
            for at in (0..CHUNK_LEN).filter(|at| bits[*at as usize / 8] & (1 << (at % 8)) != 0) {
                group.acked.insert(first + at..first + at + 1);
            }
        }
        _ => return Err(input.malformed()),
    }
    for _ in 0..input.count(2)? {
        group.attempts.insert(within(&mut input)?, input.u32()?);
    }
    for _ in 0..input.count(2)? {
        group.delayed.insert(within(&mut input)?, input.i64()?);
    }
    for _ in 0..input.count(2)? {
        group.moving.insert(within(&mut input)?, input.u64()?);
    }
    input.end()
}
