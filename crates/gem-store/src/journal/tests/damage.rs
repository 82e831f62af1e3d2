//! Damaged disks and failing ones.

use std::path::{Path, PathBuf};

use super::*;

fn file(n: u64) -> PathBuf {
    Path::new(DIR).join(format!("{n:08}.journal"))
}

/// Three flushes of one entry each; the positions of their payloads.
fn three(disk: &SimDisk) -> Vec<JournalPlace> {
    let (journal, mut writer) = open(disk).unwrap();
    for index in 0..3 {
        write(&journal, &mut writer, vec![append(group(1), 1, index, &[index as u8; 700])]).unwrap();
    }
    (0..3).map(|index| journal.locate(group(1), index).unwrap()).collect()
}

#[test]
fn damage_below_the_frontier_stops_the_start() {
    for (victim, back) in [(0, 80u64), (0, 60), (0, 0), (1, 88 + 64), (1, 40), (1, 1)] {
        let disk = SimDisk::new();
        let places = three(&disk);
        assert!(disk.damage(&file(places[victim].file), places[victim].position - back, 0x10));
        match open(&disk) {
            Err(StoreError::Corrupt { file, position, what }) => {
                assert_eq!(file, "00000001.journal");
                assert!(position < places[victim].position);
                // The flush's tail still names what was in it.
                assert!(what.contains(&format!("append {victim}@1 of group {}", group(1))), "{what}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn damage_to_the_last_flush_is_told_by_its_mark_or_is_in_doubt() {
    let disk = SimDisk::new();
    let last = three(&disk)[2];
    let damaged = last.position + 300;
    assert!(disk.damage(&file(last.file), damaged, 1));
    // A mark behind it says that it had been flushed.
    assert!(matches!(open(&disk), Err(StoreError::Corrupt { .. })));
    // The mark is gone as well: it may have been a power cut.
    let end = (last.position - 88 - 64) + 1024 + 512;
    assert!(disk.damage(&file(last.file), end, 1));
    match open_with(&disk, JournalConfig { stop_in_doubt: true, ..small() }) {
        Err(StoreError::Corrupt { what, .. }) => assert!(what.contains("append 2@1"), "{what}"),
        other => panic!("{other:?}"),
    }
    let (journal, mut writer) = open(&disk).unwrap();
    let doubts = &journal.recovery().doubts;
    assert_eq!(doubts.len(), 1);
    assert_eq!((doubts[0].group, doubts[0].kind, doubts[0].index), (group(1), "append", 2));
    assert_eq!(journal.marks(group(1)).last, Some(pos(1, 1)));
    // Its second identifiers are gone too: then it was a crash's tail.
    disk.damage(&file(last.file), end - 512 + 40, 1);
    let (again, _writer) = open(&disk).unwrap();
    assert!(again.recovery().doubts.is_empty());
    assert_eq!(again.recovery().cut.map(|cut| cut.file), Some(last.file));
    // And the journal goes on from there.
    write(&journal, &mut writer, vec![append(group(1), 2, 2, b"new")]).unwrap();
    assert_eq!(open(&disk).unwrap().0.read_entry(group(1), 2).unwrap(), (pos(2, 2), Bytes::from_static(b"new")));
}

#[test]
fn a_clean_stop_leaves_no_doubt() {
    let disk = SimDisk::new();
    let (journal, mut writer) = open(&disk).unwrap();
    write(&journal, &mut writer, vec![append(group(1), 1, 0, &[7; 700])]).unwrap();
    journal.close();
    assert!(!writer.wait());
    writer.finish();
    let place = journal.locate(group(1), 0).unwrap();
    disk.crash(1);
    disk.damage(&file(place.file), place.position, 1);
    assert!(matches!(open(&disk), Err(StoreError::Corrupt { .. })));
}

#[test]
fn damage_in_a_sealed_file_shows_when_it_is_read() {
    let disk = SimDisk::new();
    let places = three(&disk);
    let (journal, mut writer) = open(&disk).unwrap();
    journal.seal_current();
    writer.step();
    disk.damage(&file(places[1].file), places[1].position + 5, 1);
    assert!(journal.read_entry(group(1), 0).is_ok());
    assert!(matches!(journal.read_entry(group(1), 1), Err(StoreError::Corrupt { .. })));
    drop((journal, writer));
    let (journal, _writer) = open(&disk).unwrap();
    assert_eq!((journal.recovery().files_by_footer, journal.recovery().files_scanned), (1, 0));
    assert!(matches!(journal.read_entry(group(1), 1), Err(StoreError::Corrupt { .. })));
}

#[test]
fn a_damaged_footer_is_made_good_by_a_scan() {
    let disk = SimDisk::new();
    let places = three(&disk);
    let (journal, mut writer) = open(&disk).unwrap();
    journal.seal_current();
    writer.step();
    write(&journal, &mut writer, vec![append(group(1), 1, 3, b"next file")]).unwrap();
    drop((journal, writer));
    disk.damage(&file(places[0].file), small().segment_bytes - 512 + 20, 1);
    let (journal, _writer) = open(&disk).unwrap();
    assert_eq!((journal.recovery().files_by_footer, journal.recovery().files_scanned), (0, 2));
    assert_eq!(journal.read_entry(group(1), 2).unwrap().1, vec![2; 700]);
    assert_eq!(journal.entries_in(places[0].file, places[0].generation).unwrap().len(), 3);
}

#[test]
fn a_lost_head_is_noticed() {
    let disk = SimDisk::new();
    let places = three(&disk);
    let (journal, mut writer) = open(&disk).unwrap();
    journal.seal_current();
    writer.step();
    for index in 3..5 {
        write(&journal, &mut writer, vec![append(group(1), 1, index, b"next file")]).unwrap();
    }
    let active = journal.locate(group(1), 3).unwrap().file;
    drop((journal, writer));
    for victim in [places[0].file, active] {
        disk.damage(&file(victim), 30, 1);
        assert!(matches!(open(&disk), Err(StoreError::Corrupt { .. })), "head of file {victim}");
        disk.damage(&file(victim), 30, 1);
    }
    open(&disk).unwrap();
}

#[test]
fn a_file_that_is_gone_is_noticed() {
    let disk = SimDisk::new();
    let places = three(&disk);
    let (journal, mut writer) = open(&disk).unwrap();
    journal.seal_current();
    writer.step();
    write(&journal, &mut writer, vec![append(group(1), 1, 3, b"next file")]).unwrap();
    drop((journal, writer));
    disk.remove(&file(places[0].file)).unwrap();
    assert!(matches!(open(&disk), Err(StoreError::Corrupt { .. })));
}

#[test]
fn a_failed_flush_is_the_end() {
    for fail in [SimDisk::fail_next_sync, SimDisk::fail_next_write] {
        let disk = SimDisk::new();
        let (journal, mut writer) = open(&disk).unwrap();
        write(&journal, &mut writer, vec![append(group(1), 1, 0, b"stored")]).unwrap();
        fail(&disk);
        let (first, second) = (Outcome::default(), Outcome::default());
        journal.submit(vec![append(group(1), 1, 1, b"lost")], first.done());
        writer.step();
        journal.submit(vec![append(group(1), 1, 1, b"refused")], second.done());
        writer.step();
        for outcome in [first, second] {
            match outcome.take().unwrap() {
                Err(StoreError::Poisoned { detail }) => assert!(detail.contains("the disk fails"), "{detail}"),
                other => panic!("{other:?}"),
            }
        }
        assert!(!journal.room().publish_ok);
        assert!(matches!(journal.read_entry(group(1), 0), Err(StoreError::Poisoned { .. })));
        drop(writer);
        // A restart finds what is really there.
        disk.crash(3);
        let (journal, _writer) = open(&disk).unwrap();
        assert_eq!(journal.read_entry(group(1), 0).unwrap().1, Bytes::from_static(b"stored"));
    }
}

#[test]
fn a_later_format_is_refused_by_name() {
    let disk = SimDisk::new();
    three(&disk);
    // Version 1 becomes 3; the head's CRC is set right, as a later gem would have.
    let path = file(1);
    let handle = disk.open(&path).unwrap();
    let mut head = vec![0; 512];
    handle.read_at(&mut head, 0).unwrap();
    let length = super::super::head::FileHead::len(&head).unwrap();
    head.resize(length.max(512), 0);
    handle.read_at(&mut head, 0).unwrap();
    head[12] = 3;
    let crc = crc32c::crc32c(&head[12..length]);
    head[8..12].copy_from_slice(&crc.to_le_bytes());
    handle.write_at(&[std::io::IoSlice::new(&head)], 0).unwrap();
    let refusal = open(&disk).unwrap_err().to_string();
    assert!(refusal.contains("format 3"), "{refusal}");
}
