//! Clients' own message ids, for as long as the topic's window says.
//!
//! The rows hold, per batch, the digests of (key, id) of its records; memory holds all of them
//! again, by digest, for lookup. Only an entry evicts, whole batches at a time: nothing is
//! forgotten early, and the verdicts refuse new ids when [`Ids::bytes`] reaches its bound.

use std::collections::BTreeMap;

use gem_store::StoreError;
use gem_types::{Offset, PartitionId, TimestampMs};

use super::keys;
use super::overlay::Overlay;
use super::rows::IdsRow;
use super::tables::{TableRow, damaged, decode, encode};
use crate::entry::Malformed;

/// What a remembered id costs in memory, about: digest, offset, and the tree around them.
pub const ID_BYTES: u64 = 48;

/// All ids that the shard remembers.
#[derive(Debug, Default)]
pub(super) struct Ids {
    partitions: BTreeMap<PartitionId, PartitionIds>,
    count: u64,
}

#[derive(Debug)]
struct PartitionIds {
    offsets: BTreeMap<[u8; 16], Offset>,
    /// The append time of the oldest batch with ids.
    oldest_ms: TimestampMs,
}

impl Ids {
    pub fn open(store: &Overlay) -> Result<Ids, StoreError> {
        let mut ids = Ids::default();
        let (from, to) = keys::table(keys::IDS);
        store.each(&from, &to, |key, row| {
            let (partition, base) =
                keys::partition_of(key).zip(keys::number_of(key)).ok_or_else(|| damaged(Malformed("ids key"), key))?;
            ids.remember(partition, base, &decode::<IdsRow>(row)?);
            Ok(true)
        })?;
        Ok(ids)
    }

    /// What all ids cost in memory, about.
    pub fn bytes(&self) -> u64 {
        self.count * ID_BYTES
    }

    pub fn find(&self, partition: PartitionId, digest: &[u8; 16]) -> Option<Offset> {
        self.partitions.get(&partition)?.offsets.get(digest).copied()
    }

    /// Remembers the ids of a batch, in memory and in its row.
    pub fn add(&mut self, store: &mut Overlay, partition: PartitionId, base: Offset, row: IdsRow) {
        if !row.ids.is_empty() {
            store.put(IdsRow::key(&(partition, base)), encode(&row));
            self.remember(partition, base, &row);
        }
    }

    fn remember(&mut self, partition: PartitionId, base: Offset, row: &IdsRow) {
        let ids = self
            .partitions
            .entry(partition)
            .or_insert_with(|| PartitionIds { offsets: BTreeMap::new(), oldest_ms: row.at_ms });
        for (digest, index) in &row.ids {
            let offset = base.saturating_add((*index).into());
            self.count += u64::from(ids.offsets.insert(*digest, offset).is_none());
        }
    }

    /// Forgets the ids of batches stored before `before_ms`; answers how many.
    pub fn expire(
        &mut self,
        store: &mut Overlay,
        partition: PartitionId,
        before_ms: TimestampMs,
    ) -> Result<u64, StoreError> {
        let Some(ids) = self.partitions.get_mut(&partition) else { return Ok(0) };
        let (from, to) = keys::partition_range(keys::IDS, partition);
        let mut end = to.clone();
        let (mut forgotten, mut oldest_ms) = (0, None);
        store.each(&from, &to, |key, bytes| {
            let row: IdsRow = decode(bytes)?;
            let base = keys::base_of(key).ok_or_else(|| damaged(Malformed("ids key"), key))?;
            if row.at_ms >= before_ms {
                end = key.clone();
                oldest_ms = Some(row.at_ms);
                return Ok(false);
            }
            for (digest, index) in &row.ids {
                // An id that was stored again since then points elsewhere.
                if ids.offsets.get(digest) == Some(&base.saturating_add((*index).into())) {
                    ids.offsets.remove(digest);
                    forgotten += 1;
                }
            }
            Ok(true)
        })?;
        match oldest_ms {
            Some(oldest_ms) => ids.oldest_ms = oldest_ms,
            None => drop(self.partitions.remove(&partition)),
        }
        self.count = self.count.saturating_sub(forgotten);
        store.clear(from, end)?;
        Ok(forgotten)
    }

    pub fn remove_partition(&mut self, store: &mut Overlay, partition: PartitionId) -> Result<(), StoreError> {
        let removed = self.partitions.remove(&partition).map_or(0, |ids| ids.offsets.len() as u64);
        self.count = self.count.saturating_sub(removed);
        let (from, to) = keys::partition_range(keys::IDS, partition);
        store.clear(from, to)
    }

    /// Partitions with ids after `cursor`, at most `limit`, and the time of the oldest id of each.
    pub fn oldest(&self, cursor: Option<PartitionId>, limit: usize) -> Vec<(PartitionId, TimestampMs)> {
        let from = cursor.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let rest = self.partitions.range((from, std::ops::Bound::Unbounded));
        rest.take(limit).map(|(partition, ids)| (*partition, ids.oldest_ms)).collect()
    }
}
