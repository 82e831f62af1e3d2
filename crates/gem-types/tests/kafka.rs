//! The same bytes under an implementation that is not ours, in both directions and every codec.

use bytes::{Bytes, BytesMut};
use gem_types::Message;
use gem_types::batch::{BatchBuilder, Codec, RecordBatch};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{
    Compression, Record, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};

const CODECS: [(Codec, Compression); 5] = [
    (Codec::None, Compression::None),
    (Codec::Gzip, Compression::Gzip),
    (Codec::Snappy, Compression::Snappy),
    (Codec::Lz4, Compression::Lz4),
    (Codec::Zstd, Compression::Zstd),
];

/// Enough for several snappy and lz4 blocks, compressible, and not all alike.
fn messages() -> Vec<Message> {
    (0..200usize)
        .map(|i| Message {
            id: Some(format!("id-{i}")),
            key: (i % 3 != 0).then(|| format!("key-{}", i % 7).into()),
            headers: (0..i % 4).map(|h| (format!("h{h}"), vec![h as u8; h * 30].into())).collect(),
            payload: format!("{{\"n\":{i},\"pad\":\"{}\"}}", "abcdef".repeat(i)).into(),
        })
        .collect()
}

#[test]
fn kafka_reads_what_gem_wrote() {
    for (codec, compression) in CODECS {
        let messages = messages();
        let mut builder = BatchBuilder::new().codec(codec);
        for message in &messages {
            builder.push(message, message.id.as_deref().unwrap());
        }
        let mut batch = builder.finish(1_700_000_000_000);
        batch.stamp(5_000_000_000, 1_700_000_000_500);
        assert_eq!(batch.codec(), codec);
        let mut bytes = batch.to_bytes();
        let set = RecordBatchDecoder::decode(&mut bytes).unwrap();
        assert!(bytes.is_empty(), "{codec}: the whole batch was read");
        assert_eq!((set.compression, set.records.len()), (compression, messages.len()), "{codec}");
        for (i, (record, message)) in set.records.iter().zip(&messages).enumerate() {
            assert_eq!(record.offset, 5_000_000_000 + i as i64);
            assert_eq!(record.timestamp_type, TimestampType::LogAppend);
            assert_eq!(record.key, message.key);
            assert_eq!(record.value.as_ref(), Some(&message.payload));
            assert_eq!(record.producer_id, -1);
            let mut headers = record.headers.iter();
            let (name, id) = headers.next().unwrap();
            assert_eq!((name.as_str(), id.as_deref()), ("gem-id", message.id.as_deref().map(str::as_bytes)));
            let rest: Vec<_> = headers.map(|(n, v)| (n.to_string(), v.clone().unwrap())).collect();
            assert_eq!(rest, message.headers, "{codec}: record {i}");
        }
    }
}

#[test]
fn gem_reads_what_kafka_wrote() {
    for (codec, compression) in CODECS {
        let records: Vec<_> = messages().into_iter().enumerate().map(|(i, message)| record(i, message)).collect();
        let mut out = BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression };
        RecordBatchEncoder::encode(&mut out, &records, &options).unwrap();
        let batch = RecordBatch::check(out.freeze()).unwrap();
        assert_eq!((batch.codec(), batch.count() as usize), (codec, records.len()));
        assert_eq!(batch.producer_id().map(|id| id.0), Some(77));
        assert_eq!((batch.producer_epoch(), batch.base_sequence()), (3, 0));
        for (ours, theirs) in batch.records().zip(&records) {
            let ours = ours.unwrap();
            assert_eq!(ours.offset as i64, theirs.offset);
            assert_eq!(ours.timestamp_ms, theirs.timestamp);
            assert_eq!(ours.key, theirs.key);
            assert_eq!(ours.value, theirs.value.clone().unwrap_or_default());
            let headers: Vec<_> = theirs
                .headers
                .iter()
                .map(|(n, v)| (Bytes::copy_from_slice(n.as_bytes()), v.clone().unwrap_or_default()))
                .collect();
            assert_eq!(ours.headers, headers);
        }
    }
}

fn record(i: usize, message: Message) -> Record {
    Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: 4,
        producer_id: 77,
        producer_epoch: 3,
        timestamp_type: TimestampType::Creation,
        offset: i as i64,
        sequence: i as i32,
        timestamp: 1_700_000_000_000 + 37 * i as i64,
        key: message.key,
        // A null value is Kafka's tombstone.
        value: (!i.is_multiple_of(5)).then_some(message.payload),
        headers: message
            .headers
            .into_iter()
            .map(|(name, value)| (StrBytes::from_string(name), i.is_multiple_of(2).then_some(value)))
            .collect(),
    }
}
