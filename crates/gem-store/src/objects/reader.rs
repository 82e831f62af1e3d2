//! Reads one object: a batch by its location, or the list of all its batches.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::format::{self, BLOCK_HEAD_LEN, BatchKey, HEADER_LEN, IndexEntry, Origin, TRAILER_LEN};
use crate::StoreError;
use crate::disk::{Disk, DiskFile};

/// The greatest footer that is read, in bytes. Far above what the size of an object allows.
const FOOTER_MAX: u64 = 1 << 30;

/// An open object. Cheap to clone; reads go on after the object was removed.
#[derive(Clone, Debug)]
pub struct ObjectReader {
    file: Arc<dyn DiskFile>,
    place: Arc<str>,
    number: u64,
    origin: Origin,
}

impl ObjectReader {
    /// Opens an object and checks its header.
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<ObjectReader, StoreError> {
        let file = disk.open(path)?;
        let place: Arc<str> = path.display().to_string().into();
        let header = read(&*file, 0, HEADER_LEN)?;
        let (number, origin) =
            format::decode_header(&header).map_err(|what| StoreError::Damaged { place: place.to_string(), what })?;
        Ok(ObjectReader { file, place, number, origin })
    }

    /// The object's number, as its header has it.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Who wrote it.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// The batch of `length` bytes at `position`, which must be `key`'s.
    pub fn batch(&self, key: &BatchKey, position: u64, length: u32) -> Result<Bytes, StoreError> {
        let start = position.checked_sub(BLOCK_HEAD_LEN as u64);
        let start = start.ok_or_else(|| self.damaged(format!("no batch can begin at byte {position}")))?;
        let block = read(&*self.file, start, BLOCK_HEAD_LEN + length as usize)?;
        let found = format::decode_block(&block).map_err(|what| self.damaged(format!("at byte {start}: {what}")))?;
        if found != *key {
            return Err(self.damaged(format!("at byte {start} lies {found:?} where {key:?} was looked for")));
        }
        Ok(block.slice(BLOCK_HEAD_LEN..))
    }

    /// All batches, in order, from the footer.
    pub fn index(&self) -> Result<Vec<IndexEntry>, StoreError> {
        let size = self.file.size()?;
        let at = size.checked_sub(TRAILER_LEN as u64).ok_or_else(|| self.damaged(format!("it has {size} bytes")))?;
        let trailer = format::decode_trailer(&read(&*self.file, at, TRAILER_LEN)?).map_err(|e| self.damaged(e))?;
        let length = size.checked_sub(trailer.footer).filter(|length| *length <= FOOTER_MAX);
        let length = length.ok_or_else(|| self.damaged(format!("its footer would begin at {}", trailer.footer)))?;
        let footer = read(&*self.file, trailer.footer, length as usize)?;
        format::decode_footer(&trailer, &footer).map_err(|e| self.damaged(e))
    }

    fn damaged(&self, what: String) -> StoreError {
        StoreError::Damaged { place: self.place.to_string(), what }
    }
}

/// Up to `length` bytes at `at`; fewer at the end of the file.
fn read(file: &dyn DiskFile, at: u64, length: usize) -> Result<Bytes, StoreError> {
    let length = length.min(usize::try_from(file.size()?.saturating_sub(at)).unwrap_or(usize::MAX));
    let mut buffer = vec![0; length];
    let got = file.read_at(&mut buffer, at)?;
    buffer.truncate(got);
    Ok(buffer.into())
}
