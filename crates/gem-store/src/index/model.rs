//! The simulator's store: a map in memory that atomically loses everything since its last flush.
//!
//! It promises exactly what [`ordered`](super::ordered) says and nothing more: a crash takes all
//! unflushed writes of both families at once. As RocksDB does when its write buffers are full, it
//! may flush unasked ([`ModelStores::flush_every`]), so that nobody relies on being alone in
//! deciding what is durable.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::ordered::{Change, Family, OrderedStore, OrderedStores, Row, StoreId};
use crate::StoreError;

type Rows = BTreeMap<(Family, Bytes), Bytes>;

/// The stores of one simulated node. Clones share the same stores.
#[derive(Clone, Debug, Default)]
pub struct ModelStores {
    inner: Arc<Mutex<Volume>>,
}

#[derive(Debug, Default)]
struct Volume {
    stores: BTreeMap<StoreId, Contents>,
    checkpoints: BTreeMap<PathBuf, Rows>,
    /// Counts crashes: a handle from before one is dead.
    life: u64,
    flush_every: Option<u64>,
}

#[derive(Debug, Default)]
struct Contents {
    rows: Rows,
    /// What the keys written since the last flush held at that flush.
    before: BTreeMap<(Family, Bytes), Option<Bytes>>,
    writes: u64,
    open: bool,
}

/// The store of one group. One handle at a time, as with RocksDB's lock.
#[derive(Debug)]
pub struct ModelStore {
    id: StoreId,
    life: u64,
    volume: Arc<Mutex<Volume>>,
}

impl ModelStores {
    /// An empty node.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every store flushes by itself with every `writes`-th write.
    pub fn flush_every(&self, writes: u64) {
        lock(&self.inner).flush_every = (writes > 0).then_some(writes);
    }

    /// A power cut: every store is as of its last flush, and every open handle answers
    /// [`StoreError::Poisoned`] from now on.
    pub fn crash(&self) {
        let mut volume = lock(&self.inner);
        volume.life += 1;
        for contents in volume.stores.values_mut() {
            for (key, value) in std::mem::take(&mut contents.before) {
                match value {
                    Some(value) => contents.rows.insert(key, value),
                    None => contents.rows.remove(&key),
                };
            }
            contents.open = false;
        }
    }

    /// The rows of a checkpoint made at `dir`, in order.
    pub fn checkpoint_rows(&self, dir: &Path, family: Family) -> Option<Vec<Row>> {
        let volume = lock(&self.inner);
        let rows = volume.checkpoints.get(dir)?;
        let of_family = rows.iter().filter(|((f, _), _)| *f == family);
        Some(of_family.map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }
}

impl OrderedStores for ModelStores {
    fn open_at(&self, id: StoreId) -> Result<Arc<dyn OrderedStore>, StoreError> {
        let mut volume = lock(&self.inner);
        let life = volume.life;
        let contents = volume.stores.entry(id).or_default();
        if std::mem::replace(&mut contents.open, true) {
            return Err(std::io::Error::other(format!("store {id} is open already")).into());
        }
        Ok(Arc::new(ModelStore { id, life, volume: self.inner.clone() }))
    }

    fn remove_at(&self, id: StoreId) -> Result<(), StoreError> {
        let mut volume = lock(&self.inner);
        if volume.stores.get(&id).is_some_and(|contents| contents.open) {
            return Err(std::io::Error::other(format!("store {id} is open")).into());
        }
        volume.stores.remove(&id);
        Ok(())
    }

    fn copy(&self, from: &dyn OrderedStore, to: StoreId) -> Result<(), StoreError> {
        let path = PathBuf::from(to.to_string());
        from.checkpoint(&path)?;
        let mut volume = lock(&self.inner);
        let rows = volume.checkpoints.remove(&path).unwrap_or_default();
        if volume.stores.contains_key(&to) {
            return Err(std::io::Error::from(std::io::ErrorKind::AlreadyExists).into());
        }
        volume.stores.insert(to, Contents { rows, ..Contents::default() });
        Ok(())
    }

    fn list(&self) -> Result<Vec<StoreId>, StoreError> {
        Ok(lock(&self.inner).stores.keys().copied().collect())
    }
}

impl ModelStore {
    fn with<T>(&self, work: impl FnOnce(&mut Contents, Option<u64>) -> T) -> Result<T, StoreError> {
        let mut volume = lock(&self.volume);
        if volume.life != self.life {
            return Err(StoreError::poisoned("the store has failed"));
        }
        let flush_every = volume.flush_every;
        let contents = volume.stores.get_mut(&self.id).ok_or_else(|| StoreError::poisoned("the store has failed"))?;
        Ok(work(contents, flush_every))
    }
}

impl Drop for ModelStore {
    fn drop(&mut self) {
        let mut volume = lock(&self.volume);
        let same_life = volume.life == self.life;
        if let Some(contents) = volume.stores.get_mut(&self.id).filter(|_| same_life) {
            contents.open = false;
        }
    }
}

impl Contents {
    fn set(&mut self, key: (Family, Bytes), value: Option<Bytes>) {
        let old = match value {
            Some(value) => self.rows.insert(key.clone(), value),
            None => self.rows.remove(&key),
        };
        self.before.entry(key).or_insert(old);
    }
}

impl OrderedStore for ModelStore {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let key = (family, Bytes::copy_from_slice(key));
        self.with(|contents, _| contents.rows.get(&key).cloned())
    }

    fn scan(&self, family: Family, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        let Some(range) = range(family, from, to) else { return Ok(Vec::new()) };
        self.with(|contents, _| contents.rows.range(range).take(limit).map(row).collect())
    }

    fn scan_back(&self, family: Family, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        let Some(range) = range(family, from, to) else { return Ok(Vec::new()) };
        self.with(|contents, _| contents.rows.range(range).rev().take(limit).map(row).collect())
    }

    fn write(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        self.with(|contents, flush_every| {
            for change in changes {
                match change {
                    Change::Put(family, key, value) => contents.set((family, key), Some(value)),
                    Change::Delete(family, key) => contents.set((family, key), None),
                    Change::DeleteRange(family, from, to) => {
                        let Some(range) = range(family, &from, &to) else { continue };
                        let keys: Vec<_> = contents.rows.range(range).map(|(key, _)| key.clone()).collect();
                        keys.into_iter().for_each(|key| contents.set(key, None));
                    }
                }
            }
            contents.writes += 1;
            if flush_every.is_some_and(|every| contents.writes.is_multiple_of(every)) {
                contents.before.clear();
            }
        })
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.with(|contents, _| contents.before.clear())
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), StoreError> {
        let rows = self.with(|contents, _| contents.rows.clone())?;
        let mut volume = lock(&self.volume);
        if volume.checkpoints.contains_key(dir) {
            return Err(std::io::Error::from(std::io::ErrorKind::AlreadyExists).into());
        }
        volume.checkpoints.insert(dir.to_owned(), rows);
        Ok(())
    }
}

fn range(family: Family, from: &[u8], to: &[u8]) -> Option<std::ops::Range<(Family, Bytes)>> {
    let key = |bytes: &[u8]| (family, Bytes::copy_from_slice(bytes));
    (from < to).then(|| key(from)..key(to))
}

fn row(((_, key), value): (&(Family, Bytes), &Bytes)) -> Row {
    (key.clone(), value.clone())
}

/// A panic while the lock was held cannot leave a half-made change: every change is one call.
fn lock(volume: &Mutex<Volume>) -> MutexGuard<'_, Volume> {
    volume.lock().unwrap_or_else(PoisonError::into_inner)
}
