//! The codec of entries: what goes in comes out, and nothing that comes in panics.

use bytes::Bytes;
use gem_types::batch::{BatchBuilder, RecordBatch};
use gem_types::{GroupName, Message, PartitionId, ProducerId, TopicName};
use proptest::prelude::*;

use super::*;
use crate::log::Ordering;

fn batch(records: usize, base: Offset, payload: &[u8]) -> RecordBatch {
    let mut builder = BatchBuilder::new();
    for n in 0..records {
        let message = Message { payload: Bytes::copy_from_slice(payload), ..Message::default() };
        builder.push(&message, &format!("id-{n}"));
    }
    let mut batch = builder.finish(5);
    batch.stamp(base, 1_790_000_000_000);
    batch
}

fn joined(parts: &[Bytes]) -> Bytes {
    parts.iter().flat_map(|part| part.iter().copied()).collect::<Vec<u8>>().into()
}

prop_compose! {
    fn group_ref()(partition: [u8; 16], name in "[a-z]{1,12}") -> GroupRef {
        GroupRef {
            topic: TopicName::new(&name).unwrap(),
            partition: PartitionId(partition),
            group: GroupName::new(&name).unwrap(),
        }
    }
}

fn append() -> impl Strategy<Value = Command> {
    let parts = (any::<[u8; 16]>(), 1usize..5, 0u64..1 << 40, prop::collection::vec(any::<u8>(), 0..200));
    (parts, any::<[u8; 16]>(), any::<bool>(), any::<bool>()).prop_map(|(parts, id, with_ids, with_producer)| {
        let (partition, records, base, payload) = parts;
        let dedup = (0..records).map(|n| (n % 2 == 0).then_some(id)).collect();
        let producer = ProducerBatch {
            producer: ProducerId(base as i64 - 7),
            numbers: (0..records as u64).map(|n| base + 2 * n).collect(),
            previous: base / 2,
            settled: base / 3,
        };
        Command::Append(AppendBatch {
            partition: PartitionId(partition),
            batch: batch(records, base, &payload),
            dedup: if with_ids { dedup } else { Vec::new() },
            producer: with_producer.then_some(producer),
        })
    })
}

fn topic_command() -> impl Strategy<Value = Command> {
    let keys = (any::<Option<u64>>(), any::<Option<Option<u32>>>(), any::<Option<u32>>(), any::<Option<u64>>());
    ("[a-zA-Z0-9_-]{1,20}", keys, 0u8..3).prop_map(|(name, (retention_ms, bytes, max_deliveries, window), kind)| {
        let name = TopicName::new(&name).unwrap();
        let change = TopicChange {
            retention_ms,
            retention_bytes: bytes.map(|bytes| bytes.map(u64::from)),
            max_deliveries,
            ack_timeout_ms: window,
            ordering: max_deliveries.map(|n| if n % 2 == 0 { Ordering::Key } else { Ordering::Total }),
            dedup_window_ms: window,
        };
        match kind {
            0 => Command::CreateTopic { name, config: change.apply_to(&TopicConfig::default()) },
            1 => Command::AlterTopic { name, change },
            _ => Command::DeleteTopic { name },
        }
    })
}

fn group_command() -> impl Strategy<Value = Command> {
    let offsets = prop::collection::vec((0u64..1 << 50, any::<u32>()), 0..6);
    (group_ref(), offsets, any::<Option<u32>>(), 0u8..4).prop_map(|(group, offsets, frontier, kind)| match kind {
        0 => Command::CreateGroup { group, mode: Mode::Key, start: 9 },
        1 => Command::DeleteGroup { group },
        2 => Command::Seek { group, offset: offsets.len() as u64 },
        _ => Command::Progress(Progress {
            group,
            frontier: frontier.map(u64::from),
            acked: offsets.iter().map(|(from, len)| (*from, from + u64::from(*len))).collect(),
            attempts: offsets.clone(),
            delayed: offsets.iter().map(|(offset, due)| (*offset, i64::from(*due) - 100)).collect(),
            moving: offsets.iter().map(|(offset, _)| *offset).collect(),
            moved: offsets.iter().map(|(offset, _)| *offset / 2).collect(),
            redelivered: offsets.len() as u64,
        }),
    })
}

fn partition_command() -> impl Strategy<Value = Command> {
    (any::<[u8; 16]>(), any::<u64>(), any::<i64>(), 0u8..4).prop_map(|(partition, before, before_ms, kind)| {
        let partition = PartitionId(partition);
        match kind {
            0 => Command::Trim { partition, before },
            1 => Command::ExpireIds { partition, before_ms },
            2 => Command::ExpireProducers { partition, before_ms },
            _ => Command::Number(Number {
                partition,
                producer: ProducerId(before_ms),
                settled: before,
                placed: vec![(before, 1), (before, 7)],
            }),
        }
    })
}

fn entry() -> impl Strategy<Value = Entry> {
    let command = prop_oneof![append(), topic_command(), group_command(), partition_command()];
    (any::<i64>(), prop::collection::vec(command, 0..8)).prop_map(|(now_ms, commands)| Entry { now_ms, commands })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn entries_come_back(entry in entry()) {
        let encoded = joined(&entry.encode());
        let payload = Payload::decode(encoded.clone()).unwrap();
        prop_assert_eq!(&payload, &Payload::Entry(entry.clone()));
        prop_assert_eq!(joined(&payload.encode()), encoded);
    }

    #[test]
    fn batches_are_found_in_place(entry in entry()) {
        let encoded = joined(&entry.encode());
        let found = batches_in(&encoded).unwrap();
        let appends = entry.commands.iter().enumerate().filter_map(|(index, command)| match command {
            Command::Append(append) => Some((index, append)),
            _ => None,
        });
        let expected: Vec<_> = appends.collect();
        prop_assert_eq!(found.len(), expected.len());
        for (found, (index, append)) in found.iter().zip(expected) {
            prop_assert_eq!((found.command, found.partition, found.base), (index, append.partition, append.batch.base_offset()));
            prop_assert_eq!(&encoded[found.range.clone()], &append.batch.to_bytes()[..]);
        }
    }

    #[test]
    fn a_cut_or_bent_entry_is_refused_or_read(entry in entry(), at: prop::sample::Index, bit in 0u8..8, cut: bool) {
        let mut encoded = joined(&entry.encode()).to_vec();
        let at = at.index(encoded.len());
        if cut {
            encoded.truncate(at);
        } else {
            encoded[at] ^= 1 << bit;
        }
        let _ = batches_in(&encoded);
        let decoded = Payload::decode(encoded.into());
        prop_assert!(!cut || decoded.is_err() || decoded == Ok(Payload::Blank));
    }

    #[test]
    fn no_bytes_panic(mut bytes: Vec<u8>, framed: bool) {
        if framed {
            let head = bytes.len() as u32 / 2;
            bytes.splice(0..0, [1, 2].into_iter().chain(head.to_le_bytes()));
        }
        let _ = batches_in(&bytes);
        let _ = Payload::decode(bytes.into());
    }
}

#[test]
fn an_entry_shares_its_batches() {
    let batch = batch(1, 0, &[7; 5000]);
    let records = batch.parts()[1].clone();
    let command =
        Command::Append(AppendBatch { partition: PartitionId([1; 16]), batch, dedup: vec![], producer: None });
    let parts = Entry { now_ms: 1, commands: vec![command] }.encode();
    assert!(parts.iter().any(|part| part.as_ptr() == records.as_ptr()), "the records were copied");
}

#[test]
fn blanks_and_memberships_come_back() {
    for payload in [Payload::Blank, Payload::Membership(Bytes::from_static(b"{\"configs\":[]}"))] {
        let encoded = joined(&payload.encode());
        assert_eq!(Payload::decode(encoded.clone()), Ok(payload));
        assert_eq!(batches_in(&encoded), Ok(Vec::new()));
    }
    for unknown in [&b""[..], b"\x01", b"\x02\x00", b"\x01\x03"] {
        assert!(Payload::decode(Bytes::from_static(unknown)).is_err());
        assert!(batches_in(unknown).is_err());
    }
}

/// The format of version 1, for ever: a change that breaks this needs a new version.
#[test]
fn version_1_reads_as_written() {
    let group = GroupRef {
        topic: TopicName::new("t").unwrap(),
        partition: PartitionId([1; 16]),
        group: GroupName::new("g").unwrap(),
    };
    let mut progress = Progress::of(group);
    progress.acked = vec![(3, 5)];
    progress.delayed = vec![(6, 1000)];
    let entry = Entry {
        now_ms: 1000,
        commands: vec![
            Command::Progress(progress),
            Command::CreateTopic { name: TopicName::new("t").unwrap(), config: TopicConfig::default() },
        ],
    };
    let hex: String = joined(&entry.encode()).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, include_str!("fixtures/entry_v1.hex").trim());
}
