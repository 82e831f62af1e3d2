//! Writes one object, batch by batch in order, through a buffer of bounded size.

use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::Arc;

use super::format::{self, BatchKey, IndexEntry, Origin};
use crate::StoreError;
use crate::disk::{Disk, DiskFile};

/// Bytes kept back before they are written together.
const BUFFER: usize = 1 << 20;

/// An object being written, under a temporary name. Dropped, it leaves a file that the next
/// [`Objects::open`](super::Objects::open) removes.
#[derive(Debug)]
pub struct ObjectWriter {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    number: u64,
    buffer: Vec<u8>,
    /// Where the buffer goes.
    flushed: u64,
    entries: Vec<IndexEntry>,
}

/// An object that is written and synced, but still has its temporary name.
#[derive(Debug)]
pub struct Written {
    pub(super) path: PathBuf,
    pub(super) number: u64,
    pub(super) size: u64,
    /// Its batches.
    pub entries: Vec<IndexEntry>,
}

impl ObjectWriter {
    pub(super) fn create(disk: &dyn Disk, path: PathBuf, number: u64, origin: &Origin) -> Result<Self, StoreError> {
        // A file of that name is of a writer that failed: it was never heard of.
        if disk.exists(&path) {
            disk.remove(&path)?;
        }
        let file = disk.create(&path, 0)?;
        let buffer = format::encode_header(number, origin).to_vec();
        Ok(ObjectWriter { file, path, number, buffer, flushed: 0, entries: Vec::new() })
    }

    /// The object's number: what locations name it by.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Bytes so far.
    pub fn size(&self) -> u64 {
        self.flushed + self.buffer.len() as u64
    }

    /// Adds a batch; answers where it begins. Batches must come in rising order of their keys.
    pub fn add(&mut self, key: BatchKey, batch: &[u8]) -> Result<u64, StoreError> {
        let in_order = self.entries.last().is_none_or(|last| last.key < key);
        assert!(in_order, "batches of an object are added in order, each once: {key:?}");
        let length = u32::try_from(batch.len()).map_err(|_| {
            StoreError::io_at(self.path.display(), std::io::Error::other(format!("a batch of {} bytes", batch.len())))
        })?;
        self.buffer.extend_from_slice(&format::encode_block_head(&key, batch));
        let position = self.size();
        self.buffer.extend_from_slice(batch);
        self.entries.push(IndexEntry { key, position, length });
        if self.buffer.len() >= BUFFER {
            self.write_buffer()?;
        }
        Ok(position)
    }

    /// Writes the footer and syncs the file.
    pub fn finish(mut self) -> Result<Written, StoreError> {
        let footer = format::encode_footer(&self.entries, self.size());
        self.buffer.extend_from_slice(&footer);
        self.write_buffer()?;
        self.file.set_size(self.flushed)?;
        self.file.sync()?;
        Ok(Written { path: self.path, number: self.number, size: self.flushed, entries: self.entries })
    }

    fn write_buffer(&mut self) -> Result<(), StoreError> {
        self.file.write_at(&[IoSlice::new(&self.buffer)], self.flushed)?;
        self.flushed += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}
