//! The records that a node holds for others.
//!
//! Invariants: one a prefix, the newest; at most [`RECORDS_MAX`], those nearest to this node; each
//! expires unless its publisher says it again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gem_types::{MeshId, Prefix};

use super::key::{Distance, Key};
use super::record::Record;

/// The most records that a node holds for others.
pub const RECORDS_MAX: usize = 16_384;

#[derive(Debug)]
struct Held {
    record: Record,
    distance: Distance,
    until: Duration,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Records {
    mesh: MeshId,
    me: Key,
    limit: usize,
    held: BTreeMap<Prefix, Held>,
    by_distance: BTreeSet<(Distance, Prefix)>,
}

impl Records {
    pub(super) fn new(mesh: MeshId, me: Key, limit: usize) -> Self {
        Records { mesh, me, limit, held: BTreeMap::new(), by_distance: BTreeSet::new() }
    }

    /// Holds `record` until `until`, unless a newer one is held or all held are nearer.
    pub(super) fn put(&mut self, record: Record, until: Duration) {
        let prefix = record.prefix();
        if let Some(held) = self.held.get_mut(&prefix) {
            if !held.record.is_newer_than(&record) {
                held.record = record;
                held.until = held.until.max(until);
            }
            return;
        }
        let distance = self.me.distance(&Key::of_prefix(self.mesh, prefix));
        if self.held.len() >= self.limit {
            match self.by_distance.last().copied() {
                Some((farthest, other)) if farthest > distance => self.remove(other),
                _ => return,
            }
        }
        self.by_distance.insert((distance, prefix));
        self.held.insert(prefix, Held { record, distance, until });
    }

    pub(super) fn get(&self, prefix: Prefix, now: Duration) -> Option<&Record> {
        self.held.get(&prefix).filter(|held| held.until > now).map(|held| &held.record)
    }

    pub(super) fn expire(&mut self, now: Duration) {
        let over: Vec<Prefix> = self.held.iter().filter(|(_, h)| h.until <= now).map(|(p, _)| *p).collect();
        over.into_iter().for_each(|prefix| self.remove(prefix));
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    fn remove(&mut self, prefix: Prefix) {
        if let Some(held) = self.held.remove(&prefix) {
            self.by_distance.remove(&(held.distance, prefix));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(n: u64, epoch: u64) -> Record {
        Record::Internal { prefix: Prefix::new(n << 54, 10).unwrap(), epoch }
    }

    #[test]
    fn the_newest_and_nearest_are_held() {
        let me = Key([3; 32]);
        let mut records = Records::new(MeshId([1; 16]), me, 50);
        let later = Duration::from_secs(10);
        for n in 0..200 {
            records.put(marker(n, 2), later);
            records.put(marker(n, 1), later);
        }
        assert_eq!((records.len(), records.by_distance.len()), (50, 50));
        let mut all: Vec<_> = (0..200).map(|n| marker(n, 2).prefix()).collect();
        all.sort_by_key(|p| me.distance(&Key::of_prefix(MeshId([1; 16]), *p)));
        for prefix in &all[..50] {
            let epoch = 2;
            assert_eq!(records.get(*prefix, Duration::ZERO), Some(&Record::Internal { prefix: *prefix, epoch }));
        }
        assert_eq!(records.get(all[0], later), None);
        records.expire(later);
        assert_eq!((records.len(), records.by_distance.len()), (0, 0));
    }
}
