//! A file's way from sealed to spare, step by step, each of which may be the last before a crash.
//!
//! What the gatherer does with a sealed file: it moves live batches elsewhere and has the groups
//! purge; it copies forward what can't be purged yet ([`Journal::carry`]); then
//! [`Journal::recycle`] checks that no entry lies in the file any more, as of the last flush, and
//! journals that the file is free. Only once that record is flushed may the file be begun again,
//! so a start never misses a file whose entries still count.

use gem_types::GroupId;

use super::footer::Item;
use super::handle::Journal;
use super::layout::{Kind, Op};
use super::recovery::{footer_of, item_of};
use super::scan::{read_all, scan};
use super::segment::file_name;
use super::types::{Done, FileInfo, JournalPlace, LogPos};
use crate::StoreError;

impl Journal {
    /// The files in use, oldest first.
    pub fn files(&self) -> Vec<FileInfo> {
        self.shared.lock().file_infos()
    }

    /// Bytes on disk of all files, spare ones included.
    pub fn bytes(&self) -> u64 {
        let state = self.shared.lock();
        let spares: u64 = state.spares.iter().map(|spare| spare.size).sum();
        spares + state.files.values().map(|live| live.size).sum::<u64>()
    }

    /// Asks the writer to seal the active file, if it holds anything: with the next flush it begins
    /// another.
    pub fn seal_current(&self) {
        self.shared.lock().seal_requested = true;
        self.shared.wake_writer();
    }

    /// Looks whether the volume has room again: where nothing is written, nothing else does.
    pub fn look_for_room(&self) {
        self.shared.lock().look_requested = true;
        self.shared.wake_writer();
    }

    /// All entries that were ever written to the sealed file `file`, in order, purged and discarded
    /// ones among them: their batches may still be what a location points at. Blocks on the disk.
    pub fn entries_in(&self, file: u64, generation: u64) -> Result<Vec<(GroupId, LogPos, JournalPlace)>, StoreError> {
        let (handle, size) = {
            let state = self.shared.lock();
            match state.files.get(&file) {
                Some(live) if live.generation != generation => return Err(StoreError::Moved),
                Some(live) if live.sealed => (live.handle.clone(), live.size),
                Some(_) => return Err(StoreError::Refused(format!("journal file {file} is still being written"))),
                None => return Err(StoreError::Moved),
            }
        };
        let items: Vec<Item> = match footer_of(handle.as_ref(), generation, size)? {
            Some(footer) => footer.items,
            None => self.scan_items(file, generation, &read_all(handle.as_ref(), size)?)?,
        };
        // Nothing of what was read may be of another life of the file.
        if self.shared.lock().files.get(&file).is_none_or(|live| live.generation != generation) {
            return Err(StoreError::Moved);
        }
        let entry = |item: Item| {
            let place = JournalPlace { file, generation, position: item.position.into(), length: item.length };
            (item.kind != Kind::Truncate).then_some((item.group, item.id, place))
        };
        Ok(items.into_iter().filter_map(entry).collect())
    }

    fn scan_items(&self, file: u64, generation: u64, bytes: &[u8]) -> Result<Vec<Item>, StoreError> {
        let super::head::HeadRead::Head(head) = super::head::FileHead::decode(bytes) else {
            let what = "neither its footer nor its head reads".into();
            return Err(StoreError::Corrupt { file: file_name(file), position: 0, what });
        };
        let scan = scan(bytes, file, generation, head.end, head.sequence)?;
        Ok(scan.records.iter().filter_map(item_of).collect())
    }

    /// The entries above their groups' flushed purge marks that lie in `file`: what keeps it from
    /// being recycled.
    pub fn entries_left(&self, file: u64) -> Vec<(GroupId, LogPos)> {
        let state = self.shared.lock();
        let Ok(number) = u32::try_from(file) else { return Vec::new() };
        let of_group = |(group, log): (&GroupId, &'_ super::entries::GroupLog)| {
            log.in_file(&state.leaders, number).map(|(id, _)| (*group, id)).collect::<Vec<_>>()
        };
        state.groups.iter().flat_map(of_group).collect()
    }

    /// Copies entries forward into the active file. `done` is called once they are flushed there;
    /// those that are gone by then are left out. Reads them first: blocks on the disk.
    pub fn carry(&self, entries: &[(GroupId, LogPos)], done: Done) {
        let mut ops = Vec::with_capacity(entries.len());
        for (group, id) in entries {
            match self.read_entry(*group, id.index) {
                Ok((found, payload)) if found == *id => ops.push(Op::Carry { group: *group, id: *id, payload }),
                Ok(_) | Err(StoreError::Missing { .. }) => {}
                Err(error) => return done(Err(error)),
            }
        }
        self.enqueue(ops.into_iter(), done);
    }

    /// Frees a sealed file in which no entry above its group's flushed purge mark is left. `done`
    /// is called once that is flushed: from then on the file may be begun again, and reads of what
    /// was in it answer [`StoreError::Moved`]. Whether a location still points into it is the
    /// caller's to know.
    pub fn recycle(&self, file: u64, generation: u64, done: Done) {
        let checked = {
            let mut state = self.shared.lock();
            match state.files.get_mut(&file) {
                Some(live) if live.generation == generation => {
                    if !live.sealed || live.entries > 0 || live.recycling {
                        Err(StoreError::Refused(format!(
                            "journal file {file} can't be recycled: {}",
                            if live.entries > 0 { "entries are left in it" } else { "it is in use" }
                        )))
                    } else {
                        live.recycling = true;
                        Ok(())
                    }
                }
                _ => Err(StoreError::Moved),
            }
        };
        match checked {
            Ok(()) => self.enqueue(std::iter::once(Op::Recycled { file, generation }), done),
            Err(error) => done(Err(error)),
        }
    }
}
