//! The objects of a node in a local directory: `DIR/objects/<number>.object`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::format::{BatchKey, IndexEntry, Origin};
use super::reader::ObjectReader;
use super::writer::{ObjectWriter, Written};
use crate::StoreError;
use crate::disk::Disk;

const SUFFIX: &str = ".object";
const TEMPORARY: &str = ".writing";
/// Files kept open for reading.
const OPEN_FILES: usize = 64;

/// The objects of a node. Clones share them.
#[derive(Clone, Debug)]
pub struct Objects {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    origin: Origin,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sizes: BTreeMap<u64, u64>,
    next: u64,
    open: BTreeMap<u64, ObjectReader>,
}

/// An object in the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its number: what locations name it by.
    pub object: u64,
    /// Its size in bytes.
    pub size: u64,
}

impl Objects {
    /// The objects beneath `dir`/objects, which is made where it is not there. What a crash left
    /// half-written is removed.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, origin: Origin) -> Result<Objects, StoreError> {
        let dir = dir.join("objects");
        disk.create_dir_all(&dir)?;
        let mut state = State { next: 1, ..State::default() };
        for name in disk.list(&dir)? {
            let path = dir.join(&name);
            if name.ends_with(TEMPORARY) {
                disk.remove(&path)?;
            } else if let Some(number) = name.strip_suffix(SUFFIX).and_then(|hex| u64::from_str_radix(hex, 16).ok()) {
                state.sizes.insert(number, disk.open(&path)?.size()?);
                state.next = state.next.max(number.saturating_add(1));
            }
        }
        Ok(Objects { inner: Arc::new(Inner { disk, dir, origin, state: Mutex::new(state) }) })
    }

    /// Never gives a new object a number up to `number`: call with every number that an index
    /// knows, so that none is used twice.
    pub fn reserve(&self, number: u64) {
        let mut state = self.lock();
        state.next = state.next.max(number.saturating_add(1));
    }

    /// All objects, oldest first.
    pub fn list(&self) -> Vec<ObjectInfo> {
        self.lock().sizes.iter().map(|(&object, &size)| ObjectInfo { object, size }).collect()
    }

    /// The size of all objects in bytes.
    pub fn bytes(&self) -> u64 {
        self.lock().sizes.values().sum()
    }

    /// Begins a new object.
    pub fn create(&self) -> Result<ObjectWriter, StoreError> {
        let number = {
            let mut state = self.lock();
            let number = state.next;
            state.next += 1;
            number
        };
        let path = self.inner.dir.join(format!("{number:016x}{TEMPORARY}"));
        ObjectWriter::create(&*self.inner.disk, path, number, &self.inner.origin)
    }

    /// Gives a written object its name, durably.
    pub fn publish(&self, written: &Written) -> Result<(), StoreError> {
        self.inner.disk.rename(&written.path, &self.path(written.number))?;
        self.inner.disk.sync_dir(&self.inner.dir)?;
        self.lock().sizes.insert(written.number, written.size);
        Ok(())
    }

    /// A batch by its location; [`StoreError::Moved`] where the object is not there (any more).
    pub fn read(&self, object: u64, key: &BatchKey, position: u64, length: u32) -> Result<Bytes, StoreError> {
        self.reader(object)?.batch(key, position, length)
    }

    /// All batches of an object, in order; [`StoreError::Moved`] where the object is not there.
    pub fn index(&self, object: u64) -> Result<Vec<IndexEntry>, StoreError> {
        self.reader(object)?.index()
    }

    /// Removes an object, durably; nothing where it is not there. Reads that have begun go on.
    pub fn remove(&self, object: u64) -> Result<(), StoreError> {
        {
            let mut state = self.lock();
            state.open.remove(&object);
            state.sizes.remove(&object);
        }
        match self.inner.disk.remove(&self.path(object)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            done => done?,
        }
        Ok(self.inner.disk.sync_dir(&self.inner.dir)?)
    }

    fn reader(&self, object: u64) -> Result<ObjectReader, StoreError> {
        {
            let state = self.lock();
            if let Some(reader) = state.open.get(&object) {
                return Ok(reader.clone());
            }
            if !state.sizes.contains_key(&object) {
                return Err(StoreError::Moved);
            }
        }
        // Not under the lock: opening reads the header.
        let reader = match ObjectReader::open(&*self.inner.disk, &self.path(object)) {
            Err(StoreError::Io(e)) if e.kind() == io::ErrorKind::NotFound => return Err(StoreError::Moved),
            opened => opened?,
        };
        if reader.number() != object {
            let place = self.path(object).display().to_string();
            return Err(StoreError::Damaged { place, what: format!("its header is of object {}", reader.number()) });
        }
        let mut state = self.lock();
        if state.sizes.contains_key(&object) {
            while state.open.len() >= OPEN_FILES && state.open.pop_first().is_some() {}
            state.open.insert(object, reader.clone());
        }
        Ok(reader)
    }

    fn path(&self, object: u64) -> PathBuf {
        self.inner.dir.join(format!("{object:016x}{SUFFIX}"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is one call: a panic leaves nothing half-made.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
