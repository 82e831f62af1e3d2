//! The disk seam: every file that GEM's storage touches goes through [`Disk`].
//!
//! The node uses [`OsDisk`]; the simulator [`SimDisk`], which loses what was not flushed, tears
//! what was being written, and damages by seed.

mod direct;
mod lock;
mod os;
mod sim;

pub use lock::DirLock;
pub use os::OsDisk;
pub use sim::SimDisk;

use std::fmt;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

/// A volume.
pub trait Disk: Send + Sync + fmt::Debug + 'static {
    /// Creates a file that must not exist, with `size` bytes reserved and readable as zeros.
    fn create(&self, path: &Path, size: u64) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// The names in a directory, sorted; empty where the directory is not there.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes a directory and its parents.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Makes a directory's entries durable: creations, renames and removals in it.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Renames, replacing what is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and all in it; nothing where it is not there.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Whether a file or directory is there.
    fn exists(&self, path: &Path) -> bool;
    /// The volume's size and free space.
    fn space(&self, path: &Path) -> io::Result<Space>;
}

/// A volume's room, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What an unprivileged process may still take.
    pub available: u64,
}

/// An open file.
pub trait DiskFile: Send + Sync + fmt::Debug + 'static {
    /// Reads up to `buf.len()` bytes at `offset`; fewer only at the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `parts`, one after another, at `offset`.
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Makes written bytes and the size durable (fdatasync). An error is final: what was written
    /// since the last success may be gone, and no later success brings it back.
    fn sync(&self) -> io::Result<()>;
    /// The size in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Cuts or extends to `size`.
    fn set_size(&self, size: u64) -> io::Result<()>;
}

/// Replaces `path` by a file of `bytes`, durably: after a crash it holds the old bytes or the new.
pub fn write_atomically(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    if disk.exists(&new) {
        disk.remove(&new)?;
    }
    let file = disk.create(&new, bytes.len() as u64)?;
    file.write_at(&[IoSlice::new(bytes)], 0)?;
    file.sync()?;
    disk.rename(&new, path)?;
    path.parent().map_or(Ok(()), |dir| disk.sync_dir(dir))
}

/// All of a small file.
pub fn read_whole(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path)?;
    let mut bytes = vec![0; file.size()? as usize];
    let got = file.read_at(&mut bytes, 0)?;
    bytes.truncate(got);
    Ok(bytes)
}
