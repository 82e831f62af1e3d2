//! Record batches: what is written reads back, whatever is cut, stamped, split or damaged.

use bytes::Bytes;
use gem_types::Message;
use gem_types::batch::{BatchBuilder, BatchError, Codec, HEAD_LEN, RecordBatch, Rules};
use gem_types::limits::{Limits, MAX_HEADER_COUNT};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// Where the checksum stands, and where what it covers begins.
const CRC: std::ops::Range<usize> = 17..21;

fn reseal(bytes: &mut [u8]) {
    let crc = crc32c::crc32c(&bytes[CRC.end..]);
    bytes[CRC].copy_from_slice(&crc.to_be_bytes());
}

fn blob(max: usize) -> impl Strategy<Value = Bytes> {
    prop_oneof![
        vec(any::<u8>(), 0..max).prop_map(Bytes::from),
        (any::<u8>(), 0..max).prop_map(|(b, n)| vec![b; n].into())
    ]
}

fn message() -> impl Strategy<Value = Message> {
    let headers = vec(("[a-z-]{0,12}", blob(40)), 0..4);
    (".{1,20}", proptest::option::of(blob(50)), headers, blob(700)).prop_map(|(id, key, headers, payload)| Message {
        id: Some(id),
        key,
        headers,
        payload,
    })
}

fn messages() -> impl Strategy<Value = Vec<Message>> {
    vec(message(), 1..20)
}

fn codec() -> impl Strategy<Value = Codec> {
    select(&Codec::ALL[..])
}

fn build(messages: &[Message], codec: Codec) -> RecordBatch {
    let mut builder = BatchBuilder::new().codec(codec);
    for message in messages {
        let before = builder.len().max(HEAD_LEN);
        let id = message.id.as_deref().unwrap();
        builder.push(message, id);
        assert!(builder.len() <= before + BatchBuilder::encoded_size(message, id));
    }
    builder.finish(1_790_000_000_123)
}

fn unpack(batch: &RecordBatch) -> Vec<Message> {
    batch.records().map(|record| record.unwrap().into_message()).collect()
}

proptest! {
    #[test]
    fn reads_what_was_written(messages in messages(), codec in codec()) {
        let built = build(&messages, codec);
        let bytes = built.to_bytes();
        prop_assert_eq!(bytes.len(), built.len());
        prop_assert_eq!(RecordBatch::peek_len(&bytes), Some(bytes.len()));
        let batch = RecordBatch::check(bytes.clone()).unwrap();
        prop_assert_eq!(&batch, &built);
        prop_assert_eq!(&RecordBatch::open(bytes).unwrap(), &built);
        prop_assert_eq!(batch.count() as usize, messages.len());
        prop_assert_eq!(unpack(&batch), messages.clone());
        for (index, record) in batch.records().enumerate() {
            let record = record.unwrap();
            prop_assert_eq!(record.offset, index as u64);
            prop_assert_eq!(record.timestamp_ms, 1_790_000_000_123);
            prop_assert_eq!(&batch.record(index as u32).unwrap(), &record);
        }
        let plain = batch.uncompressed().unwrap();
        for (record, message) in plain.scan().zip(&messages) {
            let record = record.unwrap();
            prop_assert_eq!(record.id(), message.id.as_deref());
            prop_assert_eq!(record.key, message.key.as_deref());
            prop_assert_eq!(record.value, Some(&message.payload[..]));
            prop_assert_eq!(record.headers().count(), message.headers.len() + 1);
        }
    }

    #[test]
    fn a_stamp_keeps_the_records_and_the_checksum(
        messages in messages(), codec in codec(), stamps in vec((0u64..1 << 62, any::<i64>()), 1..4),
    ) {
        let mut batch = build(&messages, codec);
        for (base_offset, time_ms) in stamps {
            batch.stamp(base_offset, time_ms);
            let [head, records] = batch.parts();
            let joined = Bytes::from([head, records].concat());
            prop_assert_eq!(&joined, &batch.to_bytes());
            let read = RecordBatch::check(joined).unwrap();
            prop_assert_eq!(&read, &batch);
            prop_assert_eq!(read.base_offset(), base_offset);
            prop_assert_eq!(read.next_offset(), base_offset + messages.len() as u64);
            prop_assert_eq!(read.max_timestamp_ms(), time_ms);
            prop_assert_eq!(read.first_timestamp_ms(), time_ms);
            for (index, record) in read.records().enumerate() {
                let record = record.unwrap();
                prop_assert_eq!(record.offset, base_offset + index as u64);
                prop_assert_eq!(record.timestamp_ms, time_ms);
                prop_assert_eq!(read.index_of(record.offset), Some(index as u32));
            }
            prop_assert_eq!(unpack(&read), messages.clone());
        }
    }

    #[test]
    fn a_part_is_a_batch(messages in messages(), codec in codec(), cuts: (prop::sample::Index, prop::sample::Index)) {
        let mut batch = build(&messages, codec);
        batch.stamp(1000, 5);
        let (a, b) = (cuts.0.index(messages.len() + 1), cuts.1.index(messages.len() + 1));
        let (start, end) = (a.min(b), a.max(b));
        let part = batch.split(start as u32..end as u32);
        if start == end {
            prop_assert!(matches!(part, Err(BatchError::NoSuchRecord { .. })), "an empty part is no batch");
            return Ok(());
        }
        let part = part.unwrap();
        prop_assert_eq!(part.base_offset(), 1000 + start as u64);
        prop_assert_eq!(unpack(&part), messages[start..end].to_vec());
        prop_assert_eq!(&RecordBatch::check(part.to_bytes()).unwrap(), &part);
        let mut restamped = part.clone();
        restamped.stamp(7, 8);
        prop_assert_eq!(&RecordBatch::check(restamped.to_bytes()).unwrap(), &restamped);
    }

    #[test]
    fn runs_are_cut_out_as_parts_are(messages in messages(), codec in codec(), wanted in vec(any::<bool>(), 20)) {
        let mut batch = build(&messages, codec);
        batch.stamp(1000, 5);
        let mut ranges: Vec<std::ops::Range<u32>> = Vec::new();
        for index in (0..batch.count()).filter(|index| wanted[*index as usize]) {
            match ranges.last_mut() {
                Some(last) if last.end == index => last.end += 1,
                _ => ranges.push(index..index + 1),
            }
        }
        let parts = batch.cut_out(&ranges).unwrap();
        prop_assert_eq!(parts.len(), ranges.len());
        for (part, range) in parts.iter().zip(ranges) {
            prop_assert_eq!(part, &batch.split(range).unwrap());
            prop_assert_eq!(&RecordBatch::check(part.to_bytes()).unwrap(), part);
        }
        prop_assert!(batch.cut_out(&[0..1, 0..1]).is_err() && batch.cut_out(&[0..1, 1..1]).is_err());
        prop_assert!(batch.cut_out(&[0..1, 1..batch.count() + 1]).is_err());
    }

    #[test]
    fn what_is_selected_is_packed(messages in messages(), codec in codec(), wanted in vec(any::<bool>(), 20)) {
        let batch = build(&messages, codec);
        let expected: Vec<_> = messages.iter().zip(&wanted).filter(|(_, w)| **w).map(|(m, _)| m.clone()).collect();
        match batch.select(|index| wanted[index as usize]) {
            Ok(some) => {
                prop_assert_eq!(unpack(&some), expected);
                prop_assert_eq!(&RecordBatch::check(some.to_bytes()).unwrap(), &some);
            }
            Err(error) => prop_assert!(expected.is_empty(), "{error}"),
        }
    }

    #[test]
    fn batches_join(all in vec((messages(), codec()), 1..5), stamp: bool) {
        let mut batches: Vec<_> = all.iter().map(|(messages, codec)| build(messages, *codec)).collect();
        if stamp {
            batches[0].stamp(40, 50);
        }
        let joined = RecordBatch::join(&batches).unwrap();
        let expected: Vec<_> = all.iter().flat_map(|(messages, _)| messages.clone()).collect();
        prop_assert_eq!(unpack(&joined), expected);
        prop_assert_eq!(joined.base_offset(), if stamp { 40 } else { 0 });
        prop_assert_eq!(&RecordBatch::check(joined.to_bytes()).unwrap(), &joined);
    }

    #[test]
    fn a_changed_byte_is_refused_or_lies_outside_the_checksum(
        messages in messages(), codec in codec(), at: prop::sample::Index, flip in 1u8..,
    ) {
        let good = build(&messages, codec);
        let mut bytes = good.to_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let read = RecordBatch::check(bytes.into());
        // The base offset and the leader epoch are the broker's to set.
        let free = at < 8 || (12..16).contains(&at);
        prop_assert!(read.is_err() || free, "byte {} of {}", at, good.len());
        prop_assert!(read.is_ok() || !(12..16).contains(&at), "the leader epoch is no reason to refuse");
    }

    /// The checksum is no protection against a client that means harm: it sets it right.
    #[test]
    fn nothing_well_sealed_makes_the_decoder_panic(
        messages in messages(), codec in codec(), changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = build(&messages, codec).to_bytes().to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        reseal(&mut bytes);
        let bytes = Bytes::from(bytes);
        if let Ok(batch) = RecordBatch::open(bytes.clone()) {
            // Opened without a check, records may be errors; they may not be panics.
            let read = batch.records().take_while(Result::is_ok).count();
            let _ = (batch.scan().count(), batch.split(0..1), batch.select(|i| i % 2 == 1), batch.record(batch.count() - 1));
            if let Ok(checked) = RecordBatch::check(bytes) {
                prop_assert_eq!(read, checked.count() as usize);
                prop_assert!(checked.records().all(|record| record.is_ok()));
            }
        }
    }

    #[test]
    fn noise_is_no_batch(bytes in vec(any::<u8>(), 0..300)) {
        prop_assert!(RecordBatch::check(bytes.into()).is_err());
    }
}

fn one(payload: &'static [u8]) -> Vec<u8> {
    let message = Message { payload: Bytes::from_static(payload), ..Message::default() };
    let mut builder = BatchBuilder::new();
    builder.push(&message, "id");
    builder.finish(0).to_bytes().to_vec()
}

fn check_resealed(mut bytes: Vec<u8>) -> Result<RecordBatch, BatchError> {
    reseal(&mut bytes);
    RecordBatch::check(bytes.into())
}

#[test]
fn each_lie_of_the_head_is_named() {
    let cases: [(usize, u8, &str); 9] = [
        (16, 1, "Magic"),
        (11, 0, "Length"),
        (0, 0x80, "BaseOffset"),
        (22, 5, "Codec"),
        (22, 1 << 4, "Attributes"),
        (22, 1 << 5, "Attributes"),
        (21, 1, "Attributes"),
        (26, 1, "Count"),
        (60, 0, "Count"),
    ];
    for (at, byte, expected) in cases {
        let mut bytes = one(b"payload");
        bytes[at] = byte;
        let error = format!("{:?}", check_resealed(bytes).unwrap_err());
        assert!(error.starts_with(expected), "byte {at} = {byte}: {error}");
    }
    let mut bytes = one(b"payload");
    bytes[CRC.start] ^= 1;
    assert!(matches!(RecordBatch::check(bytes.into()), Err(BatchError::Crc { .. })));
    assert!(matches!(RecordBatch::check(Bytes::new()), Err(BatchError::Short { .. })));
}

#[test]
fn more_or_fewer_records_than_counted_are_refused() {
    let mut bytes = one(b"payload");
    (bytes[26], bytes[60]) = (1, 2);
    assert_eq!(check_resealed(bytes), Err(BatchError::Truncated));

    let mut builder = BatchBuilder::new();
    builder.push(&Message::default(), "a");
    builder.push(&Message::default(), "b");
    let mut bytes = builder.finish(0).to_bytes().to_vec();
    (bytes[26], bytes[60]) = (0, 1);
    assert_eq!(check_resealed(bytes), Err(BatchError::TrailingBytes(1)));
}

#[test]
fn gaps_between_offsets_are_refused() {
    let mut bytes = one(b"payload");
    // Length (one byte), attributes, timestamp delta, then the offset delta: zigzag 2 is 1.
    bytes[HEAD_LEN + 3] = 2;
    assert_eq!(check_resealed(bytes), Err(BatchError::OffsetDelta { index: 0, delta: 1 }));
}

#[test]
fn control_batches_open_but_do_not_come_from_clients() {
    let mut bytes = one(b"marker");
    bytes[22] = 0b11_0000;
    reseal(&mut bytes);
    let bytes = Bytes::from(bytes);
    assert!(RecordBatch::check(bytes.clone()).is_err());
    assert!(RecordBatch::check_with(bytes.clone(), &Rules::STORED).is_ok());
    let batch = RecordBatch::open(bytes).unwrap();
    assert!(batch.is_control() && batch.is_transactional());
    assert_eq!(RecordBatch::join(&[batch]), Err(BatchError::NotJoinable));
}

#[test]
fn a_bomb_is_refused_before_it_fills_the_memory() {
    for codec in [Codec::Gzip, Codec::Zstd, Codec::Lz4, Codec::Snappy] {
        let bomb = Message { payload: vec![0; 80 << 20].into(), ..Message::default() };
        let mut builder = BatchBuilder::new().codec(codec);
        builder.push(&bomb, "id");
        let bytes = builder.finish(0).to_bytes();
        assert!(bytes.len() < 8 << 20, "{codec}: {}", bytes.len());
        assert!(matches!(RecordBatch::check(bytes.clone()), Err(BatchError::TooLarge { .. })), "{codec}");
        let opened = RecordBatch::open(bytes).unwrap();
        assert!(matches!(opened.records().next(), Some(Err(BatchError::TooLarge { .. }))), "{codec}");
    }
    let message = Message { payload: vec![0; 2 << 20].into(), ..Message::default() };
    let mut builder = BatchBuilder::new().codec(Codec::Zstd);
    builder.push(&message, "id");
    let bytes = builder.finish(0).to_bytes();
    assert!(matches!(RecordBatch::check(bytes.clone()), Err(BatchError::TooLarge { .. })), "above the ratio");
    assert!(RecordBatch::check_with(bytes, &Rules::STORED).is_ok());
}

#[test]
fn payloads_are_shared_not_copied() {
    let bytes = Bytes::from(one(b"a payload that is looked for by its address"));
    let inside = |part: &[u8]| bytes.as_ptr_range().contains(&part.as_ptr());
    let mut batch = RecordBatch::check(bytes.clone()).unwrap();
    batch.stamp(9, 9);
    assert!(inside(&batch.parts()[1]));
    assert!(inside(&batch.split(0..1).unwrap().parts()[1]));
    let record = batch.record(0).unwrap();
    assert!(inside(&record.value));
    assert!(inside(&record.into_message().payload));
}

#[test]
fn headers_without_number_are_refused() {
    let message = |count: usize| Message { headers: vec![Default::default(); count], ..Message::default() };
    assert!(Limits::default().check(&message(MAX_HEADER_COUNT)).is_ok());
    assert!(Limits::default().check(&message(MAX_HEADER_COUNT + 1)).is_err());
    for (count, fits) in [(MAX_HEADER_COUNT, true), (1 << 20, false)] {
        let mut builder = BatchBuilder::new();
        builder.push(&message(count), "id");
        assert_eq!(RecordBatch::check(builder.finish(0).to_bytes()).is_ok(), fits, "{count}");
    }
}
