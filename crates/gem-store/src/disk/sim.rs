//! A disk in memory for simulations: what was not synced may be lost in a crash, wholly or in
//! part, by seed; and it fails and is damaged on demand.
//!
//! The model, kept stricter than real disks:
//! - A write reaches the disk sector by sector (512 bytes, atomic), in any order, at any time; a
//!   sector that was written several times since the last sync may hold any of its versions after
//!   a crash.
//! - `sync` makes a file's contents and size durable, not its name. Names (creations, renames,
//!   removals) become durable with `sync_dir` of their directory; a crash keeps a prefix of those
//!   that were not.
//! - A failed sync may have made anything durable, and what it did not is never retried.
//! - Directories themselves are durable at once.
//!
//! Same seeds and same calls, same outcome: nothing here draws on a clock or on chance.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile, Space};

const SECTOR: usize = 512;
type Sector = [u8; SECTOR];

/// A simulated volume. Clones share it.
#[derive(Clone)]
pub struct SimDisk {
    volume: Arc<Mutex<Volume>>,
}

#[derive(Default)]
struct Volume {
    /// Names as processes see them.
    names: BTreeMap<PathBuf, u64>,
    /// Names as a crash leaves them.
    durable_names: BTreeMap<PathBuf, u64>,
    /// What is not durable of the names, in order.
    unsynced: Vec<NameChange>,
    dirs: BTreeSet<PathBuf>,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    /// Rises with every crash: handles of before are dead.
    epoch: u64,
    space: Option<Space>,
    fail_next_sync: bool,
    fail_next_write: bool,
    /// Operations that change something until the power fails.
    power_left: Option<u64>,
    syncs: u64,
    writes: u64,
}

#[derive(Clone)]
enum NameChange {
    Set(PathBuf, u64),
    Gone(PathBuf),
    Moved(PathBuf, PathBuf, u64),
}

#[derive(Default)]
struct Inode {
    size: u64,
    durable_size: u64,
    /// Sectors as processes see them; absent ones are zeros.
    now: BTreeMap<u64, Box<Sector>>,
    durable: BTreeMap<u64, Box<Sector>>,
    /// The versions that each sector has had since the last sync.
    unsynced: BTreeMap<u64, Vec<Sector>>,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").field("files", &self.lock().names.len()).finish_non_exhaustive()
    }
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// An empty volume of 1 TiB.
    pub fn new() -> Self {
        SimDisk { volume: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Volume> {
        // Every change is complete before anything that could panic.
        self.volume.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The power fails and comes back: of what was not synced, `seed` says what survived. Handles
    /// opened before are dead.
    pub fn crash(&self, seed: u64) {
        let mut chance = Chance(seed);
        let mut volume = self.lock();
        let kept = chance.below(volume.unsynced.len() as u64 + 1) as usize;
        let changes = std::mem::take(&mut volume.unsynced);
        for change in changes.into_iter().take(kept) {
            apply(&mut volume.durable_names, change);
        }
        volume.names = volume.durable_names.clone();
        for inode in volume.inodes.values_mut() {
            for (sector, versions) in std::mem::take(&mut inode.unsynced) {
                // One more than there are versions: the one that was durable.
                let choice = chance.below(versions.len() as u64 + 1) as usize;
                if let Some(version) = versions.into_iter().nth(choice) {
                    inode.durable.insert(sector, Box::new(version));
                }
            }
            if inode.size != inode.durable_size && chance.below(2) == 0 {
                inode.durable_size = inode.size;
            }
            inode.size = inode.durable_size;
            inode.now = inode.durable.clone();
        }
        volume.forget_unnamed();
        volume.epoch += 1;
        volume.power_left = None;
        (volume.fail_next_sync, volume.fail_next_write) = (false, false);
    }

    /// The process dies, the machine lives on: all that was written stays, handles are dead.
    pub fn kill(&self) {
        let mut volume = self.lock();
        volume.epoch += 1;
        volume.power_left = None;
    }

    /// The next sync fails, having made durable whatever it did.
    pub fn fail_next_sync(&self) {
        self.lock().fail_next_sync = true;
    }

    /// The next write fails, having written a part.
    pub fn fail_next_write(&self) {
        self.lock().fail_next_write = true;
    }

    /// From the `n`-th changing operation on (write, sync, creation, …) every operation fails, as
    /// if the power were gone; [`crash`](Self::crash) brings it back.
    pub fn cut_power_after(&self, n: u64) {
        self.lock().power_left = Some(n);
    }

    /// Sets what [`Disk::space`] answers; creating files takes from it.
    pub fn set_space(&self, space: Space) {
        self.lock().space = Some(space);
    }

    /// Flips the bits of `mask` in the byte at `offset`, durably. `false` where there is no such
    /// byte.
    pub fn damage(&self, path: &Path, offset: u64, mask: u8) -> bool {
        let mut volume = self.lock();
        let Some(inode) = volume.names.get(path).copied().and_then(|inode| volume.inodes.get_mut(&inode)) else {
            return false;
        };
        if offset >= inode.size {
            return false;
        }
        let (sector, at) = (offset / SECTOR as u64, offset as usize % SECTOR);
        for sectors in [&mut inode.now, &mut inode.durable] {
            sectors.entry(sector).or_insert_with(|| Box::new([0; SECTOR]))[at] ^= mask;
        }
        true
    }

    /// Syncs of files so far.
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// Writes so far.
    pub fn writes(&self) -> u64 {
        self.lock().writes
    }
}

impl Volume {
    /// One changing operation: fails once the power is gone.
    fn spend(&mut self) -> io::Result<()> {
        match &mut self.power_left {
            Some(0) => Err(gone()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn powered(&self) -> io::Result<()> {
        if self.power_left == Some(0) { Err(gone()) } else { Ok(()) }
    }

    fn forget_unnamed(&mut self) {
        let named: BTreeSet<u64> = self.names.values().chain(self.durable_names.values()).copied().collect();
        self.inodes.retain(|inode, _| named.contains(inode));
    }

    fn change(&mut self, change: NameChange) {
        apply(&mut self.names, change.clone());
        self.unsynced.push(change);
    }
}

fn apply(names: &mut BTreeMap<PathBuf, u64>, change: NameChange) {
    match change {
        NameChange::Set(path, inode) => drop(names.insert(path, inode)),
        NameChange::Gone(path) => drop(names.remove(&path)),
        NameChange::Moved(from, to, inode) => {
            names.remove(&from);
            names.insert(to, inode);
        }
    }
}

impl NameChange {
    fn is_in(&self, dir: &Path) -> bool {
        let (NameChange::Set(path, _) | NameChange::Gone(path) | NameChange::Moved(_, path, _)) = self;
        path.parent() == Some(dir)
    }
}

fn gone() -> io::Error {
    io::Error::other("the power is gone")
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} is not there", path.display()))
}

impl Disk for SimDisk {
    fn create(&self, path: &Path, size: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut volume = self.lock();
        volume.spend()?;
        if volume.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if let Some(space) = &mut volume.space {
            space.available = space.available.checked_sub(size).ok_or(io::ErrorKind::StorageFull)?;
        }
        let inode = volume.next_inode;
        volume.next_inode += 1;
        volume.inodes.insert(inode, Inode { size, ..Default::default() });
        volume.change(NameChange::Set(path.to_path_buf(), inode));
        Ok(Arc::new(SimFile { disk: self.clone(), inode, epoch: volume.epoch }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let volume = self.lock();
        volume.powered()?;
        let inode = *volume.names.get(path).ok_or_else(|| not_found(path))?;
        Ok(Arc::new(SimFile { disk: self.clone(), inode, epoch: volume.epoch }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let volume = self.lock();
        volume.powered()?;
        let paths = volume.names.keys().chain(&volume.dirs).filter(|path| path.parent() == Some(dir));
        let names: BTreeSet<_> = paths.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect();
        Ok(names.into_iter().collect())
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut volume = self.lock();
        volume.spend()?;
        volume.dirs.extend(dir.ancestors().map(Path::to_path_buf));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut volume = self.lock();
        volume.spend()?;
        let (synced, rest) = std::mem::take(&mut volume.unsynced).into_iter().partition(|change| change.is_in(dir));
        volume.unsynced = rest;
        let synced: Vec<NameChange> = synced;
        synced.into_iter().for_each(|change| apply(&mut volume.durable_names, change));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut volume = self.lock();
        volume.spend()?;
        let inode = *volume.names.get(from).ok_or_else(|| not_found(from))?;
        volume.change(NameChange::Moved(from.to_path_buf(), to.to_path_buf(), inode));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut volume = self.lock();
        volume.spend()?;
        let inode = *volume.names.get(path).ok_or_else(|| not_found(path))?;
        volume.change(NameChange::Gone(path.to_path_buf()));
        let size = volume.inodes.get(&inode).map_or(0, |inode| inode.size);
        if let Some(space) = &mut volume.space {
            space.available += size;
        }
        Ok(())
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut volume = self.lock();
        volume.spend()?;
        let paths: Vec<_> = volume.names.keys().filter(|path| path.starts_with(dir)).cloned().collect();
        paths.into_iter().for_each(|path| volume.change(NameChange::Gone(path)));
        volume.dirs.retain(|path| !path.starts_with(dir));
        Ok(())
    }

    fn exists(&self, path: &Path) -> bool {
        let volume = self.lock();
        volume.names.contains_key(path) || volume.dirs.contains(path)
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        let volume = self.lock();
        volume.powered()?;
        Ok(volume.space.unwrap_or(Space { total: 1 << 40, available: 1 << 40 }))
    }
}

/// A handle.
#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: u64,
    epoch: u64,
}

impl SimFile {
    /// Runs `op` on the file, if this handle is of the present life.
    fn with<T>(&self, op: impl FnOnce(&mut Volume, u64) -> io::Result<T>) -> io::Result<T> {
        let mut volume = self.disk.lock();
        if volume.epoch != self.epoch {
            return Err(gone());
        }
        op(&mut volume, self.inode)
    }
}

fn inode(volume: &mut Volume, inode: u64) -> io::Result<&mut Inode> {
    volume.inodes.get_mut(&inode).ok_or_else(gone)
}

impl Inode {
    fn write(&mut self, bytes: &[u8], offset: u64) {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let (sector, within) = (at / SECTOR as u64, at as usize % SECTOR);
            let n = (SECTOR - within).min(bytes.len() - done);
            let now = self.now.entry(sector).or_insert_with(|| Box::new([0; SECTOR]));
            now[within..within + n].copy_from_slice(&bytes[done..done + n]);
            done += n;
        }
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|volume, number| {
            volume.powered()?;
            let inode = inode(volume, number)?;
            let n = (buf.len() as u64).min(inode.size.saturating_sub(offset)) as usize;
            let mut done = 0;
            while done < n {
                let at = offset + done as u64;
                let (sector, within) = (at / SECTOR as u64, at as usize % SECTOR);
                let take = (SECTOR - within).min(n - done);
                match inode.now.get(&sector) {
                    Some(bytes) => buf[done..done + take].copy_from_slice(&bytes[within..within + take]),
                    None => buf[done..done + take].fill(0),
                }
                done += take;
            }
            Ok(n)
        })
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.with(|volume, number| {
            volume.spend()?;
            volume.writes += 1;
            let fails = std::mem::take(&mut volume.fail_next_write);
            let inode = inode(volume, number)?;
            let parts = if fails { &parts[..parts.len() / 2] } else { parts };
            let mut at = offset;
            for part in parts {
                inode.write(part, at);
                at += part.len() as u64;
            }
            if at > offset {
                for sector in offset / SECTOR as u64..=(at - 1) / SECTOR as u64 {
                    if let Some(bytes) = inode.now.get(&sector) {
                        inode.unsynced.entry(sector).or_default().push(**bytes);
                    }
                }
            }
            inode.size = inode.size.max(at);
            if fails { Err(io::Error::other("the disk fails a write")) } else { Ok(()) }
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|volume, number| {
            volume.spend()?;
            volume.syncs += 1;
            if std::mem::take(&mut volume.fail_next_sync) {
                return Err(io::Error::other("the disk fails a sync"));
            }
            let inode = inode(volume, number)?;
            for (sector, versions) in std::mem::take(&mut inode.unsynced) {
                inode.durable.extend(versions.into_iter().next_back().map(|last| (sector, Box::new(last))));
            }
            inode.durable_size = inode.size;
            Ok(())
        })
    }

    fn size(&self) -> io::Result<u64> {
        self.with(|volume, number| inode(volume, number).map(|inode| inode.size))
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.with(|volume, number| {
            volume.spend()?;
            let inode = inode(volume, number)?;
            if size < inode.size {
                let keep = size.div_ceil(SECTOR as u64);
                inode.now.split_off(&keep);
                inode.unsynced.split_off(&keep);
            }
            inode.size = size;
            Ok(())
        })
    }
}

/// SplitMix64 (Steele et al., OOPSLA 2014): a seed's outcomes.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n.max(1)
    }
}
