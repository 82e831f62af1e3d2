//! Bytes that were written once and must be read for ever: see `fixtures/README.md`.

use bytes::Bytes;
use gem_types::Message;
use gem_types::batch::{BatchBuilder, Codec, RecordBatch};

const KAFKA: [(Codec, &[u8]); 6] = [
    (Codec::None, include_bytes!("fixtures/kafka-none.batch")),
    (Codec::Gzip, include_bytes!("fixtures/kafka-gzip.batch")),
    (Codec::Snappy, include_bytes!("fixtures/kafka-snappy.batch")),
    (Codec::Snappy, include_bytes!("fixtures/kafka-snappy-raw.batch")),
    (Codec::Lz4, include_bytes!("fixtures/kafka-lz4.batch")),
    (Codec::Zstd, include_bytes!("fixtures/kafka-zstd.batch")),
];

#[test]
fn kafka_python_s_batches_read() {
    for (codec, bytes) in KAFKA {
        let batch = RecordBatch::check(Bytes::from_static(bytes)).unwrap();
        assert_eq!((batch.codec(), batch.count(), batch.base_offset()), (codec, 12, 0));
        assert_eq!((batch.first_timestamp_ms(), batch.max_timestamp_ms()), (1_700_000_000_000, 1_700_000_002_750));
        assert_eq!(batch.producer_id().map(|id| id.0), Some(123_456));
        assert_eq!((batch.producer_epoch(), batch.base_sequence()), (12, 9999));
        for (i, record) in batch.records().enumerate() {
            let record = record.unwrap();
            assert_eq!(record.offset, i as u64);
            assert_eq!(record.timestamp_ms, 1_700_000_000_000 + 250 * i as i64);
            assert_eq!(record.key, (i % 3 != 0).then(|| format!("key-{i}").into()));
            let value = if i == 11 { String::new() } else { format!("value {i} ").repeat(i * 40 + 1) };
            assert_eq!(record.value, value);
            let message = record.into_message();
            assert_eq!(message.id, (i % 2 == 1).then(|| format!("id-{i}")));
            assert_eq!(message.headers.len(), i % 2);
            if i % 2 == 1 {
                assert_eq!(
                    message.header("trace").unwrap().as_ref(),
                    [&b"\xff\x00"[..], i.to_string().as_bytes()].concat()
                );
            }
        }
    }
}

fn plain() -> RecordBatch {
    let first = Message {
        id: None,
        key: Some(Bytes::from_static(b"customer-7")),
        headers: vec![("content-type".into(), Bytes::from_static(b"application/json"))],
        payload: Bytes::from_static(br#"{"order_id":123,"status":"shipped"}"#),
    };
    let second = Message { payload: Bytes::from_static(&[0, 255, 128]), ..Message::default() };
    let mut builder = BatchBuilder::new();
    builder.push(&first, "0199a5b0-7a10-7c2e-8f00-000000000001");
    builder.push(&second, "order-124");
    let mut batch = builder.finish(1_790_000_000_000);
    batch.stamp(4_294_967_296, 1_790_000_000_250);
    batch
}

#[test]
fn a_batch_is_written_as_it_was_in_the_first_version() {
    let golden = Bytes::from_static(include_bytes!("fixtures/gem-plain.batch"));
    assert_eq!(plain().to_bytes(), golden);
    assert_eq!(RecordBatch::check(golden).unwrap(), plain());
}

/// Writes the fixture anew. Only for a new format under a new name: the old file stays.
#[test]
#[ignore = "writes a fixture"]
#[expect(clippy::disallowed_methods, reason = "a developer's tool: no simulator runs it")]
fn write_gem_plain() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/gem-plain.batch");
    std::fs::write(path, plain().to_bytes()).unwrap();
}
