//! The disk as one life of the node's process sees it.
//!
//! A life ends for all its files at one instant, whoever still holds one: nothing that is left of
//! a dead process may touch what the next one finds. Where the power fails in the middle of an
//! operation ([`SimDisk::cut_power_after`]), the index loses its unflushed writes in that instant
//! too.

use std::fmt;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use gem_store::disk::{Disk, DiskFile, SimDisk, Space};
use gem_store::index::model::ModelStores;

use crate::chance::Chance;

/// One life's disk. Clones share it.
#[derive(Clone)]
pub struct LifeDisk {
    life: Arc<Life>,
    /// Planted: some flushes of what was written through this handle are answered and not made.
    lies: bool,
}

struct Life {
    disk: SimDisk,
    stores: ModelStores,
    is_dead: AtomicBool,
    /// Planted: this many of a hundred flushes are answered and not made.
    lies: Option<(u64, Mutex<Chance>)>,
}

impl fmt::Debug for LifeDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LifeDisk").field("is_dead", &self.is_dead()).finish_non_exhaustive()
    }
}

impl LifeDisk {
    /// A life over `disk` and `stores`. `lies`: percent of the flushes that are answered before
    /// they are made, for the simulator's check of itself.
    pub fn new(disk: SimDisk, stores: ModelStores, lies: Option<(u64, Chance)>) -> LifeDisk {
        let lies = lies.map(|(percent, chance)| (percent, Mutex::new(chance)));
        let is_dead = AtomicBool::new(false);
        LifeDisk { life: Arc::new(Life { disk, stores, is_dead, lies }), lies: false }
    }

    /// A handle through which a planted bug shows: the journal's.
    pub fn planted(&self) -> LifeDisk {
        LifeDisk { life: self.life.clone(), lies: true }
    }

    /// The process is gone: every operation fails from now on.
    pub fn die(&self) {
        self.life.is_dead.store(true, Ordering::Relaxed);
    }

    /// Whether it is gone.
    pub fn is_dead(&self) -> bool {
        self.life.is_dead.load(Ordering::Relaxed)
    }

    fn run<T>(&self, op: impl FnOnce(&SimDisk) -> io::Result<T>) -> io::Result<T> {
        self.life.run(|| op(&self.life.disk))
    }

    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(LifeFile { life: self.life.clone(), file, lies: self.lies, is_written: AtomicBool::new(false) })
    }
}

impl Life {
    fn run<T>(&self, op: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if self.is_dead.load(Ordering::Relaxed) {
            return Err(io::Error::other("the process is gone"));
        }
        let result = op();
        // The only failures that are simulated are those of the power; that something is or is
        // not there is none.
        let is_failure = |error: &io::Error| error.kind() == io::ErrorKind::Other;
        if result.as_ref().err().is_some_and(is_failure) {
            self.is_dead.store(true, Ordering::Relaxed);
            self.stores.crash();
        }
        result
    }

    /// Planted: whether this flush is answered and not made.
    fn skips(&self) -> bool {
        let Some((percent, chance)) = &self.lies else { return false };
        chance.lock().unwrap_or_else(PoisonError::into_inner).percent(*percent)
    }
}

impl Disk for LifeDisk {
    fn create(&self, path: &Path, size: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.run(|disk| disk.create(path, size)).map(|file| self.file(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.run(|disk| disk.open(path)).map(|file| self.file(file))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.run(|disk| disk.list(dir))
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.run(|disk| disk.create_dir_all(dir))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.run(|disk| disk.sync_dir(dir))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.run(|disk| disk.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.run(|disk| disk.remove(path))
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.run(|disk| disk.remove_dir_all(dir))
    }

    fn exists(&self, path: &Path) -> bool {
        self.life.disk.exists(path)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.run(|disk| disk.space(path))
    }
}

struct LifeFile {
    life: Arc<Life>,
    file: Arc<dyn DiskFile>,
    lies: bool,
    /// Something was written since the last flush: the first flush of a new file is always made.
    is_written: AtomicBool,
}

impl fmt::Debug for LifeFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

impl DiskFile for LifeFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.life.run(|| self.file.read_at(buf, offset))
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.is_written.store(true, Ordering::Relaxed);
        self.life.run(|| self.file.write_at(parts, offset))
    }

    fn sync(&self) -> io::Result<()> {
        if self.lies && self.is_written.swap(false, Ordering::Relaxed) && self.life.skips() {
            return self.life.run(|| Ok(()));
        }
        self.life.run(|| self.file.sync())
    }

    fn size(&self) -> io::Result<u64> {
        self.life.run(|| self.file.size())
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.life.run(|| self.file.set_size(size))
    }
}
