//! The file that is being written: begun with a head, filled flush by flush, sealed by a footer.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::Arc;

use super::footer::{FooterBuilder, Item, Seal};
use super::head::FileHead;
use super::layout::{Encoded, FlushAt, Op, SECTOR, flush_len};
use crate::StoreError;
use crate::disk::DiskFile;

const SUFFIX: &str = ".journal";

/// The name of file number `file`.
pub(super) fn file_name(file: u64) -> String {
    format!("{file:08}{SUFFIX}")
}

/// The number of the file named `name`; `None` for what is not the journal's.
pub(super) fn file_number(name: &str) -> Option<u64> {
    let number = name.strip_suffix(SUFFIX)?.parse().ok()?;
    (file_name(number) == name && number <= u64::from(u32::MAX)).then_some(number)
}

/// The active file.
#[derive(Debug)]
pub(super) struct Segment {
    pub file: u64,
    pub generation: u64,
    pub handle: Arc<dyn DiskFile>,
    pub size: u64,
    /// Where the next flush goes.
    pub position: u64,
    pub footer: FooterBuilder,
    /// Holds a flush already.
    pub used: bool,
}

impl Segment {
    /// Begins the file: writes its head, without a sync. The first flush's sync covers it, and
    /// until then nothing in the file counts.
    pub(super) fn begin(
        file: u64,
        handle: Arc<dyn DiskFile>,
        size: u64,
        at: FlushAt,
        table: &[u8],
    ) -> Result<Segment, StoreError> {
        let FlushAt { generation, sequence, frontier, .. } = at;
        let head = FileHead { generation, file, size, sequence, frontier, table: Default::default(), end: 0 };
        let bytes = head.encode(table);
        if bytes.len() as u64 > size / 8 {
            return Err(StoreError::Refused(format!(
                "the table of groups has {} bytes: too many for journal files of {size}; raise the size",
                bytes.len()
            )));
        }
        handle.write_at(&[IoSlice::new(&bytes)], 0)?;
        let position = bytes.len() as u64;
        Ok(Segment { file, generation, handle, size, position, footer: FooterBuilder::default(), used: false })
    }

    /// Whether a flush of `ops` fits, with the footer that it leads to; `table` bounds the table's
    /// bytes.
    pub(super) fn fits(&self, count: usize, records_len: u64, table: usize) -> bool {
        self.position + flush_len(count, records_len).0 + self.footer.bound(count, table) <= self.size
    }

    /// Bytes that records can still take, roughly.
    pub(super) fn left(&self, table: usize) -> u64 {
        self.size.saturating_sub(self.position + self.footer.bound(0, table))
    }

    /// Writes and syncs one flush, then moves on.
    pub(super) fn flush<'a>(
        &mut self,
        ops: impl ExactSizeIterator<Item = &'a Op> + Clone,
        at: FlushAt,
        encoded: &mut Encoded,
    ) -> Result<(), StoreError> {
        encoded.encode(ops.clone(), at);
        self.handle.write_at(&encoded.slices(), self.position)?;
        self.handle.sync()?;
        for (op, (position, length)) in ops.zip(&encoded.payloads) {
            if let Some((kind, group, id)) = op.moves() {
                // Files are below 4 GiB.
                self.footer.push(&Item { kind, group, id, position: *position as u32, length: *length });
            }
        }
        self.position += encoded.length;
        self.used = true;
        Ok(())
    }

    /// Writes a mark behind the last flush, without a sync: where it reaches the disk, damage to
    /// that flush is known to be damage.
    pub(super) fn mark(&self, at: FlushAt) -> Result<bool, StoreError> {
        if self.position + 2 * SECTOR > self.size {
            return Ok(false);
        }
        self.handle.write_at(&[IoSlice::new(&Encoded::mark(at))], self.position)?;
        Ok(true)
    }

    /// Writes and syncs the footer: the file takes no more.
    pub(super) fn seal(&self, sequence: u64, table: &[u8]) -> Result<(), StoreError> {
        let footer = self.footer.encode(self.generation, self.position, sequence, table);
        let at = self.size - SECTOR;
        assert!(self.position + footer.len() as u64 <= at, "a footer is larger than its bound");
        self.handle.write_at(&[IoSlice::new(&footer)], self.position)?;
        let seal = Seal { position: self.position, length: footer.len() as u64 };
        self.handle.write_at(&[IoSlice::new(&seal.encode(self.generation, at))], at)?;
        Ok(self.handle.sync()?)
    }
}

/// Files in use as tables list them.
pub(super) fn file_table<'a>(files: impl Iterator<Item = (&'a u64, u64)>) -> BTreeMap<u64, u64> {
    files.map(|(file, generation)| (*file, generation)).collect()
}
