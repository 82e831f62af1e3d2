//! Files: rolling, recycling, carrying forward, and running out of room.

use super::*;
use crate::disk::Space;

/// Appends entries of `size` bytes to group 1 until `files` files are in use.
fn fill(journal: &Journal, writer: &mut Writer, size: usize, files: usize) -> u64 {
    let mut index = journal.marks(group(1)).last.map_or(0, |last| last.index + 1);
    while journal.files().len() < files {
        write(journal, writer, vec![append(group(1), 1, index, &vec![index as u8; size])]).unwrap();
        index += 1;
    }
    index - 1
}

fn purge(journal: &Journal, writer: &mut Writer, index: u64) {
    write(journal, writer, vec![JournalOp::Purge { group: group(1), id: pos(1, index) }]).unwrap();
}

fn recycle(journal: &Journal, writer: &mut Writer, file: &FileInfo) -> Result<(), StoreError> {
    let outcome = Outcome::default();
    journal.recycle(file.file, file.generation, outcome.done());
    while writer.step() {}
    outcome.take().unwrap()
}

#[test]
fn entries_are_found_across_files_and_starts() {
    let disk = SimDisk::new();
    let (journal, mut writer) = open(&disk).unwrap();
    let last = fill(&journal, &mut writer, 5000, 5);
    drop((journal, writer));
    let (journal, _writer) = open(&disk).unwrap();
    assert_eq!((journal.recovery().files_by_footer, journal.recovery().files_scanned), (4, 1));
    for index in 0..=last {
        assert_eq!(journal.read_entry(group(1), index).unwrap().1, vec![index as u8; 5000]);
    }
    let listed: usize = journal
        .files()
        .iter()
        .filter(|file| file.sealed)
        .map(|file| journal.entries_in(file.file, file.generation).unwrap().len())
        .sum();
    assert_eq!(listed as u64, last);
}

#[test]
fn a_file_is_recycled_once_its_entries_are_purged() {
    let disk = SimDisk::new();
    let (journal, mut writer) = open(&disk).unwrap();
    fill(&journal, &mut writer, 5000, 3);
    let oldest = journal.files()[0];
    let place = journal.locate(group(1), 0).unwrap();
    assert_eq!(place.file, oldest.file);
    assert!(matches!(recycle(&journal, &mut writer, &oldest), Err(StoreError::Refused(_))));
    let inside = journal.entries_in(oldest.file, oldest.generation).unwrap();
    purge(&journal, &mut writer, inside.last().unwrap().1.index);
    // Purged, but still readable: a location may point there.
    assert_eq!(journal.read(place, 10..20).unwrap(), vec![0; 10]);
    recycle(&journal, &mut writer, &oldest).unwrap();
    assert!(matches!(journal.read(place, 10..20), Err(StoreError::Moved)));
    assert!(matches!(journal.entries_in(oldest.file, oldest.generation), Err(StoreError::Moved)));
    // It is used again, under a new generation.
    let bytes = journal.bytes();
    fill(&journal, &mut writer, 5000, 4);
    assert!(journal.files().iter().any(|file| file.file == oldest.file && file.generation > oldest.generation));
    assert!(journal.bytes() <= bytes + small().segment_bytes);
    assert!(matches!(journal.read(place, 10..20), Err(StoreError::Moved)));
}

#[test]
fn carried_entries_outlive_their_file() {
    let disk = SimDisk::new();
    let (journal, mut writer) = open(&disk).unwrap();
    let slow = group(2);
    let ops = (0..3).map(|index| append(slow, 7, index, &[index as u8; 99])).collect();
    write(&journal, &mut writer, ops).unwrap();
    for round in 0..12 {
        let last = fill(&journal, &mut writer, 5000, 3);
        purge(&journal, &mut writer, last);
        for file in journal.files().into_iter().filter(|file| file.sealed) {
            let outcome = Outcome::default();
            journal.carry(&journal.entries_left(file.file), outcome.done());
            while writer.step() {}
            outcome.take().unwrap().unwrap();
            recycle(&journal, &mut writer, &file).unwrap();
        }
        if round % 3 == 0 {
            drop(std::mem::replace(&mut writer, open(&SimDisk::new()).unwrap().1));
            disk.crash(round);
        }
        let (again, next) = open(&disk).unwrap();
        assert_eq!(again.marks(slow).last, Some(pos(7, 2)));
        for index in 0..3 {
            assert_eq!(again.read_entry(slow, index).unwrap(), (pos(7, index), vec![index as u8; 99].into()));
        }
        if round % 3 == 0 {
            return carried_on(again, next);
        }
    }
}

/// The carried entries may still be cut off by an append.
fn carried_on(journal: Journal, mut writer: Writer) {
    write(&journal, &mut writer, vec![append(group(2), 8, 1, b"another leader's")]).unwrap();
    assert_eq!(journal.marks(group(2)).last, Some(pos(8, 1)));
    assert!(matches!(journal.read_entry(group(2), 2), Err(StoreError::Missing { .. })));
}

#[test]
fn publishes_are_refused_before_the_disk_is_full_and_the_reserve_goes_on() {
    let disk = SimDisk::new();
    let segment = small().segment_bytes;
    disk.set_space(Space { total: 5 * segment, available: 5 * segment });
    let (journal, mut writer) = open(&disk).unwrap();
    let mut index = 0;
    while journal.room().publish_ok {
        write(&journal, &mut writer, vec![append(group(1), 1, index, &[1; 6000])]).unwrap();
        index += 1;
    }
    let room = journal.room();
    assert!(room.available >= room.reserve, "{room:?}");
    assert!(journal.bytes() <= 5 * segment);
    // Votes and purges still go through, for long.
    for round in 0..25u64 {
        let vote = JournalOp::Vote { group: group(1), vote: round.to_le_bytes().to_vec().into() };
        write(&journal, &mut writer, vec![vote]).unwrap();
    }
    // And purging frees files, until publishes are taken again.
    purge(&journal, &mut writer, index - 1);
    journal.seal_current();
    while writer.step() {}
    for file in journal.files().into_iter().filter(|file| file.sealed) {
        recycle(&journal, &mut writer, &file).unwrap();
    }
    assert!(journal.room().publish_ok);
}

#[test]
fn what_the_volume_must_keep_is_not_taken() {
    let disk = SimDisk::new();
    let segment = small().segment_bytes;
    disk.set_space(Space { total: 9 * segment, available: 9 * segment });
    let config = JournalConfig { disk_reserve: 4 * segment, ..small() };
    let (journal, mut writer) = open_with(&disk, config).unwrap();
    let mut index = 0;
    while journal.room().publish_ok {
        write(&journal, &mut writer, vec![append(group(1), 1, index, &[1; 6000])]).unwrap();
        index += 1;
    }
    assert!(disk.space(Path::new(DIR)).unwrap().available >= 4 * segment);
}

#[test]
fn spare_files_do_not_pile_up() {
    let disk = SimDisk::new();
    let (journal, mut writer) = open(&disk).unwrap();
    let last = fill(&journal, &mut writer, 5000, 9);
    purge(&journal, &mut writer, last);
    for file in journal.files().into_iter().filter(|file| file.sealed) {
        recycle(&journal, &mut writer, &file).unwrap();
    }
    let files = disk.list(Path::new(DIR)).unwrap().len();
    assert!(files <= 1 + small().spares_max, "{files} files");
}
