//! What a replica that takes in a snapshot lacks: batches that the state names and no location
//! holds. Locations are each replica's own and do not travel.

use gem_store::StoreError;
use gem_store::index::locations::Location;
use gem_store::index::ordered;
use gem_types::{Offset, PartitionId};

use super::rows::BatchRow;
use super::tables::{TableRow, damaged, decode};
use super::{Machine, keys};
use crate::entry::Malformed;

/// A run of batches of one partition that are not here: base offsets from `from`, all below `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The partition.
    pub partition: PartitionId,
    /// The base offset of the first batch.
    pub from: Offset,
    /// The offset after the last batch.
    pub to: Offset,
    /// Their encoded bytes.
    pub bytes: u64,
}

/// Rows looked at in one read of the index.
const PAGE: usize = 1024;

impl Machine {
    /// The first run of missing batches at or after `(partition, offset)`, of about `bytes_max`
    /// encoded bytes at the most; `None` where nothing is missing from there on.
    pub fn missing_from(
        &self,
        partition: PartitionId,
        offset: Offset,
        bytes_max: u64,
    ) -> Result<Option<Missing>, StoreError> {
        let (_, end) = keys::table(keys::BATCHES);
        let mut from = BatchRow::key(&(partition, offset));
        let mut found: Option<Missing> = None;
        loop {
            let rows = self.rows.scan(&from, &end, PAGE)?;
            for (key, row) in &rows {
                let bad = || damaged(Malformed("key of a batch"), key);
                let id = keys::partition_of(key).ok_or_else(bad)?;
                let base = keys::base_of(key).ok_or_else(bad)?;
                let row: BatchRow = decode(row)?;
                let is_here = self.locations.get(id, base)?.is_some();
                match &mut found {
                    None if is_here => {}
                    None => {
                        let to = base + u64::from(row.count);
                        found = Some(Missing { partition: id, from: base, to, bytes: row.bytes });
                    }
                    Some(run) if is_here || run.partition != id || run.bytes >= bytes_max => return Ok(found),
                    Some(run) => {
                        run.to = base + u64::from(row.count);
                        run.bytes += row.bytes;
                    }
                }
            }
            match rows.last() {
                Some((last, _)) if rows.len() == PAGE => from = ordered::after(last),
                _ => return Ok(found),
            }
        }
    }

    /// Whether the state names a batch of `count` records at `base` that is not here.
    pub fn lacks(&self, partition: PartitionId, base: Offset, count: u32) -> Result<bool, StoreError> {
        let Some(row) = self.rows.get(&BatchRow::key(&(partition, base)))? else { return Ok(false) };
        let row: BatchRow = decode(&row)?;
        Ok(row.count == count && self.locations.get(partition, base)?.is_none())
    }

    /// Notes where a batch lies that was missing. The next commit writes it.
    pub fn place(&mut self, partition: PartitionId, base: Offset, location: Location) -> Result<(), StoreError> {
        self.check()?;
        self.locations.put(partition, base, location).inspect_err(|error| self.failed = Some(error.clone()))
    }

    /// Forgets the locations of what the state does not name: partitions that are gone, and what
    /// was cut from the others. For a store whose state was replaced.
    pub fn forget_unnamed(&mut self) -> Result<(), StoreError> {
        for partition in gem_store::index::locations::partitions(&**self.store())? {
            let (from, to) = keys::partition_range(keys::BATCHES, partition);
            let first = self.rows.scan(&from, &to, 1)?;
            match first.first().map(|(key, _)| keys::base_of(key).ok_or_else(|| damaged(Malformed("key"), key))) {
                Some(base) => self.locations.remove_below(partition, base?)?,
                None => self.locations.remove_partition(partition)?,
            }
        }
        self.commit()
    }
}
