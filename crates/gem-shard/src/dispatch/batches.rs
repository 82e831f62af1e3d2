//! The batches that a group has at hand, and the fetches that bring them.

use std::collections::BTreeMap;
use std::sync::Arc;

use gem_types::Offset;
use gem_types::batch::RecordBatch;

use super::actions::FetchId;

/// The most fetches of single messages under way, for redeliveries and dead letters.
const SINGLE_MAX: usize = 4;
/// After a fetch that brought nothing, none is made for so long, in milliseconds.
const RETRY_MS: u64 = 50;

/// A batch at hand.
pub(super) struct Cached {
    /// Shared with every delivery of it.
    pub batch: Arc<RecordBatch>,
    /// Its records' keys, in mode `key`.
    pub keys: Box<[u64]>,
}

impl Cached {
    fn bytes(&self) -> usize {
        self.batch.len() + 8 * self.keys.len() + 128
    }
}

/// A group's batches at hand.
#[derive(Default)]
pub(super) struct Batches {
    /// By base offset.
    map: BTreeMap<Offset, Cached>,
    bytes: usize,
    /// Where the next fetch ahead begins: all from the cursor to here was brought.
    ahead: Offset,
    /// How many messages the last fetch ahead brought.
    last_run: u64,
    /// The fetch ahead that is under way.
    running: Option<FetchId>,
    /// Fetches of single messages under way.
    singles: Vec<(FetchId, Offset)>,
    retry_ms: u64,
}

/// What a fetch was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Ahead(Offset),
    Single(Offset),
}

impl Batches {
    /// The batch that holds `offset`.
    pub fn at(&self, offset: Offset) -> Option<&Cached> {
        let (_, cached) = self.map.range(..=offset).next_back()?;
        (offset < cached.batch.next_offset()).then_some(cached)
    }

    pub fn insert(&mut self, cached: Cached) {
        self.bytes += cached.bytes();
        if let Some(old) = self.map.insert(cached.batch.base_offset(), cached) {
            self.bytes -= old.bytes();
        }
    }

    /// Where the next fetch ahead of `cursor` is to begin, if one is due for `wanted` messages
    /// below `limit`.
    pub fn want_ahead(&self, cursor: Offset, limit: Offset, wanted: u64, now_ms: u64) -> Option<Offset> {
        let from = self.ahead.max(cursor);
        let low = from - cursor < wanted.max(self.last_run / 2 + 1);
        (self.running.is_none() && now_ms >= self.retry_ms && from < limit && low).then_some(from)
    }

    /// Whether `offset` is to be fetched by itself.
    pub fn want_single(&self, offset: Offset, now_ms: u64) -> bool {
        now_ms >= self.retry_ms
            && self.singles.len() < SINGLE_MAX
            && self.at(offset).is_none()
            && self.singles.iter().all(|(_, wanted)| *wanted != offset)
    }

    pub fn begin_ahead(&mut self, id: FetchId, from: Offset) {
        self.running = Some(id);
        self.ahead = from;
    }

    pub fn begin_single(&mut self, id: FetchId, offset: Offset) {
        self.singles.push((id, offset));
    }

    /// A fetch ended; answers what it was for, unless it was forgotten.
    pub fn finish(&mut self, id: FetchId) -> Option<Purpose> {
        if self.running == Some(id) {
            self.running = None;
            return Some(Purpose::Ahead(self.ahead));
        }
        let index = self.singles.iter().position(|(single, _)| *single == id)?;
        Some(Purpose::Single(self.singles.swap_remove(index).1))
    }

    /// A fetch ahead brought everything up to `next`.
    pub fn brought(&mut self, next: Offset) {
        self.last_run = next.saturating_sub(self.ahead);
        self.ahead = self.ahead.max(next);
    }

    /// A fetch brought nothing: wait a little before the next.
    pub fn back_off(&mut self, now_ms: u64) {
        self.retry_ms = now_ms.saturating_add(RETRY_MS);
    }

    pub fn is_fetching(&self) -> bool {
        self.running.is_some() || !self.singles.is_empty()
    }

    /// When a fetch may be tried again.
    pub fn next_deadline(&self, now_ms: u64) -> Option<u64> {
        (self.retry_ms > now_ms).then_some(self.retry_ms)
    }

    /// Drops batches behind the cursor that nobody needs, the oldest first, until `keep` bytes
    /// are left of all.
    pub fn trim(&mut self, cursor: Offset, keep: usize, needed: impl Fn(Offset, Offset) -> bool) {
        let mut from = 0;
        while self.bytes > keep {
            let Some((base, cached)) = self.map.range(from..cursor).next() else { return };
            let (base, next, bytes) = (*base, cached.batch.next_offset(), cached.bytes());
            if next > cursor {
                return;
            }
            if !needed(base, next) {
                self.map.remove(&base);
                self.bytes -= bytes;
            }
            from = next.max(base + 1);
        }
    }

    /// Drops everything, and forgets the fetches under way.
    pub fn clear(&mut self) {
        *self = Batches { retry_ms: self.retry_ms, ..Batches::default() };
    }

    /// What is at hand, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
