//! A group's share in a partition: what of it is done, out, delayed, on its way out.
//!
//! Between two commits a [`GroupState`] knows which parts of it changed: the small row, and which
//! chunks of [`CHUNK_LEN`] offsets. So an ack costs the group's row and the chunks that it
//! touches, however much lies above the floor.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use gem_types::{Offset, TimestampMs};

use super::ranges::Ranges;
use crate::entry::Progress;
use crate::log::Mode;

/// How many offsets a chunk row covers.
pub(super) const CHUNK_LEN: u64 = 4096;

/// A group's share in a partition, as the log determines it.
///
/// Invariants: the floor never falls but by a seek; all in `acked`, `attempts`, `delayed` and
/// `moving` is at or above the floor; what is acked is in none of the other three; the floor
/// itself is not acked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupState {
    /// Its mode.
    pub mode: Mode,
    /// The index of the entry that made it: tells apart the lives of a group's name.
    pub life: u64,
    /// How often it was moved by a seek.
    pub seeks: u32,
    /// All below is done.
    pub floor: Offset,
    /// First deliveries may have gone out below this offset. At or above the floor.
    pub frontier: Offset,
    /// Done above the floor: acked, or moved to the dead-letter topic.
    pub acked: Ranges,
    /// How often an offset was handed out, where the log says so.
    pub attempts: BTreeMap<Offset, u32>,
    /// Not to be delivered again before a time.
    pub delayed: BTreeMap<Offset, TimestampMs>,
    /// On their way to the dead-letter topic, out of dispatch: each with the number of its move.
    pub moving: BTreeMap<Offset, u64>,
    /// Moves begun since the group was made: the last one's number.
    pub moves: u64,
    /// Deliveries after the first since the group was made.
    pub redelivered: u64,
    /// Dead letters since the group was made.
    pub dead_lettered: u64,
    /// Messages acked since the group was made.
    pub acked_total: u64,
    pub(super) changed: Changed,
    /// The chunks that have a row, written or about to be.
    pub(super) chunks: BTreeSet<u64>,
}

/// What of a group has to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    pub row: bool,
    pub chunks: BTreeSet<u64>,
}

impl GroupState {
    pub(super) fn new(mode: Mode, start: Offset, life: u64) -> Self {
        let mut state = GroupState { mode, life, floor: start, frontier: start, ..GroupState::default() };
        state.changed.row = true;
        state
    }

    /// Messages stored and neither acked nor dead-lettered, of a partition whose next offset is
    /// `next`. Offsets that hold no message count as acked once dispatch has passed them.
    pub fn lag(&self, next: Offset) -> u64 {
        next.saturating_sub(self.floor).saturating_sub(self.acked.len())
    }

    /// Whether the message at `offset` is done: acked, dead-lettered, or forgotten.
    pub fn is_done(&self, offset: Offset) -> bool {
        offset < self.floor || self.acked.contains(offset)
    }

    /// Takes in what happened, of a partition whose next offset is `next`.
    pub(super) fn progress(&mut self, progress: &Progress, next: Offset) {
        self.changed.row = true;
        if let Some(frontier) = progress.frontier {
            self.frontier = self.frontier.max(frontier);
        }
        self.redelivered += progress.redelivered;
        for &(from, to) in &progress.acked {
            self.acked_total += self.finish(from..to.min(next));
        }
        for &(offset, attempts) in &progress.attempts {
            if self.is_open(offset, next) {
                let known = self.attempts.entry(offset).or_default();
                *known = attempts.max(*known);
                // It is out again: the wait is over.
                self.delayed.remove(&offset);
                self.touch(offset);
            }
        }
        for &(offset, due_ms) in &progress.delayed {
            if self.is_open(offset, next) && !self.moving.contains_key(&offset) {
                self.delayed.insert(offset, due_ms);
                self.touch(offset);
            }
        }
        self.take_out(&progress.moving, next);
        self.bury(&progress.moved, next);
        self.raise_floor(self.floor);
    }

    /// Moves the floor to `offset`, forth or back. How often a message above it was handed out
    /// stays known, so that its delivery count does not fall.
    pub(super) fn seek(&mut self, offset: Offset) {
        self.changed.row = true;
        self.seeks = self.seeks.wrapping_add(1);
        let acked: Vec<Range<Offset>> = self.acked.iter().collect();
        acked.into_iter().for_each(|range| self.touch_all(range));
        let delayed: Vec<Offset> = std::mem::take(&mut self.delayed).into_keys().collect();
        delayed.into_iter().for_each(|offset| self.touch(offset));
        self.acked.clear();
        self.floor = offset;
        self.frontier = offset;
        self.forget_below_floor();
    }

    /// Raises the floor to `earliest` at least, past all that is acked there, and forgets what
    /// lies below.
    pub(super) fn raise_floor(&mut self, earliest: Offset) {
        let floor = self.floor.max(earliest);
        let floor = self.acked.around(floor).map_or(floor, |around| around.end);
        if floor > self.floor {
            self.changed.row = true;
            self.floor = floor;
            self.frontier = self.frontier.max(floor);
            self.forget_below_floor();
        }
    }

    /// A chunk's row always says what the state says, however many entries one write covers: so
    /// the rows of chunks below the floor go, and the one that the floor cuts is written anew.
    fn forget_below_floor(&mut self) {
        self.acked.remove_below(self.floor);
        self.attempts = split_off(&mut self.attempts, self.floor);
        self.delayed = split_off(&mut self.delayed, self.floor);
        self.moving = self.moving.split_off(&self.floor);
        self.changed.chunks.extend(self.chunks.range(..=self.floor / CHUNK_LEN));
    }

    /// Whether `offset` is at or above the floor, below `next`, and not done.
    pub(super) fn is_open(&self, offset: Offset, next: Offset) -> bool {
        offset < next && !self.is_done(offset)
    }

    /// Makes what of `range` is at or above the floor done; answers how many were not before.
    pub(super) fn finish(&mut self, range: Range<Offset>) -> u64 {
        let from = range.start.max(self.floor);
        if from >= range.end {
            return 0;
        }
        let mut count = 0;
        for new in self.acked.insert(from..range.end) {
            count += new.end - new.start;
            remove_range(&mut self.attempts, new.clone());
            remove_range(&mut self.delayed, new.clone());
            remove_range(&mut self.moving, new.clone());
            self.touch_all(new);
        }
        count
    }

    pub(super) fn touch(&mut self, offset: Offset) {
        self.changed.chunks.insert(offset / CHUNK_LEN);
    }

    fn touch_all(&mut self, range: Range<Offset>) {
        if !range.is_empty() {
            self.changed.chunks.extend(range.start / CHUNK_LEN..=(range.end - 1) / CHUNK_LEN);
        }
    }
}

/// What of `map` is at or above `floor`; moves nothing where nothing is below.
fn split_off<V>(map: &mut BTreeMap<Offset, V>, floor: Offset) -> BTreeMap<Offset, V> {
    match map.first_key_value() {
        Some((first, _)) if *first < floor => map.split_off(&floor),
        _ => std::mem::take(map),
    }
}

fn remove_range<V>(map: &mut BTreeMap<Offset, V>, range: Range<Offset>) {
    let keys: Vec<Offset> = map.range(range).map(|(offset, _)| *offset).collect();
    for key in keys {
        map.remove(&key);
    }
}
