//! Indexes beside the model's own: a view that changes nothing, and a planted bug.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use gem_store::StoreError;
use gem_store::index::model::ModelStores;
use gem_store::index::ordered::{Change, Family, OrderedStore, OrderedStores, Row, StoreId};

use crate::chance::Chance;

/// The machine's own rows begin with this byte (gem-shard's `machine/keys.rs`).
const META: u8 = 1;

/// A store to look at: writes and flushes are left out.
#[derive(Debug)]
pub struct View(pub Arc<dyn OrderedStore>);

impl OrderedStore for View {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.0.get(family, key)
    }

    fn scan(&self, family: Family, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        self.0.scan(family, from, to, limit)
    }

    fn scan_back(&self, family: Family, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        self.0.scan_back(family, from, to, limit)
    }

    fn write(&self, _: Vec<Change>) -> Result<(), StoreError> {
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn checkpoint(&self, _: &Path) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Planted: the applied index is written apart from the rows, and a flush may fall between.
#[derive(Debug)]
pub struct ApartStores {
    stores: ModelStores,
    chance: Arc<Mutex<Chance>>,
}

impl ApartStores {
    /// Over `stores`.
    pub fn new(stores: ModelStores, chance: Chance) -> ApartStores {
        ApartStores { stores, chance: Arc::new(Mutex::new(chance)) }
    }
}

impl OrderedStores for ApartStores {
    fn open_at(&self, id: StoreId) -> Result<Arc<dyn OrderedStore>, StoreError> {
        let store = self.stores.open_at(id)?;
        Ok(Arc::new(ApartStore { store, chance: self.chance.clone() }))
    }

    fn remove_at(&self, id: StoreId) -> Result<(), StoreError> {
        self.stores.remove_at(id)
    }

    fn copy(&self, from: &dyn OrderedStore, to: StoreId) -> Result<(), StoreError> {
        self.stores.copy(from, to)
    }

    fn list(&self) -> Result<Vec<StoreId>, StoreError> {
        self.stores.list()
    }
}

#[derive(Debug)]
struct ApartStore {
    store: Arc<dyn OrderedStore>,
    chance: Arc<Mutex<Chance>>,
}

fn is_meta(change: &Change) -> bool {
    matches!(change, Change::Put(Family::State, key, _) if key.first() == Some(&META))
}

impl OrderedStore for ApartStore {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.store.get(family, key)
    }

    fn scan(&self, family: Family, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        self.store.scan(family, from, to, limit)
    }

    fn scan_back(&self, family: Family, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        self.store.scan_back(family, from, to, limit)
    }

    fn write(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let (applied, rows): (Vec<_>, Vec<_>) = changes.into_iter().partition(is_meta);
        if !applied.is_empty() {
            self.store.write(applied)?;
            if self.chance.lock().unwrap_or_else(PoisonError::into_inner).percent(5) {
                self.store.flush()?;
            }
        }
        self.store.write(rows)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.store.flush()
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), StoreError> {
        self.store.checkpoint(dir)
    }
}
