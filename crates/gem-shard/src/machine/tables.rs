//! Typed tables: rows read lazily, kept decoded, written back when the machine commits.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use gem_store::StoreError;

use super::overlay::Overlay;
use crate::entry::wire::{Malformed, Reader, Writer};

/// Every row begins with its format's version.
const VERSION: u8 = 1;

/// A row of a table.
pub(super) trait TableRow: Sized {
    /// What identifies it.
    type Key: Ord + Clone;
    /// The table's name in errors.
    const NAME: &'static str;
    /// The key as it is stored; sorts as the keys of one shard must.
    fn key(key: &Self::Key) -> Bytes;
    /// Writes the row's fields.
    fn put(&self, out: &mut Writer);
    /// Reads what [`put`](Self::put) wrote.
    fn take(input: &mut Reader<'_>) -> Result<Self, Malformed>;
}

/// The encoded row.
pub(super) fn encode<R: TableRow>(row: &R) -> Bytes {
    let mut out = Writer::new();
    out.u8(VERSION);
    row.put(&mut out);
    out.finish().into()
}

/// Reads an encoded row.
pub(super) fn decode<R: TableRow>(bytes: &[u8]) -> Result<R, StoreError> {
    let mut input = Reader::new(bytes, R::NAME);
    let row = match input.u8() {
        Ok(VERSION) => R::take(&mut input),
        _ => Err(Malformed(R::NAME)),
    };
    row.and_then(|row| input.end().map(|()| row)).map_err(|error| damaged(error, bytes))
}

/// A row that does not read as it was written.
pub(super) fn damaged(error: Malformed, bytes: &[u8]) -> StoreError {
    StoreError::Damaged { place: "the index's state".into(), what: format!("{error}: {bytes:02x?}") }
}

/// Decoded rows over the store. What is dirty stays until it is written; of the rest at most
/// about `rows_max` rows are kept, those used of late.
#[derive(Debug)]
pub(super) struct Table<R: TableRow> {
    rows: BTreeMap<R::Key, Slot<R>>,
    dirty: BTreeSet<R::Key>,
    rows_max: usize,
}

#[derive(Debug)]
struct Slot<R> {
    row: R,
    used: bool,
}

impl<R: TableRow> Table<R> {
    pub fn new(rows_max: usize) -> Self {
        Table { rows: BTreeMap::new(), dirty: BTreeSet::new(), rows_max }
    }

    pub fn get(&mut self, store: &Overlay, key: &R::Key) -> Result<Option<&R>, StoreError> {
        Ok(self.load(store, key)?.map(|row| &*row))
    }

    /// The row, to be changed: it will be written.
    pub fn get_mut(&mut self, store: &Overlay, key: &R::Key) -> Result<Option<&mut R>, StoreError> {
        if self.load(store, key)?.is_none() {
            return Ok(None);
        }
        if !self.dirty.contains(key) {
            self.dirty.insert(key.clone());
        }
        Ok(self.rows.get_mut(key).map(|slot| &mut slot.row))
    }

    pub fn insert(&mut self, key: R::Key, row: R) {
        self.dirty.insert(key.clone());
        self.rows.insert(key, Slot { row, used: true });
    }

    pub fn remove(&mut self, store: &mut Overlay, key: &R::Key) {
        self.rows.remove(key);
        self.dirty.remove(key);
        store.delete(R::key(key));
    }

    /// Drops what is kept of `from..=to`: for ranges that the caller clears in the store.
    pub fn forget(&mut self, from: &R::Key, to: &R::Key) {
        let keys: Vec<R::Key> = self.rows.range(from..=to).map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.rows.remove(&key);
            self.dirty.remove(&key);
        }
    }

    /// Encodes what is dirty into `store`.
    pub fn write_back(&mut self, store: &mut Overlay) {
        for key in std::mem::take(&mut self.dirty) {
            if let Some(slot) = self.rows.get(&key) {
                store.put(R::key(&key), encode(&slot.row));
            }
        }
    }

    /// Drops rows that were not used since the last sweep, where too many are kept. Only after
    /// [`write_back`](Self::write_back).
    pub fn sweep(&mut self) {
        if self.rows.len() > self.rows_max && self.dirty.is_empty() {
            self.rows.retain(|_, slot| std::mem::take(&mut slot.used));
            if self.rows.len() > self.rows_max {
                self.rows.clear();
            }
        }
    }

    fn load(&mut self, store: &Overlay, key: &R::Key) -> Result<Option<&mut R>, StoreError> {
        if !self.rows.contains_key(key) {
            let Some(bytes) = store.get(&R::key(key))? else { return Ok(None) };
            self.rows.insert(key.clone(), Slot { row: decode(&bytes)?, used: true });
        }
        Ok(self.rows.get_mut(key).map(|slot| {
            slot.used = true;
            &mut slot.row
        }))
    }
}
