//! Whatever bytes come: checking a batch doesn't panic, and a batch that passed keeps its
//! promises through reading, stamping, splitting and joining.
#![no_main]

use bytes::Bytes;
use gem_types::batch::{HEAD_LEN, RecordBatch, Rules};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    exercise(Bytes::copy_from_slice(data));
    // A fuzzer doesn't guess checksums: it gets them set right, and the length and magic too.
    if data.len() > HEAD_LEN {
        let mut sealed = data.to_vec();
        sealed[8..12].copy_from_slice(&(data.len() as i32 - 12).to_be_bytes());
        sealed[16] = 2;
        let crc = crc32c::crc32c(&sealed[21..]);
        sealed[17..21].copy_from_slice(&crc.to_be_bytes());
        exercise(sealed.into());
    }
});

fn exercise(bytes: Bytes) {
    let _ = RecordBatch::peek_len(&bytes);
    if let Ok(batch) = RecordBatch::open(bytes.clone()) {
        // Not checked: errors are fine, panics are not.
        let _ = batch.records().count();
        let _ = batch.scan().map_while(Result::ok).flat_map(|record| record.headers()).count();
        let _ = (batch.record(batch.count() - 1), batch.split(0..1), batch.select(|index| index % 2 == 1));
    }
    let Ok(mut batch) = RecordBatch::check_with(bytes.clone(), &Rules::STORED) else { return };
    assert_eq!(batch.to_bytes(), bytes);
    let records: Vec<_> = batch.records().map(|record| record.expect("a checked batch iterates")).collect();
    assert_eq!(records.len(), batch.count() as usize);
    assert_eq!(batch.record(0).as_ref(), Ok(&records[0]));

    batch.stamp(1 << 40, 12_345);
    let stamped = RecordBatch::check_with(batch.to_bytes(), &Rules::STORED).expect("a stamped batch is sound");
    assert_eq!(stamped, batch);

    let half = batch.count().div_ceil(2);
    for part in [0..half, half..batch.count()].into_iter().filter(|range| !range.is_empty()) {
        let cut = batch.split(part.clone()).expect("a part of a sound batch");
        let cut = RecordBatch::check_with(cut.to_bytes(), &Rules::STORED).expect("a part is sound");
        for (record, before) in cut.records().zip(&records[part.start as usize..]) {
            let record = record.expect("a part iterates");
            assert_eq!((&record.key, &record.value, &record.headers), (&before.key, &before.value, &before.headers));
        }
    }
    if let Ok(joined) = RecordBatch::join(&[batch.clone(), batch.clone()]) {
        assert_eq!(joined.count(), 2 * batch.count());
        RecordBatch::check_with(joined.to_bytes(), &Rules::STORED).expect("a joined batch is sound");
    }
    for record in records {
        let _ = record.into_message();
    }
}
