//! The store as it will be after the next write: what apply has changed lies over it.
//!
//! Apply reads and writes through this, so that several entries become one atomic write and each
//! still sees what the ones before it did.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use gem_store::StoreError;
use gem_store::index::ordered::{self, Change, Family, OrderedStore, Row};

/// Up to so many rows are deleted one by one; more by a range, whose mark in the store slows
/// later reads near it.
const SINGLE_DELETES_MAX: usize = 16;
const PAGE: usize = 1024;

/// Pending changes of the state family over a store.
#[derive(Debug)]
pub(super) struct Overlay {
    store: Arc<dyn OrderedStore>,
    /// Written after `cleared`. Bounded by what one write covers.
    pending: BTreeMap<Bytes, Option<Bytes>>,
    /// Ranges removed since the last write; no key of `pending` was put before the range over it.
    cleared: Vec<(Bytes, Bytes)>,
}

impl Overlay {
    pub fn new(store: Arc<dyn OrderedStore>) -> Self {
        Overlay { store, pending: BTreeMap::new(), cleared: Vec::new() }
    }

    pub fn store(&self) -> &Arc<dyn OrderedStore> {
        &self.store
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        if let Some(pending) = self.pending.get(key) {
            return Ok(pending.clone());
        }
        if self.is_cleared(key) {
            return Ok(None);
        }
        self.store.get(Family::State, key)
    }

    pub fn put(&mut self, key: Bytes, value: Bytes) {
        self.pending.insert(key, Some(value));
    }

    pub fn delete(&mut self, key: Bytes) {
        self.pending.insert(key, None);
    }

    /// Removes every key in `from..to`.
    pub fn clear(&mut self, from: Bytes, to: Bytes) -> Result<(), StoreError> {
        let rows = self.scan(&from, &to, SINGLE_DELETES_MAX + 1)?;
        if rows.len() <= SINGLE_DELETES_MAX {
            rows.into_iter().for_each(|(key, _)| self.delete(key));
            return Ok(());
        }
        let over: Vec<Bytes> = self.pending.range(from.clone()..to.clone()).map(|(key, _)| key.clone()).collect();
        for key in over {
            self.pending.remove(&key);
        }
        self.cleared.push((from, to));
        Ok(())
    }

    /// The rows of `from..to` in order, at most `limit`.
    pub fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        if from >= to || limit == 0 {
            return Ok(Vec::new());
        }
        let within = (Bound::Included(from), Bound::Excluded(to));
        let mut pending = self.pending.range::<[u8], _>(within).peekable();
        if pending.peek().is_none() && self.cleared.is_empty() {
            return self.store.scan(Family::State, from, to, limit);
        }
        let mut rows: Vec<Row> = Vec::new();
        let mut cursor = Bytes::copy_from_slice(from);
        loop {
            let page = self.store.scan(Family::State, &cursor, to, limit.min(PAGE))?;
            let last = page.last().map(|(key, _)| ordered::after(key)).filter(|_| page.len() == limit.min(PAGE));
            for (key, value) in page {
                while let Some((over, change)) = pending.next_if(|(over, _)| **over < key) {
                    rows.extend(change.as_ref().map(|value| (over.clone(), value.clone())));
                }
                match pending.next_if(|(over, _)| **over == key) {
                    Some((_, change)) => rows.extend(change.as_ref().map(|value| (key, value.clone()))),
                    None if self.is_cleared(&key) => {}
                    None => rows.push((key, value)),
                }
                if rows.len() >= limit {
                    rows.truncate(limit);
                    return Ok(rows);
                }
            }
            match last {
                Some(next) => cursor = next,
                None => break,
            }
        }
        rows.extend(pending.filter_map(|(key, change)| Some((key.clone(), change.clone()?))));
        rows.truncate(limit);
        Ok(rows)
    }

    /// Every row of `from..to`, in order, a page at a time.
    pub fn each(
        &self,
        from: &[u8],
        to: &[u8],
        mut visit: impl FnMut(&Bytes, &Bytes) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let mut cursor = Bytes::copy_from_slice(from);
        loop {
            let page = self.scan(&cursor, to, PAGE)?;
            for (key, value) in &page {
                if !visit(key, value)? {
                    return Ok(());
                }
            }
            match page.last() {
                Some((key, _)) if page.len() == PAGE => cursor = ordered::after(key),
                _ => return Ok(()),
            }
        }
    }

    /// Writes all pending changes and `others` at one point.
    pub fn write(&mut self, others: Vec<Change>) -> Result<(), StoreError> {
        let mut changes = Vec::with_capacity(self.cleared.len() + self.pending.len() + others.len());
        for (from, to) in self.cleared.drain(..) {
            changes.push(Change::DeleteRange(Family::State, from, to));
        }
        for (key, change) in std::mem::take(&mut self.pending) {
            changes.push(match change {
                Some(value) => Change::Put(Family::State, key, value),
                None => Change::Delete(Family::State, key),
            });
        }
        changes.extend(others);
        if changes.is_empty() { Ok(()) } else { self.store.write(changes) }
    }

    fn is_cleared(&self, key: &[u8]) -> bool {
        self.cleared.iter().any(|(from, to)| *from <= key && key < *to)
    }
}

/// The first key after all that begin with `prefix`, which is not all 0xff.
pub(super) fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while end.pop_if(|last| *last == u8::MAX).is_some() {}
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}
