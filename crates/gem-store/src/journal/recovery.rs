//! What a start does: finds the files in use, reads them in the order in which they were written,
//! and goes on where the last good flush ends.
//!
//! 1. The file with the highest generation names, in its head (or footer, if it is sealed), all
//!    files in use. Each must be there under that generation: a damaged head shows here. A head
//!    that was lost with what followed it shows in [`lost_head`].
//! 2. Sealed files are read by their footers, the unsealed one is [scanned](super::scan). A sealed
//!    file whose footer is damaged is scanned too, up to where the next file's frontier says that
//!    it was flushed.
//! 3. [Replay](super::replay) leaves every group's log, or names what is missing.
//! 4. What was read of the last flush may be in the operating system's memory alone (the process
//!    was killed before its fdatasync came back, or that failed): it is written and synced again
//!    before anything is built on it, as are the files' names.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use gem_types::seams::Clock;

use super::entries::{GroupLog, Leaders};
use super::footer::{Footer, FooterBuilder, Item, Seal};
use super::handle::Journal;
use super::head::{FileHead, HeadRead};
use super::layout::{Encoded, Kind, SECTOR};
use super::replay::Replay;
use super::scan::{Scan, lost_head, read_all, scan};
use super::segment::{Segment, file_name, file_number};
use super::state::{LiveFile, Shared, Spare, State};
use super::types::{Cut, JournalConfig, Recovery};
use super::writer::Writer;
use crate::StoreError;
use crate::disk::{Disk, DiskFile};

/// Opens and recovers the journal in `dir`.
pub(super) fn open(
    disk: Arc<dyn Disk>,
    dir: &Path,
    config: JournalConfig,
    clock: Arc<dyn Clock>,
) -> Result<(Journal, Writer), StoreError> {
    check_config(&config)?;
    disk.create_dir_all(dir)?;
    // A process that was killed may have left files whose names are not durable yet.
    disk.sync_dir(dir)?;
    let mut recovery = Recovery::default();
    let Directory { headed, blank } = Directory::read(disk.as_ref(), dir)?;
    let numbers = headed.iter().map(|f| f.head.file).chain(blank.iter().map(|spare| spare.file));
    let next_file = numbers.max().map_or(0, |file| file + 1);
    let newest_read = headed.last().map(Contents::read).transpose()?;

    // 1. What is in use.
    let in_use = match (headed.last(), &newest_read) {
        (Some(newest), Some(contents)) => contents.files_after(&newest.head),
        _ => BTreeMap::new(),
    };
    let newest = headed.last().map_or(0, |newest| newest.head.generation);
    let (used, unused): (Vec<_>, Vec<_>) = headed.into_iter().partition(|f| f.is_in(&in_use));
    if let Some((file, generation)) = in_use.iter().find(|(file, _)| !used.iter().any(|f| f.head.file == **file)) {
        let what = format!("the file, or its head, is missing; it is in use under generation {generation}");
        return Err(StoreError::Corrupt { file: file_name(*file), position: 0, what });
    }
    let mut spares: Vec<_> = unused.iter().map(Headed::spare).chain(blank).collect();
    // A file was being begun only if the newest one is sealed, or if there is none yet.
    let beginning = !matches!(newest_read, Some(Contents::Scanned(..)));
    let highest = if beginning { check_lost_heads(&spares, newest)? } else { newest };

    // 2. and 3. What they hold.
    let mut replay = Replay::default();
    let mut newest_read = newest_read;
    let mut tail = None;
    for (i, file) in used.iter().enumerate() {
        let contents = match used.get(i + 1) {
            Some(next) => Contents::read(file)?.checked(file, &next.head)?,
            None => match newest_read.take() {
                Some(contents) => contents,
                None => Contents::read(file)?,
            },
        };
        contents.replay(file, &mut replay, &mut recovery);
        tail = Some(contents);
    }
    let sealed = |f: &Headed| f.head.generation != newest || !matches!(tail, Some(Contents::Scanned(..)));
    let files: BTreeMap<_, _> =
        used.iter().filter(|f| f.is_in(&replay.files)).map(|f| (f.head.file, f.live(sealed(f)))).collect();
    spares.extend(used.iter().filter(|f| !f.is_in(&replay.files)).map(Headed::spare));
    let (groups, leaders) = replay.finish(newest)?;
    recovery.entries = groups.values().map(|log| log.slots().count() as u64).sum();

    // 4. Going on.
    let mut active = None;
    let (sequence, frontier) = match (used.last(), tail) {
        (Some(newest), Some(Contents::Scanned(_, scan))) => {
            report_tail(&newest.head, &scan, config.stop_in_doubt)?;
            recovery.cut = scan.torn.then_some(Cut { file: newest.head.file, position: scan.end });
            make_durable(newest, &[(0, newest.head.end), scan.last_flush])?;
            active = Some(newest.segment(&scan));
            recovery.doubts = scan.doubts;
            (scan.sequence, (newest.head.generation, scan.end))
        }
        (Some(newest), Some(Contents::Footer(footer))) => {
            let seal = read_seal(newest)?.map_or((0, 0), |seal| (seal.position, seal.position + seal.length));
            make_durable(newest, &[seal, (newest.size() - SECTOR, newest.size())])?;
            (footer.sequence, (newest.head.generation, seal.0))
        }
        _ => (1, (0, 0)),
    };
    // What a crash left half-made, or what another size was set for.
    let (spares, odd): (Vec<_>, Vec<_>) = spares.into_iter().partition(|spare| spare.size == config.segment_bytes);
    for spare in odd {
        disk.remove(&dir.join(file_name(spare.file)))?;
    }
    let state = opened_state(groups, leaders, files, spares);
    let shared = Shared::new(state, config, recovery);
    let mut writer = Writer {
        shared: shared.clone(),
        disk,
        dir: dir.to_path_buf(),
        clock,
        active,
        next_sequence: sequence,
        next_generation: highest + 1,
        next_file,
        frontier,
        encoded: Encoded::default(),
    };
    writer.prepare();
    Ok((Journal { shared }, writer))
}

fn check_config(config: &JournalConfig) -> Result<(), StoreError> {
    let legal = (64 << 10..1 << 32).contains(&config.segment_bytes) && config.segment_bytes.is_multiple_of(SECTOR);
    let what = || {
        format!(
            "journal files of {} bytes: take a multiple of {SECTOR} from 64 KiB to below 4 GiB",
            config.segment_bytes
        )
    };
    if legal { Ok(()) } else { Err(StoreError::Refused(what())) }
}

/// The state that a journal starts from.
fn opened_state(
    groups: BTreeMap<gem_types::GroupId, GroupLog>,
    leaders: Leaders,
    mut files: BTreeMap<u64, LiveFile>,
    spares: Vec<Spare>,
) -> State {
    for slot in groups.values().flat_map(GroupLog::slots) {
        if let Some(file) = files.get_mut(&u64::from(slot.file)) {
            file.entries += 1;
        }
    }
    State { groups, leaders, files, spares, ..Default::default() }
}

/// A file whose head reads.
struct Headed {
    head: FileHead,
    handle: Arc<dyn DiskFile>,
    /// The file's bytes on disk.
    actual: u64,
}

impl Headed {
    fn is_in(&self, files: &BTreeMap<u64, u64>) -> bool {
        files.get(&self.head.file) == Some(&self.head.generation)
    }

    fn size(&self) -> u64 {
        self.head.size
    }

    fn spare(&self) -> Spare {
        Spare { file: self.head.file, handle: self.handle.clone(), size: self.actual }
    }

    fn live(&self, sealed: bool) -> LiveFile {
        let (generation, handle, size) = (self.head.generation, self.handle.clone(), self.size());
        LiveFile { generation, handle, size, used: size, sealed, entries: 0, recycling: false }
    }

    /// The file as the active one, to go on where the scan ended.
    fn segment(&self, scan: &Scan) -> Segment {
        let mut footer = FooterBuilder::default();
        scan.records.iter().filter_map(item_of).for_each(|item| footer.push(&item));
        let (file, generation, handle) = (self.head.file, self.head.generation, self.handle.clone());
        let used = scan.end > self.head.end;
        Segment { file, generation, handle, size: self.size(), position: scan.end, footer, used }
    }
}

/// A scanned record as a footer's item, if it is one.
pub(super) fn item_of(found: &super::scan::Found) -> Option<Item> {
    let head = found.head;
    let moves = matches!(head.kind, Kind::Append | Kind::Carry | Kind::Truncate);
    let position = found.position as u32;
    moves.then_some(Item { kind: head.kind, group: head.group, id: head.id, position, length: head.length })
}

/// The journal's files, by whether they have a head.
struct Directory {
    /// By generation.
    headed: Vec<Headed>,
    blank: Vec<Spare>,
}

impl Directory {
    fn read(disk: &dyn Disk, dir: &Path) -> Result<Directory, StoreError> {
        let mut directory = Directory { headed: Vec::new(), blank: Vec::new() };
        for name in disk.list(dir)? {
            let Some(file) = file_number(&name) else { continue };
            let handle = disk.open(&dir.join(&name))?;
            let actual = handle.size()?;
            match read_head(handle.as_ref())? {
                HeadRead::Head(head) if head.file == file => directory.headed.push(Headed { head, handle, actual }),
                HeadRead::Head(head) => {
                    let what = format!("it was written as {}: give it back its name", file_name(head.file));
                    return Err(StoreError::Corrupt { file: name, position: 0, what });
                }
                HeadRead::Later(version) => {
                    return Err(StoreError::Directory(format!(
                        "{}: the journal has format {version}, which a later gem wrote: start it with that one",
                        dir.join(name).display()
                    )));
                }
                HeadRead::None => directory.blank.push(Spare { file, handle, size: actual }),
            }
        }
        directory.headed.sort_by_key(|f| f.head.generation);
        Ok(directory)
    }
}

fn read_head(handle: &dyn DiskFile) -> Result<HeadRead, StoreError> {
    let mut bytes = vec![0; SECTOR as usize];
    let got = handle.read_at(&mut bytes, 0)?;
    bytes.truncate(got);
    match FileHead::len(&bytes) {
        Some(length) if length as u64 > handle.size()? => return Ok(HeadRead::None),
        Some(length) if length > bytes.len() => {
            bytes = vec![0; length];
            let got = handle.read_at(&mut bytes, 0)?;
            bytes.truncate(got);
        }
        _ => {}
    }
    Ok(FileHead::decode(&bytes))
}

fn read_seal(file: &Headed) -> Result<Option<Seal>, StoreError> {
    let at = file.size().saturating_sub(SECTOR);
    let mut bytes = vec![0; SECTOR as usize];
    let got = file.handle.read_at(&mut bytes, at)?;
    Ok(Seal::decode(bytes.get(..got).unwrap_or_default(), file.head.generation, at))
}

fn read_footer(file: &Headed) -> Result<Option<Footer>, StoreError> {
    footer_of(file.handle.as_ref(), file.head.generation, file.size())
}

/// The footer of a file; `None` where it is not sealed, or the footer is damaged.
pub(super) fn footer_of(handle: &dyn DiskFile, generation: u64, size: u64) -> Result<Option<Footer>, StoreError> {
    let at = size.saturating_sub(SECTOR);
    let mut bytes = vec![0; SECTOR as usize];
    let got = handle.read_at(&mut bytes, at)?;
    let Some(seal) = Seal::decode(bytes.get(..got).unwrap_or_default(), generation, at) else { return Ok(None) };
    if seal.position.checked_add(seal.length).is_none_or(|end| end > size) {
        return Ok(None);
    }
    let mut bytes = vec![0; seal.length as usize];
    let got = handle.read_at(&mut bytes, seal.position)?;
    Ok(Footer::decode(bytes.get(..got).unwrap_or_default(), generation, seal.position))
}

/// Searches files that are not in use for one whose head was lost together with what had been
/// flushed behind it. Answers the highest generation that was ever begun.
fn check_lost_heads(spares: &[Spare], newest: u64) -> Result<u64, StoreError> {
    let mut highest = newest;
    for spare in spares {
        let (generation, flushed) = lost_head(&read_all(spare.handle.as_ref(), spare.size)?, newest);
        if flushed {
            let what = format!("the head of generation {generation} is damaged, and what follows it had been flushed");
            return Err(StoreError::Corrupt { file: file_name(spare.file), position: 0, what });
        }
        highest = highest.max(generation);
    }
    Ok(highest)
}

/// What a file holds, read by its footer or by a scan of its bytes.
enum Contents {
    Footer(Footer),
    Scanned(Vec<u8>, Scan),
}

impl Contents {
    fn read(file: &Headed) -> Result<Contents, StoreError> {
        if let Some(footer) = read_footer(file)? {
            return Ok(Contents::Footer(footer));
        }
        let FileHead { generation, file: number, sequence, end, .. } = file.head;
        let bytes = read_all(file.handle.as_ref(), file.size())?;
        let scan = scan(&bytes, number, generation, end, sequence)?;
        Ok(Contents::Scanned(bytes, scan))
    }

    /// Holds a scan to what the next file says was flushed of this one.
    fn checked(self, file: &Headed, next: &FileHead) -> Result<Contents, StoreError> {
        match &self {
            Contents::Scanned(_, scan) if next.frontier.0 == file.head.generation && scan.end < next.frontier.1 => {
                let what = format!("it was flushed up to byte {}", next.frontier.1);
                Err(StoreError::Corrupt { file: file_name(file.head.file), position: scan.end, what })
            }
            _ => Ok(self),
        }
    }

    /// The files in use at the end of this one.
    fn files_after(&self, head: &FileHead) -> BTreeMap<u64, u64> {
        let scan = match self {
            Contents::Footer(footer) => return footer.table.files.clone(),
            Contents::Scanned(_, scan) => scan,
        };
        let mut files = head.table.files.clone();
        for record in scan.records.iter().map(|found| found.head).filter(|head| head.kind == Kind::Recycled) {
            if files.get(&record.id.index) == Some(&record.id.term) {
                files.remove(&record.id.index);
            }
        }
        files
    }

    fn replay(&self, file: &Headed, replay: &mut Replay, recovery: &mut Recovery) {
        let number = file.head.file;
        replay.table(file.head.table.clone());
        match self {
            Contents::Footer(footer) => {
                footer.items.iter().for_each(|item| replay.item(number, item));
                replay.table(footer.table.clone());
                recovery.files_by_footer += 1;
            }
            Contents::Scanned(bytes, scan) => {
                for found in &scan.records {
                    let from = found.position as usize;
                    let payload = bytes.get(from..from + found.head.length as usize).unwrap_or_default();
                    replay.record(number, found, payload);
                }
                recovery.files_scanned += 1;
            }
        }
    }
}

/// Tells of a tail that is cut, or stops for it.
fn report_tail(head: &FileHead, scan: &Scan, stop_in_doubt: bool) -> Result<(), StoreError> {
    let (file, position) = (file_name(head.file), scan.end);
    if scan.doubts.is_empty() {
        if scan.torn {
            tracing::info!(file, position, "cut off a flush that a crash had left unfinished");
        }
        return Ok(());
    }
    let names: Vec<_> = scan
        .doubts
        .iter()
        .map(|doubt| format!("{} {}@{} of group {}", doubt.kind, doubt.index, doubt.term, doubt.group))
        .collect();
    let what = format!("the last flush does not read, and may or may not have been acknowledged: {}", names.join(", "));
    if stop_in_doubt {
        return Err(StoreError::Corrupt { file, position, what });
    }
    tracing::warn!(file, position, what, "cut off the last flush");
    Ok(())
}

/// Writes ranges of a file again as they read, and syncs.
fn make_durable(file: &Headed, ranges: &[(u64, u64)]) -> Result<(), StoreError> {
    for (from, to) in ranges {
        let mut bytes = vec![0; to.saturating_sub(*from) as usize];
        let got = file.handle.read_at(&mut bytes, *from)?;
        file.handle.write_at(&[IoSlice::new(bytes.get(..got).unwrap_or_default())], *from)?;
    }
    Ok(file.handle.sync()?)
}
