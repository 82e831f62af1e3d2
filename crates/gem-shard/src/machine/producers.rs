//! Numbered producers: which of their numbers are stored where (RIFL, Lee et al., SOSP 2015).
//!
//! A producer says below which number all is settled; only the numbers above are remembered.
//! Producers idle for long are expired by an entry, which raises the partition's *producer
//! frontier*: an unknown producer made before it may be one that was forgotten, and is refused.

use gem_store::StoreError;
use gem_types::{Offset, PartitionId, ProducerId, TimestampMs};

use super::rows::{Partition, Producer, Run, producer_of};
use super::tables::{damaged, decode};
use super::{Machine, Outcome, keys, no_partition};
use crate::entry::{Malformed, Number};

/// Whether `producer` is the mesh's own: it numbers nothing in order, and never expires.
pub fn is_internal(producer: ProducerId) -> bool {
    producer.0 < 0
}

impl Producer {
    /// Where `number` is stored, if it is remembered.
    pub fn find(&self, number: u64) -> Option<Offset> {
        let after = self.runs.partition_point(|run| run.number <= number);
        let run = self.runs.get(after.checked_sub(1)?)?;
        let within = number - run.number;
        (within < run.count).then(|| run.offset + within)
    }

    /// How many numbers are remembered.
    pub fn held(&self) -> u64 {
        self.runs.iter().map(|run| run.count).sum()
    }

    /// Remembers that `number` is stored at `offset`.
    pub(super) fn add(&mut self, number: u64, offset: Offset) {
        self.last = self.last.max(number);
        if number < self.settled || self.find(number).is_some() {
            return;
        }
        let at = self.runs.partition_point(|run| run.number < number);
        if let Some(before) = at.checked_sub(1).and_then(|before| self.runs.get_mut(before))
            && before.number + before.count == number
            && before.offset + before.count == offset
        {
            before.count += 1;
        } else {
            self.runs.insert(at, Run { number, offset, count: 1 });
        }
    }

    /// Forgets all below `settled`.
    pub(super) fn settle(&mut self, settled: u64) {
        if settled <= self.settled {
            return;
        }
        self.settled = settled;
        self.runs.retain_mut(|run| {
            let gone = settled.saturating_sub(run.number).min(run.count);
            run.number += gone;
            run.offset += gone;
            run.count -= gone;
            run.count > 0
        });
    }
}

impl Partition {
    /// Notes that a producer stored something at `now_ms`.
    fn saw_producer(&mut self, producer: ProducerId, now_ms: TimestampMs) {
        if !is_internal(producer) {
            self.producers_seen_ms = Some(self.producers_seen_ms.map_or(now_ms, |seen| seen.min(now_ms)));
        }
    }
}

impl Machine {
    /// What `partition` remembers of `producer`.
    pub fn producer(&mut self, partition: PartitionId, producer: ProducerId) -> Result<Option<&Producer>, StoreError> {
        self.producers.get(&self.rows, &(partition, producer))
    }

    /// Remembers where a producer's numbers are stored. The partition is there.
    pub(super) fn remember_numbers(
        &mut self,
        (partition, producer): (PartitionId, ProducerId),
        now_ms: TimestampMs,
        settled: u64,
        placed: impl Iterator<Item = (u64, Offset)>,
    ) -> Result<(), StoreError> {
        let key = (partition, producer);
        if self.producers.get(&self.rows, &key)?.is_none() {
            self.producers.insert(key, Producer::default());
        }
        if let Some(row) = self.producers.get_mut(&self.rows, &key)? {
            row.settle(settled);
            placed.for_each(|(number, offset)| row.add(number, offset));
            row.seen_ms = row.seen_ms.max(now_ms);
        }
        if let Some(partition) = self.partitions.get_mut(&self.rows, &partition)? {
            partition.saw_producer(producer, now_ms);
        }
        Ok(())
    }

    pub(super) fn apply_number(&mut self, now_ms: TimestampMs, number: &Number) -> Result<Outcome, StoreError> {
        if self.partitions.get(&self.rows, &number.partition)?.is_none() {
            return Ok(Outcome::Refused(no_partition(number.partition)));
        }
        let who = (number.partition, number.producer);
        self.remember_numbers(who, now_ms, number.settled, number.placed.iter().copied())?;
        Ok(Outcome::Numbered)
    }

    pub(super) fn apply_expire_producers(
        &mut self,
        partition: PartitionId,
        before_ms: TimestampMs,
    ) -> Result<Outcome, StoreError> {
        self.producers.write_back(&mut self.rows);
        let (from, to) = keys::partition_range(keys::PRODUCERS, partition);
        let (mut expired, mut seen_ms, mut frontier_ms) = (Vec::new(), None::<TimestampMs>, before_ms);
        self.rows.each(&from, &to, |key, bytes| {
            let producer = producer_of(key).ok_or_else(|| damaged(Malformed("producer key"), key))?;
            let row: Producer = decode(bytes)?;
            if is_internal(producer) {
                return Ok(true);
            }
            if row.seen_ms < before_ms {
                // By a clock that runs ahead it may seem to be younger than its last batch.
                frontier_ms = frontier_ms.max(producer.created_ms().map_or(before_ms, |made_ms| made_ms + 1));
                expired.push(producer);
            } else {
                seen_ms = Some(seen_ms.map_or(row.seen_ms, |seen| seen.min(row.seen_ms)));
            }
            Ok(true)
        })?;
        let Some(row) = self.partitions.get_mut(&self.rows, &partition)? else {
            return Ok(Outcome::Refused(no_partition(partition)));
        };
        row.producers_seen_ms = seen_ms;
        if !expired.is_empty() {
            row.producer_frontier_ms = row.producer_frontier_ms.max(frontier_ms);
        }
        for producer in &expired {
            self.producers.remove(&mut self.rows, &(partition, *producer));
        }
        Ok(Outcome::Expired { partition, count: expired.len() as u64 })
    }

    pub(super) fn remove_producers(&mut self, partition: PartitionId) -> Result<(), StoreError> {
        self.producers.forget(&(partition, ProducerId(i64::MIN)), &(partition, ProducerId(i64::MAX)));
        let (from, to) = keys::partition_range(keys::PRODUCERS, partition);
        self.rows.clear(from, to)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::tables::TableRow;
    use super::*;

    proptest! {
        #[test]
        fn a_producer_is_a_map(steps in prop::collection::vec((0u64..40, 0u64..100, any::<bool>()), 0..60)) {
            let mut producer = Producer::default();
            let mut model = BTreeMap::new();
            let mut settled = 0;
            for (number, offset, settle) in steps {
                if settle && number > settled {
                    settled = number;
                    producer.settle(settled);
                    model = model.split_off(&settled);
                } else if number >= settled {
                    producer.add(number, offset);
                    model.entry(number).or_insert(offset);
                }
                for number in 0..42 {
                    prop_assert_eq!(producer.find(number), model.get(&number).copied());
                }
                prop_assert_eq!(producer.held(), model.len() as u64);
            }
        }
    }

    #[test]
    fn producer_keys_sort_as_producers() {
        let key = |id| Producer::key(&(PartitionId([1; 16]), ProducerId(id)));
        assert!(key(i64::MIN) < key(-1) && key(-1) < key(0) && key(0) < key(i64::MAX));
        assert_eq!(producer_of(&key(-7)), Some(ProducerId(-7)));
    }
}
