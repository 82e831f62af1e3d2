//! The tail cache: the most recent batches, for readers that keep up.
//!
//! Bounded by the node's budget and a bound of its own; the batch that was put in first is evicted
//! first, whoever reads it, because readers of the tail move on. A batch's bytes are shared with
//! whoever holds it; the charge is its encoded length. A missing batch costs a read from the disk,
//! nothing else.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use gem_types::batch::RecordBatch;
use gem_types::{Offset, PartitionId};

use crate::budget::{Budget, Charge, Class, Shrink};

/// What an entry costs beside its bytes.
const OVERHEAD: u64 = 192;

type Key = (PartitionId, Offset);

/// Recent batches by (partition, base offset). One for all shards of a node.
#[derive(Debug)]
pub struct TailCache {
    budget: Budget,
    bound: u64,
    inner: Mutex<Inner>,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    batches: BTreeMap<Key, Kept>,
    /// Keys by age, each with the number it was put in under: a stale pair is skipped.
    ages: VecDeque<(Key, u64)>,
    next: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Kept {
    batch: RecordBatch,
    number: u64,
    charge: Charge,
}

impl TailCache {
    /// A cache of at most `bound` bytes of `budget`, which may push it out.
    pub fn new(budget: Budget, bound: u64) -> Arc<TailCache> {
        let cache = Arc::new(TailCache {
            budget: budget.clone(),
            bound,
            inner: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        });
        let weak: Weak<TailCache> = Arc::downgrade(&cache);
        budget.register_cache(weak);
        cache
    }

    /// Keeps `batch`, evicting older ones; does nothing where the budget has no room even so.
    pub fn put(&self, partition: PartitionId, batch: RecordBatch) {
        let bytes = batch.len() as u64 + OVERHEAD;
        if bytes > self.bound {
            return;
        }
        let key = (partition, batch.base_offset());
        let mut inner = self.lock();
        inner.remove(&key);
        while inner.bytes + bytes > self.bound && inner.evict() {}
        // The tail class never calls shrink hooks, so this lock is not taken twice.
        let charge = loop {
            match self.budget.try_charge(Class::TailCache, bytes) {
                Some(charge) => break charge,
                None if inner.evict() => {}
                None => return,
            }
        };
        let number = inner.next;
        inner.next += 1;
        inner.bytes += bytes;
        inner.ages.push_back((key, number));
        inner.batches.insert(key, Kept { batch, number, charge });
    }

    /// The batch that holds `offset`.
    pub fn get(&self, partition: PartitionId, offset: Offset) -> Option<RecordBatch> {
        let found = {
            let inner = self.lock();
            let last = inner.batches.range((partition, 0)..=(partition, offset)).next_back();
            last.filter(|(_, kept)| kept.batch.last_offset() >= offset).map(|(_, kept)| kept.batch.clone())
        };
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Forgets the batches of `partition` whose last offset is below `offset`.
    pub fn forget_below(&self, partition: PartitionId, offset: Offset) {
        let mut inner = self.lock();
        let below = inner.batches.range((partition, 0)..(partition, offset));
        let gone: Vec<Key> = below.filter(|(_, kept)| kept.batch.last_offset() < offset).map(|(key, _)| *key).collect();
        gone.iter().for_each(|key| inner.remove(key));
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// Reads answered here, and reads that were not, since the start.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // At worst an entry is counted that is not there: a cache that is a little too small.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn remove(&mut self, key: &Key) {
        if let Some(kept) = self.batches.remove(key) {
            self.bytes -= kept.charge.bytes();
        }
        // What was removed out of turn leaves its age behind: clear them away before they pile up.
        if self.ages.len() > 2 * self.batches.len() + 64 {
            let batches = &self.batches;
            self.ages.retain(|(key, number)| batches.get(key).is_some_and(|kept| kept.number == *number));
        }
    }

    /// Evicts the oldest batch; `false` where there is none.
    fn evict(&mut self) -> bool {
        while let Some((key, number)) = self.ages.pop_front() {
            if self.batches.get(&key).is_some_and(|kept| kept.number == number) {
                self.remove(&key);
                return true;
            }
        }
        false
    }
}

impl Shrink for TailCache {
    fn shrink(&self, bytes: u64) {
        let mut inner = self.lock();
        let target = inner.bytes.saturating_sub(bytes);
        while inner.bytes > target && inner.evict() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_batches::batch;

    const P: PartitionId = PartitionId([1; 16]);
    const Q: PartitionId = PartitionId([2; 16]);

    #[test]
    fn the_oldest_goes_first_and_requests_push_out() {
        let one = batch(0, 10, 1000);
        let each = one.len() as u64 + OVERHEAD;
        let budget = Budget::new(10 * each, &[]);
        let cache = TailCache::new(budget.clone(), 4 * each);
        for n in 0..6 {
            cache.put(P, batch(n * 10, 10, 1000));
        }
        cache.put(Q, batch(5, 10, 1000));
        assert_eq!(cache.bytes(), 4 * each);
        assert!(cache.get(P, 29).is_none());
        assert_eq!(cache.get(P, 39).unwrap().base_offset(), 30);
        assert_eq!(cache.get(Q, 5).unwrap().base_offset(), 5);
        assert!(cache.get(Q, 15).is_none() && cache.get(Q, 4).is_none() && cache.get(P, 60).is_none());
        assert_eq!(cache.hits_and_misses(), (2, 4));

        let request = budget.try_charge(Class::Requests, 8 * each).unwrap();
        assert_eq!(cache.bytes(), 2 * each);
        cache.put(P, batch(60, 10, 1000));
        assert_eq!(cache.bytes(), 2 * each, "a cache takes the place of its own, not of others");
        drop(request);
        cache.forget_below(P, 65);
        assert!(cache.get(P, 65).is_some() && cache.get(P, 50).is_none());
        drop(cache);
        assert_eq!(budget.used(), 0);
    }
}
