//! The entries of a group's log that are still needed in memory.
//!
//! An entry enters when it is appended and stays at least until it is applied: so that applying
//! never reads the disk, and an entry that is not yet flushed can be read, as Raft demands. What
//! is applied is kept while there is room, for replicas that lag a little.

use std::collections::VecDeque;

use super::types::{LogId, Payload, RaftEntry, log_id};

/// A run of consecutive entries up to the log's end.
#[derive(Debug)]
pub struct EntryCache {
    entries: VecDeque<Cached>,
    bytes: usize,
    /// Applied entries are kept while all cached ones take no more.
    bytes_kept: usize,
    applied: u64,
}

#[derive(Debug)]
struct Cached {
    term: u64,
    index: u64,
    payload: Payload,
    bytes: usize,
}

impl EntryCache {
    /// An empty cache, for a log that is applied up to `applied`.
    pub fn new(bytes_kept: usize, applied: u64) -> Self {
        EntryCache { entries: VecDeque::new(), bytes: 0, bytes_kept, applied }
    }

    /// Adds an entry at the log's end. One that does not follow the last replaces the run: the
    /// rest is on disk.
    pub fn push(&mut self, id: LogId, payload: Payload, bytes: usize) {
        if self.entries.back().is_some_and(|last| last.index + 1 != id.index) {
            self.truncate_from(id.index);
            if self.entries.back().is_some_and(|last| last.index + 1 != id.index) {
                self.clear();
            }
        }
        self.bytes += bytes;
        self.entries.push_back(Cached { term: id.leader_id.term, index: id.index, payload, bytes });
    }

    /// The entry at `index`.
    pub fn get(&self, index: u64) -> Option<RaftEntry> {
        let first = self.entries.front()?.index;
        let cached = self.entries.get(usize::try_from(index.checked_sub(first)?).ok()?)?;
        Some(RaftEntry { log_id: log_id(cached.term, cached.index), payload: cached.payload.clone() })
    }

    /// Notes that all up to `index` is applied, and lets go of what is above the bound.
    pub fn applied(&mut self, index: u64) {
        self.applied = self.applied.max(index);
        while self.bytes > self.bytes_kept && self.entries.front().is_some_and(|first| first.index <= self.applied) {
            self.pop_front();
        }
    }

    /// Forgets all at or above `index`.
    pub fn truncate_from(&mut self, index: u64) {
        while self.entries.back().is_some_and(|last| last.index >= index) {
            if let Some(gone) = self.entries.pop_back() {
                self.bytes -= gone.bytes;
            }
        }
    }

    /// Forgets all up to `index`.
    pub fn purge(&mut self, index: u64) {
        while self.entries.front().is_some_and(|first| first.index <= index) {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some(gone) = self.entries.pop_front() {
            self.bytes -= gone.bytes;
        }
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache_of(indexes: std::ops::Range<u64>, kept: usize) -> EntryCache {
        let mut cache = EntryCache::new(kept, 0);
        for index in indexes {
            cache.push(log_id(1, index), Payload::Blank, 10);
        }
        cache
    }

    #[test]
    fn what_is_not_applied_stays() {
        let mut cache = cache_of(5..15, 20);
        assert_eq!(cache.get(5).map(|e| e.log_id), Some(log_id(1, 5)));
        assert!(cache.get(4).is_none() && cache.get(15).is_none());
        cache.applied(9);
        assert!(cache.get(9).is_none() && cache.get(10).is_some());
        cache.applied(14);
        assert!(cache.get(12).is_none() && cache.get(13).is_some() && cache.get(14).is_some());
    }

    #[test]
    fn truncation_and_purge_cut_the_ends() {
        let mut cache = cache_of(5..15, 1000);
        cache.truncate_from(10);
        cache.purge(6);
        assert!(cache.get(6).is_none() && cache.get(7).is_some() && cache.get(9).is_some() && cache.get(10).is_none());
        cache.push(log_id(2, 8), Payload::Blank, 10);
        assert_eq!(cache.get(8).map(|e| e.log_id), Some(log_id(2, 8)));
        assert!(cache.get(9).is_none());
        cache.push(log_id(2, 30), Payload::Blank, 10);
        assert!(cache.get(8).is_none() && cache.get(30).is_some());
        assert_eq!(cache.bytes, 10);
    }
}
