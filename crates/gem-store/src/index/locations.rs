//! Locations: where this replica keeps each batch, and how many live bytes each file holds.
//!
//! ```text
//! family Locations
//!   0x01 partition(16) base offset(8, BE)   → location row
//!   0x00 kind(1) file(8, BE) generation(8)  → live bytes of that file: version(1) varint
//!
//! location row: version(1) = 1, kind(1), then varints:
//!   kind 0 (journal)  file, generation, position and length of the entry, start and length of the batch in it
//!   kind 1 (object)   object, position, length
//! ```
//!
//! A batch is *live* as long as its row stands. [`Locations`] changes rows and counters together
//! in memory and gives them up as one list of changes, to be written in the same atomic batch as
//! the state that they belong to: so the counters always equal a recount of the rows, whatever
//! the store's last flush was, and a file without a live batch is known without a scan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use gem_types::{Offset, PartitionId};

use super::ordered::{self, Change, Family, OrderedStore};
use super::varint;
use crate::StoreError;
use crate::journal::JournalPlace;

const VERSION: u8 = 1;
const LIVE: u8 = 0;
const ROW: u8 = 1;
const JOURNAL: u8 = 0;
const OBJECT: u8 = 1;
const ROW_KEY_LEN: usize = 25;
/// Rows taken from the store at a time where a range may be long.
const PAGE: usize = 1024;

/// Where a batch lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Location {
    /// Within an entry of the journal.
    Journal {
        /// The entry's payload.
        entry: JournalPlace,
        /// Where in the payload the batch begins, in bytes.
        start: u32,
        /// The batch's encoded length in bytes.
        length: u32,
    },
    /// Within an object.
    Object {
        /// The object's number.
        object: u64,
        /// Where in the object the batch begins, in bytes.
        position: u64,
        /// The batch's encoded length in bytes.
        length: u32,
    },
}

/// A file that batches lie in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Holder {
    /// A journal file under one generation: a recycled file is another holder.
    Journal {
        /// The file's number.
        file: u64,
        /// Which life of it.
        generation: u64,
    },
    /// An object.
    Object(u64),
}

/// A batch that goes from one place to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The batch's partition.
    pub partition: PartitionId,
    /// The batch's base offset.
    pub base: Offset,
    /// Where its row must still point: otherwise the move is void.
    pub from: Location,
    /// Where it points from now on.
    pub to: Location,
}

impl Location {
    /// The batch's encoded length in bytes.
    pub fn length(&self) -> u32 {
        match *self {
            Location::Journal { length, .. } | Location::Object { length, .. } => length,
        }
    }

    /// The file that holds it.
    pub fn holder(&self) -> Holder {
        match *self {
            Location::Journal { entry, .. } => Holder::Journal { file: entry.file, generation: entry.generation },
            Location::Object { object, .. } => Holder::Object(object),
        }
    }

    fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(32);
        out.push(VERSION);
        match *self {
            Location::Journal { entry, start, length } => {
                out.push(JOURNAL);
                for n in
                    [entry.file, entry.generation, entry.position, entry.length.into(), start.into(), length.into()]
                {
                    varint::put(&mut out, n);
                }
            }
            Location::Object { object, position, length } => {
                out.push(OBJECT);
                for n in [object, position, length.into()] {
                    varint::put(&mut out, n);
                }
            }
        }
        out.into()
    }

    fn decode(row: &[u8]) -> Option<Location> {
        let (&[version, kind], mut rest) = row.split_first_chunk()?;
        if version != VERSION {
            return None;
        }
        let rest = &mut rest;
        let location = match kind {
            JOURNAL => Location::Journal {
                entry: JournalPlace {
                    file: varint::take(rest)?,
                    generation: varint::take(rest)?,
                    position: varint::take(rest)?,
                    length: u32::try_from(varint::take(rest)?).ok()?,
                },
                start: u32::try_from(varint::take(rest)?).ok()?,
                length: u32::try_from(varint::take(rest)?).ok()?,
            },
            OBJECT => Location::Object {
                object: varint::take(rest)?,
                position: varint::take(rest)?,
                length: u32::try_from(varint::take(rest)?).ok()?,
            },
            _ => return None,
        };
        rest.is_empty().then_some(location)
    }
}

impl Holder {
    fn key(&self) -> Bytes {
        let (kind, file, generation) = match *self {
            Holder::Journal { file, generation } => (JOURNAL, file, generation),
            Holder::Object(object) => (OBJECT, object, 0),
        };
        let mut key = Vec::with_capacity(18);
        key.extend([LIVE, kind]);
        key.extend(file.to_be_bytes());
        key.extend(generation.to_be_bytes());
        key.into()
    }

    fn of_key(key: &[u8]) -> Option<Holder> {
        let (&[LIVE, kind], rest) = key.split_first_chunk()? else { return None };
        let (file, rest) = rest.split_first_chunk()?;
        let file = u64::from_be_bytes(*file);
        let generation = u64::from_be_bytes(rest.try_into().ok()?);
        match kind {
            JOURNAL => Some(Holder::Journal { file, generation }),
            OBJECT => Some(Holder::Object(file)),
            _ => None,
        }
    }
}

fn row_key(partition: PartitionId, base: Offset) -> Bytes {
    let mut key = Vec::with_capacity(ROW_KEY_LEN);
    key.push(ROW);
    key.extend(partition.0);
    key.extend(base.to_be_bytes());
    key.into()
}

/// The first key after all rows of `partition`.
fn rows_end(partition: PartitionId) -> Bytes {
    let mut key = row_key(partition, Offset::MAX).to_vec();
    key.push(0);
    key.into()
}

fn base_of(key: &[u8]) -> Result<Offset, StoreError> {
    let base = key.get(ROW_KEY_LEN - 8..).and_then(|tail| tail.try_into().ok());
    base.map(Offset::from_be_bytes).ok_or_else(|| damaged("a location's key", key))
}

fn location_of(row: &[u8]) -> Result<Location, StoreError> {
    Location::decode(row).ok_or_else(|| damaged("a location's row", row))
}

fn damaged(what: &str, bytes: &[u8]) -> StoreError {
    StoreError::Damaged { place: "the index's locations".into(), what: format!("{what} reads {bytes:02x?}") }
}

/// The batch at `base` exactly.
pub fn get(store: &dyn OrderedStore, partition: PartitionId, base: Offset) -> Result<Option<Location>, StoreError> {
    store.get(Family::Locations, &row_key(partition, base))?.map(|row| location_of(&row)).transpose()
}

/// The batch with the greatest base offset at or below `offset`: the one that holds `offset`, if
/// any does. (Rows know no last offset: a batch's own head does.)
pub fn find(
    store: &dyn OrderedStore,
    partition: PartitionId,
    offset: Offset,
) -> Result<Option<(Offset, Location)>, StoreError> {
    let to = match offset.checked_add(1) {
        Some(next) => row_key(partition, next),
        None => rows_end(partition),
    };
    let rows = store.scan_back(Family::Locations, &row_key(partition, 0), &to, 1)?;
    rows.first().map(|(key, row)| Ok((base_of(key)?, location_of(row)?))).transpose()
}

/// The batches with base offsets in `from..to`, in order, at most `limit`.
pub fn scan(
    store: &dyn OrderedStore,
    partition: PartitionId,
    from: Offset,
    to: Offset,
    limit: usize,
) -> Result<Vec<(Offset, Location)>, StoreError> {
    let rows = store.scan(Family::Locations, &row_key(partition, from), &row_key(partition, to), limit)?;
    rows.iter().map(|(key, row)| Ok((base_of(key)?, location_of(row)?))).collect()
}

/// Every partition of which there is a batch, in order.
pub fn partitions(store: &dyn OrderedStore) -> Result<Vec<PartitionId>, StoreError> {
    let mut found = Vec::new();
    let mut from = Bytes::from_static(&[ROW]);
    loop {
        let rows = store.scan(Family::Locations, &from, &[ROW + 1], 1)?;
        let Some((key, _)) = rows.first() else { return Ok(found) };
        let id = key.get(1..17).and_then(|id| id.try_into().ok()).ok_or_else(|| damaged("a location's key", key))?;
        let partition = PartitionId(id);
        found.push(partition);
        from = rows_end(partition);
    }
}

/// The live bytes that the shard has in `holder`.
pub fn live_bytes(store: &dyn OrderedStore, holder: Holder) -> Result<u64, StoreError> {
    store.get(Family::Locations, &holder.key())?.map_or(Ok(0), |row| count_of(&row))
}

/// Every file in which the shard has live bytes.
pub fn live_files(store: &dyn OrderedStore) -> Result<BTreeMap<Holder, u64>, StoreError> {
    let mut live = BTreeMap::new();
    let mut from = Bytes::from_static(&[LIVE]);
    loop {
        let rows = store.scan(Family::Locations, &from, &[ROW], PAGE)?;
        for (key, row) in &rows {
            live.insert(Holder::of_key(key).ok_or_else(|| damaged("a counter's key", key))?, count_of(row)?);
        }
        match rows.last() {
            Some((key, _)) if rows.len() == PAGE => from = ordered::after(key),
            _ => return Ok(live),
        }
    }
}

fn count_of(row: &[u8]) -> Result<u64, StoreError> {
    let count = match row.split_first() {
        Some((&VERSION, mut rest)) => varint::take(&mut rest).filter(|_| rest.is_empty()),
        _ => None,
    };
    count.ok_or_else(|| damaged("a counter's row", row))
}

/// A shard's locations with changes that are not yet written.
///
/// Owned by whoever applies the shard's log, who calls [`take_changes`](Self::take_changes) once
/// for each atomic write to the store. Every method sees the pending changes.
#[derive(Debug)]
pub struct Locations {
    store: Arc<dyn OrderedStore>,
    live: BTreeMap<Holder, u64>,
    /// Holders whose counter differs from its row.
    counted: BTreeSet<Holder>,
    /// Rows put since the last write. Bounded by what one write covers.
    put: BTreeMap<(PartitionId, Offset), Location>,
    /// Ranges of base offsets removed since the last write; they precede `put`.
    removed: BTreeMap<PartitionId, (Offset, Offset)>,
}

impl Locations {
    /// The locations in `store`.
    pub fn open(store: Arc<dyn OrderedStore>) -> Result<Locations, StoreError> {
        let live = live_files(&*store)?;
        Ok(Locations { store, live, counted: BTreeSet::new(), put: BTreeMap::new(), removed: BTreeMap::new() })
    }

    /// Sets the location of the batch at `base`. A batch that is there already is replaced.
    pub fn put(&mut self, partition: PartitionId, base: Offset, location: Location) -> Result<(), StoreError> {
        if let Some(old) = self.get(partition, base)? {
            self.count(old.holder(), |live| live.saturating_sub(old.length().into()));
        }
        self.count(location.holder(), |live| live.saturating_add(location.length().into()));
        self.put.insert((partition, base), location);
        Ok(())
    }

    /// As [`put`](Self::put), for a base offset at which there never was a batch: reads nothing.
    pub fn put_new(&mut self, partition: PartitionId, base: Offset, location: Location) {
        self.count(location.holder(), |live| live.saturating_add(location.length().into()));
        let old = self.put.insert((partition, base), location);
        debug_assert!(old.is_none(), "a batch's base offset is its own");
    }

    /// Removes every batch whose base offset is below `base`: pass the base offset of the first
    /// batch that is kept, or the partition's next offset where none is.
    pub fn remove_below(&mut self, partition: PartitionId, base: Offset) -> Result<(), StoreError> {
        let mut from = match self.removed.get(&partition) {
            Some(&(_, removed)) => removed,
            None => match scan(&*self.store, partition, 0, base, 1)?.first() {
                Some(&(first, _)) => first,
                None => base,
            },
        };
        let first = from;
        while from < base {
            let rows = scan(&*self.store, partition, from, base, PAGE)?;
            for &(at, location) in &rows {
                // A row that is put over is counted there already.
                if !self.put.contains_key(&(partition, at)) {
                    self.count(location.holder(), |live| live.saturating_sub(location.length().into()));
                }
            }
            match rows.last() {
                Some(&(last, _)) if rows.len() == PAGE => from = last.saturating_add(1),
                _ => from = base,
            }
        }
        let pending: Vec<_> = self.put.range((partition, 0)..(partition, base)).map(|(key, at)| (*key, *at)).collect();
        for (key, location) in pending {
            self.put.remove(&key);
            self.count(location.holder(), |live| live.saturating_sub(location.length().into()));
        }
        if first < base {
            let range = self.removed.entry(partition).or_insert((first, base));
            range.1 = range.1.max(base);
        }
        Ok(())
    }

    /// Removes every batch of a partition that is deleted.
    pub fn remove_partition(&mut self, partition: PartitionId) -> Result<(), StoreError> {
        self.remove_below(partition, Offset::MAX)
    }

    /// Makes those of `moves` whose row still points to where the batch was found; answers how
    /// many. The others were trimmed or moved meanwhile.
    pub fn repoint(&mut self, moves: &[Move]) -> Result<usize, StoreError> {
        let mut made = 0;
        for one in moves {
            if self.get(one.partition, one.base)? == Some(one.from) {
                self.put(one.partition, one.base, one.to)?;
                made += 1;
            }
        }
        Ok(made)
    }

    /// The batch at `base` exactly, as written or pending.
    pub fn get(&self, partition: PartitionId, base: Offset) -> Result<Option<Location>, StoreError> {
        if let Some(location) = self.put.get(&(partition, base)) {
            return Ok(Some(*location));
        }
        if self.removed.get(&partition).is_some_and(|&(from, to)| (from..to).contains(&base)) {
            return Ok(None);
        }
        get(&*self.store, partition, base)
    }

    /// The live bytes in `holder`.
    pub fn live_bytes(&self, holder: Holder) -> u64 {
        self.live.get(&holder).copied().unwrap_or(0)
    }

    /// Gives up the pending changes: to be written in one batch, in this order.
    pub fn take_changes(&mut self) -> Vec<Change> {
        let mut changes = Vec::with_capacity(self.removed.len() + self.put.len() + self.counted.len());
        for (partition, (from, to)) in std::mem::take(&mut self.removed) {
            let to = if to == Offset::MAX { rows_end(partition) } else { row_key(partition, to) };
            changes.push(Change::DeleteRange(Family::Locations, row_key(partition, from), to));
        }
        for ((partition, base), location) in std::mem::take(&mut self.put) {
            changes.push(Change::Put(Family::Locations, row_key(partition, base), location.encode()));
        }
        for holder in std::mem::take(&mut self.counted) {
            changes.push(match self.live.get(&holder) {
                Some(&live) => {
                    let mut row = vec![VERSION];
                    varint::put(&mut row, live);
                    Change::Put(Family::Locations, holder.key(), row.into())
                }
                None => Change::Delete(Family::Locations, holder.key()),
            });
        }
        changes
    }

    fn count(&mut self, holder: Holder, change: impl FnOnce(u64) -> u64) {
        let live = change(self.live_bytes(holder));
        if live == 0 {
            self.live.remove(&holder);
        } else {
            self.live.insert(holder, live);
        }
        self.counted.insert(holder);
    }
}
