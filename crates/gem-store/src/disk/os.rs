//! The operating system's files: preallocated, written directly where there is much and through
//! the page cache otherwise, and fdatasync.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FallocateFlags;

use super::direct::Direct;
use super::{Disk, DiskFile, Space};

/// A volume of the operating system. What it creates is readable by its own user only.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDisk;

/// The most slices that one pwritev takes (Linux's IOV_MAX).
const SLICES_MAX: usize = 1024;

#[expect(clippy::disallowed_methods, reason = "this is the module that owns real files")]
impl Disk for OsDisk {
    fn create(&self, path: &Path, size: u64) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        let reserved = match size {
            0 => Ok(()),
            _ => match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size) {
                // A volume that can't preallocate gets zeros: the space must be there all the same.
                Err(rustix::io::Errno::OPNOTSUPP) => write_zeros(&file, size),
                other => Ok(other?),
            },
        };
        if let Err(error) = reserved {
            drop(file);
            // What is left of it would be taken for a file of another size, and ignored.
            let _ = std::fs::remove_file(path);
            return Err(error);
        }
        Ok(Arc::new(OsFile::new(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OsFile::new(OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let entries = match std::fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut names = Vec::new();
        for entry in entries {
            // Names that are not UTF-8 are not GEM's.
            names.extend(entry?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let missing: Vec<_> = dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.is_dir()).collect();
        std::fs::create_dir_all(dir)?;
        // Every new name must outlive a crash, or what is synced inside would not be found.
        missing.into_iter().filter_map(Path::parent).try_for_each(|parent| self.sync_dir(parent))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        File::open(dir)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Space { total: stat.f_blocks * stat.f_frsize, available: stat.f_bavail * stat.f_frsize })
    }
}

fn write_zeros(file: &File, size: u64) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut at = 0;
    while at < size {
        let n = (size - at).min(zeros.len() as u64);
        file.write_all_at(&zeros[..n as usize], at)?;
        at += n;
    }
    Ok(())
}

/// The first `bytes` bytes of `parts`.
fn first<'a>(parts: &'a [IoSlice<'_>], mut bytes: usize) -> Vec<IoSlice<'a>> {
    let mut taken = Vec::new();
    for part in parts {
        let part = part.get(..bytes).unwrap_or(part);
        bytes -= part.len();
        taken.push(IoSlice::new(part));
        if bytes == 0 {
            break;
        }
    }
    taken
}

#[derive(Debug)]
struct OsFile {
    file: File,
    direct: Direct,
}

impl OsFile {
    fn new(file: File) -> Self {
        OsFile { file, direct: Direct::default() }
    }

    /// Writes `parts` through the page cache.
    fn write_buffered(&self, mut parts: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            let most = parts.len().min(SLICES_MAX);
            match rustix::io::pwritev(&self.file, &parts[..most], offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    offset += n as u64;
                    IoSlice::advance_slices(&mut parts, n);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl DiskFile for OsFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut got = 0;
        while let Some(rest) = buf.get_mut(got..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset + got as u64) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(got)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let Some((before, whole)) = self.direct.write(&self.file, parts, offset)? else {
            return self.write_buffered(&mut parts.to_vec(), offset);
        };
        self.write_buffered(&mut first(parts, before), offset)?;
        let (mut rest, behind) = (parts.to_vec(), before + whole);
        let mut rest = &mut rest[..];
        IoSlice::advance_slices(&mut rest, behind);
        self.write_buffered(rest, offset + behind as u64)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.file.set_len(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Whichever way the bytes take, what is read back is what was written, and nothing beside it changes.
        #[test]
        fn what_is_written_is_read_back(
            offset in 0u64..10_000,
            lengths in proptest::collection::vec(0usize..70_000, 0..6),
            again in 0u64..10_000,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let file = OsDisk.create(&dir.path().join("file"), 1 << 20).unwrap();
            let mut model = vec![0u8; 1 << 20];
            for (round, at) in [(1u8, offset), (2, again)] {
                let parts: Vec<Vec<u8>> = lengths
                    .iter()
                    .enumerate()
                    .map(|(i, length)| (0..*length).map(|b| (b as u8) ^ (i as u8) ^ (round << 6)).collect())
                    .collect();
                let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
                file.write_at(&slices, at).unwrap();
                let bytes = parts.concat();
                model[at as usize..at as usize + bytes.len()].copy_from_slice(&bytes);
                let mut read = vec![0; 1 << 20];
                prop_assert_eq!(file.read_at(&mut read, 0).unwrap(), 1 << 20);
                prop_assert!(read == model);
            }
            file.sync().unwrap();
        }
    }
}
