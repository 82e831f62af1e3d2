//! How operations gather into flushes, and what callers see before and after.

use super::*;

#[test]
fn what_waits_together_is_flushed_once() {
    let disk = SimDisk::new();
    let (journal, mut writer) = open_with(&disk, JournalConfig { segment_bytes: 1 << 20, ..small() }).unwrap();
    write(&journal, &mut writer, vec![append(group(0), 1, 0, b"first")]).unwrap();
    let (syncs, flushes) = (disk.syncs(), journal.counters().flushes());
    let acked = Arc::new(AtomicU64::new(0));
    for n in 1..100 {
        journal.submit(vec![append(group(n), 1, 0, b"payload")], count(&acked, 1));
    }
    assert_eq!(acked.load(Ordering::Relaxed), 0, "nothing is acknowledged before its flush");
    assert!(writer.step());
    assert_eq!(acked.load(Ordering::Relaxed), 99);
    assert_eq!((disk.syncs() - syncs, journal.counters().flushes() - flushes), (1, 1));
    assert!(!writer.step());
    assert_eq!(journal.counters().flush_histogram().iter().sum::<u64>(), journal.counters().flushes());
}

#[test]
fn a_flush_is_bounded() {
    let disk = SimDisk::new();
    let config = JournalConfig { flush_bytes: 4000, ..small() };
    let (journal, mut writer) = open_with(&disk, config).unwrap();
    let acked = Arc::new(AtomicU64::new(0));
    for index in 0..6 {
        journal.submit(vec![append(group(1), 1, index, &[0; 1500])], count(&acked, 1));
    }
    let mut rounds = 0;
    while writer.step() {
        rounds += 1;
        assert_eq!(acked.load(Ordering::Relaxed), 2 * rounds);
    }
    assert_eq!(rounds, 3);
}

#[test]
fn entries_are_seen_when_submitted_and_located_when_flushed() {
    let (journal, mut writer) = open(&SimDisk::new()).unwrap();
    let parts = vec![Bytes::from_static(b"one "), Bytes::new(), Bytes::from_static(b"two")];
    journal.submit(vec![JournalOp::Append { group: group(1), id: pos(1, 0), parts }], Box::new(drop));
    assert_eq!(journal.read_entry(group(1), 0).unwrap(), (pos(1, 0), Bytes::from_static(b"one two")));
    assert_eq!(journal.entry(group(1), 0), Some((pos(1, 0), 7)));
    assert_eq!(journal.locate(group(1), 0), None);
    assert_eq!((journal.marks(group(1)).last, journal.flushed_marks(group(1)).last), (Some(pos(1, 0)), None));
    writer.step();
    let place = journal.locate(group(1), 0).unwrap();
    assert_eq!(journal.read(place, 4..7).unwrap(), Bytes::from_static(b"two"));
    assert!(matches!(journal.read(place, 4..8), Err(StoreError::Refused(_))));
    assert_eq!(journal.read_entry(group(1), 0).unwrap().1, Bytes::from_static(b"one two"));
}

#[test]
fn a_commit_mark_asks_for_no_flush_of_its_own() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let lazy_flush = Duration::from_millis(30);
        let (journal, writer) = open_with(&SimDisk::new(), JournalConfig { lazy_flush, ..small() }).unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(run_writer(writer));
        journal.write(vec![append(group(1), 1, 0, b"x")]).await.unwrap();
        let flushes = journal.counters().flushes();
        let commit = || JournalOp::Commit { group: group(1), id: pos(1, 0) };
        let (rides, waits) = (Outcome::default(), Outcome::default());
        // With another operation it goes out at once.
        journal.submit(vec![commit()], rides.done());
        journal.write(vec![append(group(1), 1, 1, b"y")]).await.unwrap();
        assert!(rides.take().unwrap().is_ok());
        assert_eq!(journal.counters().flushes(), flushes + 1);
        // Alone it waits for its time.
        let alone = tokio::time::timeout(lazy_flush / 3, journal.write(vec![commit()]));
        assert!(alone.await.is_err());
        tokio::time::timeout(Duration::from_secs(20), journal.write(vec![commit()])).await.unwrap().unwrap();
        journal.submit(vec![commit()], waits.done());
        journal.close();
        tasks.join_next().await.unwrap().unwrap();
        assert!(waits.take().unwrap().is_ok(), "a close flushes what is queued");
    });
}

#[test]
fn callers_wait_for_the_queue() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let (journal, mut writer) = open(&SimDisk::new()).unwrap();
        for index in 0..8 {
            journal.submit(vec![append(group(1), 1, index, &[0; 3000])], Box::new(drop));
        }
        let short = Duration::from_millis(10);
        assert!(tokio::time::timeout(short, journal.slack()).await.is_err());
        while writer.step() {}
        tokio::time::timeout(short, journal.slack()).await.unwrap();
    });
}

#[test]
fn what_contradicts_the_log_is_refused() {
    let (journal, mut writer) = open(&SimDisk::new()).unwrap();
    write(&journal, &mut writer, vec![append(group(1), 1, 5, b"any first index")]).unwrap();
    let refused = |writer: &mut Writer, op| matches!(write(&journal, writer, vec![op]), Err(StoreError::Refused(_)));
    assert!(refused(&mut writer, append(group(1), 1, 7, b"a gap")));
    write(&journal, &mut writer, vec![JournalOp::Purge { group: group(1), id: pos(1, 5) }]).unwrap();
    assert!(refused(&mut writer, append(group(1), 1, 5, b"below the purge mark")));
    let huge = append(group(1), 1, 6, &vec![0; small().segment_bytes as usize]);
    assert!(matches!(write(&journal, &mut writer, vec![huge]), Err(StoreError::TooLarge { .. })));
    write(&journal, &mut writer, vec![JournalOp::Tombstone { group: group(1) }]).unwrap();
    assert!(refused(&mut writer, append(group(1), 1, 6, b"a dropped group")));
    assert!(journal.marks(group(1)).tombstone);
}

#[test]
fn groups_are_found_again() {
    let disk = SimDisk::new();
    let (journal, mut writer) = open(&disk).unwrap();
    let create = |n: u8| JournalOp::Create { group: group(n), bytes: vec![n; 9].into() };
    write(&journal, &mut writer, (0..16).map(create).collect()).unwrap();
    write(&journal, &mut writer, vec![JournalOp::Tombstone { group: group(3) }]).unwrap();
    let want: Vec<_> = (0..16).filter(|n| *n != 3).map(|n| (group(n), Bytes::from(vec![n; 9]))).collect();
    assert_eq!(journal.groups(), want);
    drop((journal, writer));
    assert_eq!(open(&disk).unwrap().0.groups(), want);
}
