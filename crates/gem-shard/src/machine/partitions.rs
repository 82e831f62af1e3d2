//! Partitions: appends, cuts, and where reading starts.

use gem_store::StoreError;
use gem_store::index::locations::Location;
use gem_types::{Error, Offset, PartitionId, TimestampMs};

use super::rows::{BatchRow, IdsRow, Partition};
use super::tables::{TableRow, damaged, decode, encode};
use super::{Machine, Outcome, keys};
use crate::entry::{AppendBatch, Malformed};
use crate::log::From;

pub(crate) fn no_partition(partition: PartitionId) -> Error {
    Error::not_found(format!("there is no partition {partition} here: its topic was deleted, or it lies elsewhere"))
}

impl Machine {
    /// The partition `id`, if this shard holds it.
    pub fn partition(&mut self, id: PartitionId) -> Result<Option<&Partition>, StoreError> {
        self.partitions.get(&self.rows, &id)
    }

    /// Where a client's id, as the digest of (key, id), is stored in `partition`.
    pub fn dedup(&self, partition: PartitionId, digest: &[u8; 16]) -> Option<Offset> {
        self.ids.find(partition, digest)
    }

    /// What all remembered ids cost in memory, about, in bytes.
    pub fn ids_bytes(&self) -> u64 {
        self.ids.bytes()
    }

    /// The offset at which `from` begins in a partition; within what is retained, its end
    /// included. A time is answered by the first batch at or after it.
    pub fn resolve(&mut self, id: PartitionId, from: From) -> Result<Option<Offset>, StoreError> {
        let Some(partition) = self.partitions.get(&self.rows, &id)? else { return Ok(None) };
        let (earliest, next, number) = (partition.earliest, partition.next, partition.number);
        Ok(Some(match from {
            From::Earliest => earliest,
            From::Latest => next,
            From::At(of, offset) if of == number => offset.clamp(earliest, next),
            From::At(..) => earliest,
            From::Time(at_ms) => self.first_at(id, at_ms, next)?.unwrap_or(next).clamp(earliest, next),
        }))
    }

    /// The base offset of the first batch stored at or after `at_ms`. Times never fall from batch
    /// to batch, so a search by halves finds it.
    fn first_at(&self, id: PartitionId, at_ms: TimestampMs, next: Offset) -> Result<Option<Offset>, StoreError> {
        let (_, end) = keys::partition_range(keys::BATCHES, id);
        let mut found = None;
        let (mut low, mut high) = (0, next);
        while low < high {
            let middle = low + (high - low) / 2;
            let rows = self.rows.scan(&keys::numbered(keys::BATCHES, id, middle), &end, 1)?;
            match rows.first() {
                Some((key, row)) if decode::<BatchRow>(row)?.at_ms < at_ms => low = base_of(key)? + 1,
                Some((key, _)) => {
                    found = Some(base_of(key)?);
                    high = middle;
                }
                None => high = middle,
            }
        }
        Ok(found)
    }

    pub(super) fn apply_append(
        &mut self,
        now_ms: TimestampMs,
        append: &AppendBatch,
        location: Option<Location>,
    ) -> Result<Outcome, StoreError> {
        let (id, batch) = (append.partition, &append.batch);
        let Some(partition) = self.partitions.get_mut(&self.rows, &id)? else {
            return Ok(Outcome::Refused(no_partition(id)));
        };
        if partition.sealed_at.is_some() {
            return Ok(Outcome::Refused(Error::unavailable(format!("partition {id} is sealed: route again"), 0)));
        }
        let (base, next, at_ms) = (batch.base_offset(), batch.next_offset(), batch.max_timestamp_ms());
        if base != partition.next || next <= base {
            let expected = partition.next;
            self.mismatches += 1;
            return Ok(Outcome::Mismatch { partition: id, expected, found: base });
        }
        if partition.messages == 0 {
            partition.first_ms = at_ms;
        }
        partition.last_ms = partition.last_ms.max(at_ms);
        partition.next = next;
        partition.messages += next - base;
        partition.bytes += batch.len() as u64;

        let row = BatchRow { count: batch.count(), at_ms, bytes: batch.len() as u64 };
        self.rows.put(BatchRow::key(&(id, base)), encode(&row));
        if let Some(location) = location {
            self.locations.put_new(id, base, location);
        }
        let ids = (0..).zip(&append.dedup).filter_map(|(index, digest)| Some(((*digest)?, index))).collect();
        self.ids.add(&mut self.rows, id, base, IdsRow { at_ms, ids });
        if let Some(producer) = &append.producer {
            let placed = producer.numbers.iter().copied().zip(base..next);
            self.remember_numbers((id, producer.producer), now_ms, producer.settled, placed)?;
        }
        Ok(Outcome::Appended { partition: id, base, next })
    }

    /// Forgets what lies below `before`. Batches go whole; `earliest` may stay within one.
    pub(super) fn apply_trim(&mut self, id: PartitionId, before: Offset) -> Result<Outcome, StoreError> {
        let Some(partition) = self.partitions.get(&self.rows, &id)? else {
            return Ok(Outcome::Refused(no_partition(id)));
        };
        let (old, next) = (partition.earliest, partition.next);
        let earliest = before.clamp(old, next);
        if earliest == old {
            return Ok(Outcome::Trimmed { partition: id, earliest });
        }
        let cut = self.cut_batches(id, earliest, next)?;
        let Some(partition) = self.partitions.get_mut(&self.rows, &id)? else {
            return Ok(Outcome::Refused(no_partition(id)));
        };
        partition.earliest = earliest;
        partition.messages = next - earliest;
        partition.bytes = cut.bytes_left.unwrap_or(partition.bytes.saturating_sub(cut.bytes));
        partition.first_ms = cut.first_ms.unwrap_or(partition.last_ms);
        self.locations.remove_below(id, cut.first)?;
        for group in self.groups.names(&mut self.rows, id)? {
            if let Some(group) = self.groups.get_mut(&self.rows, &(id, group))? {
                group.raise_floor(earliest);
            }
        }
        Ok(Outcome::Trimmed { partition: id, earliest })
    }

    /// Removes the rows of batches that end at or below `earliest`.
    fn cut_batches(&mut self, id: PartitionId, earliest: Offset, next: Offset) -> Result<Cut, StoreError> {
        let (from, to) = keys::partition_range(keys::BATCHES, id);
        if earliest == next {
            self.rows.clear(from, to)?;
            return Ok(Cut { first: next, bytes: 0, bytes_left: Some(0), first_ms: None });
        }
        let mut cut = Cut { first: next, bytes: 0, bytes_left: None, first_ms: None };
        let mut end = to.clone();
        self.rows.each(&from, &to, |key, row| {
            let (base, row) = (base_of(key)?, decode::<BatchRow>(row)?);
            if base.saturating_add(row.count.into()) > earliest {
                (cut.first, cut.first_ms, end) = (base, Some(row.at_ms), key.clone());
                return Ok(false);
            }
            cut.bytes += row.bytes;
            Ok(true)
        })?;
        self.rows.clear(from, end)?;
        Ok(cut)
    }

    /// The first offset to keep so that nothing stored before `before_ms` and no more than
    /// `bytes_max` bytes are left, looking at `limit` batches at the most; whole batches only.
    pub(super) fn cut_for(
        &self,
        id: PartitionId,
        bytes: u64,
        (before_ms, bytes_max): (TimestampMs, u64),
        limit: usize,
    ) -> Result<Option<Offset>, StoreError> {
        let (from, to) = keys::partition_range(keys::BATCHES, id);
        let (mut left, mut before) = (bytes, None);
        for (key, row) in self.rows.scan(&from, &to, limit)? {
            let row: BatchRow = decode(&row)?;
            if row.at_ms >= before_ms && left <= bytes_max {
                break;
            }
            left = left.saturating_sub(row.bytes);
            before = Some(base_of(&key)?.saturating_add(row.count.into()));
        }
        Ok(before)
    }
}

/// What a trim removed and left.
struct Cut {
    /// The base offset of the first batch left.
    first: Offset,
    /// Bytes removed.
    bytes: u64,
    /// Bytes left, where that is known without counting.
    bytes_left: Option<u64>,
    /// The time of the first batch left.
    first_ms: Option<TimestampMs>,
}

fn base_of(key: &[u8]) -> Result<Offset, StoreError> {
    keys::base_of(key).ok_or_else(|| damaged(Malformed("batch key"), key))
}
