//! The rows' formats: every row comes back, no bytes panic, and version 1 stays readable.

use bytes::Bytes;
use gem_types::{PartitionId, TopicName};
use proptest::prelude::*;

use super::group_rows::{add_chunk, decode_group, encode_chunk, encode_group};
use super::groups::{CHUNK_LEN, GroupState};
use super::rows::{BatchRow, IdsRow, Partition, Producer, Run, Topic};
use super::tables::{TableRow, decode, encode};
use crate::log::{Mode, Ordering, PartitionInfo, TopicConfig};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn topic() -> Topic {
    Topic {
        config: TopicConfig { retention_bytes: Some(1 << 30), ordering: Ordering::Total, ..TopicConfig::default() },
        version: 3,
        partitions: vec![PartitionInfo {
            number: 0,
            id: PartitionId([7; 16]),
            first_hash: 0,
            last_hash: u64::MAX,
            sealed_at: Some(9),
            parents: vec![1, 2],
        }],
    }
}

fn partition() -> Partition {
    let mut partition = Partition::new(TopicName::new("orders").unwrap(), 2);
    partition.earliest = 10;
    partition.next = 300;
    partition.messages = 290;
    partition.bytes = 1 << 20;
    partition.first_ms = 1_790_000_000_000;
    partition.last_ms = 1_790_000_000_500;
    partition.producers_seen_ms = Some(-1);
    partition
}

fn producer() -> Producer {
    Producer { settled: 4, last: 9, seen_ms: 17, runs: vec![Run { number: 5, offset: 100, count: 3 }] }
}

fn group() -> GroupState {
    let mut group = GroupState::new(Mode::Key, 5, 9);
    group.frontier = 9000;
    group.acked.insert(7..9);
    group.acked.insert(4090..4100);
    group.attempts.insert(10, 3);
    group.delayed.insert(11, 1_790_000_000_000);
    group.moving.insert(12, 4);
    group.moves = 5;
    (group.redelivered, group.dead_lettered, group.acked_total) = (1, 2, 3);
    group
}

fn returns<R: TableRow + PartialEq + std::fmt::Debug>(row: R) -> String {
    let encoded = encode(&row);
    assert_eq!(decode::<R>(&encoded).unwrap(), row);
    hex(&encoded)
}

/// The formats of version 1, for ever: a change that breaks this needs a new version.
#[test]
fn version_1_reads_as_written() {
    let rows = [
        ("topic", returns(topic())),
        ("partition", returns(partition())),
        ("batch", returns(BatchRow { count: 3, at_ms: 1_790_000_000_000, bytes: 1000 })),
        ("ids", returns(IdsRow { at_ms: 5, ids: vec![([9; 16], 0), ([8; 16], 300)] })),
        ("producer", returns(producer())),
        ("group", hex(&encode_group(&group()))),
        ("chunk 0", hex(&encode_chunk(&group(), 0).unwrap())),
        ("chunk 1", hex(&encode_chunk(&group(), 1).unwrap())),
    ];
    let written: String = rows.iter().map(|(name, row)| format!("{name}: {row}\n")).collect();
    assert_eq!(written, include_str!("fixtures/rows_v1.txt"));
}

fn reread(group: &GroupState) -> GroupState {
    let mut read = decode_group(&encode_group(group)).unwrap();
    for number in 0..4 {
        if let Some(row) = encode_chunk(group, number) {
            add_chunk(&mut read, number, &row).unwrap();
        }
    }
    // What has to be written is not part of what is written.
    read.changed = group.changed.clone();
    read.chunks = group.chunks.clone();
    read
}

#[test]
fn a_group_comes_back_from_its_rows() {
    assert_eq!(reread(&group()), group());
}

#[test]
fn a_scattered_chunk_becomes_a_bitmap() {
    let mut group = GroupState::new(Mode::Shared, 0, 9);
    for offset in (1..CHUNK_LEN).step_by(2) {
        group.acked.insert(offset..offset + 1);
    }
    let row = encode_chunk(&group, 0).unwrap();
    assert!(row.len() < 600, "{} bytes", row.len());
    assert_eq!(reread(&group), group);
}

proptest! {
    #[test]
    fn any_group_comes_back(
        acked in prop::collection::vec((1u64..12_000, 1u64..300), 0..300),
        attempts: Vec<(u16, u32)>,
        delayed: Vec<(u16, i64)>,
    ) {
        let mut group = GroupState::new(Mode::Shared, 0, 9);
        for (from, len) in acked {
            group.acked.insert(from..from + len);
        }
        group.attempts.extend(attempts.into_iter().map(|(offset, n)| (u64::from(offset) % 16_000, n)));
        group.delayed.extend(delayed.into_iter().map(|(offset, due)| (u64::from(offset) % 16_000, due)));
        group.moving.extend(group.attempts.keys().zip(1..).map(|(offset, number)| (*offset, number)));
        prop_assert_eq!(reread(&group), group);
    }

    #[test]
    fn no_bytes_panic(mut bytes: Vec<u8>, versioned: bool, form in 0u8..2) {
        if versioned {
            bytes.splice(0..0, [1, form]);
        }
        let bytes = Bytes::from(bytes);
        let _ = decode::<Topic>(&bytes);
        let _ = decode::<Partition>(&bytes);
        let _ = decode::<BatchRow>(&bytes);
        let _ = decode::<IdsRow>(&bytes);
        let _ = decode::<Producer>(&bytes);
        let _ = decode_group(&bytes);
        let _ = add_chunk(&mut GroupState::default(), u64::MAX / CHUNK_LEN, &bytes);
    }
}
