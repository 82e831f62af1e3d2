//! The same on real files, with a real thread.

use std::path::Path;

use super::*;
use crate::disk::OsDisk;

fn open_real(dir: &Path, config: &JournalConfig) -> (Journal, WriterThread) {
    let (journal, writer) = Journal::open(Arc::new(OsDisk), dir, config.clone(), Arc::new(Still)).unwrap();
    (journal, spawn_writer_thread(writer).unwrap())
}

#[test]
fn real_files_keep_what_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let config = JournalConfig { segment_bytes: 256 << 10, ..small() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let payload = |index: u64| Bytes::from(vec![index as u8; 10_000]);
    for round in 0..3u64 {
        let (journal, thread) = open_real(dir.path(), &config);
        for index in 0..round * 100 {
            assert_eq!(journal.read_entry(group(1), index).unwrap().1, payload(index));
        }
        runtime.block_on(async {
            for index in round * 100..(round + 1) * 100 {
                // More slices than one pwritev takes.
                let parts = payload(index).chunks(7).map(Bytes::copy_from_slice).collect();
                let op = JournalOp::Append { group: group(1), id: pos(1, index), parts };
                journal.write(vec![op]).await.unwrap();
            }
        });
        assert!(journal.files().len() > 2);
        thread.stop();
        runtime.block_on(async {
            assert!(journal.write(vec![append(group(1), 1, (round + 1) * 100, b"late")]).await.is_err());
        });
    }
}
