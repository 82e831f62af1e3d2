//! Verdicts with several entries in flight.

use gem_types::{Code, ProducerId};
use proptest::prelude::*;

use super::*;
use crate::log::TopicConfig;
use crate::machine::ID_BYTES;
use crate::machine::tests::world::*;

fn offsets(placed: &[Placed]) -> Vec<(Offset, bool)> {
    placed.iter().map(|placed| (placed.offset, placed.duplicate)).collect()
}

#[test]
fn entries_in_flight_follow_one_another() {
    let mut world = World::new(8);
    let partition = world.create("ta");
    for n in 0..5 {
        let placed = world.append(append(partition, &[None, None])).unwrap();
        assert_eq!(offsets(&placed), [(2 * n, false), (2 * n + 1, false)]);
    }
    assert_eq!((world.next(partition), world.verdicts.in_flight()), (0, 5));
    assert_eq!(world.verdicts.end(&mut world.machine, partition).unwrap(), Some(10));
    world.settle();
    assert_eq!((world.next(partition), world.verdicts.in_flight()), (10, 0));
}

#[test]
fn duplicates_are_found_in_state_in_flight_and_in_the_batch() {
    let mut world = World::new(8);
    let partition = world.create("ta");
    world.append(append(partition, &[Some(1)])).unwrap();
    world.settle();
    world.append(append(partition, &[Some(2), Some(2)])).unwrap();
    let placed = world.append(append(partition, &[Some(1), Some(3), Some(2), None, Some(3)])).unwrap();
    assert_eq!(offsets(&placed), [(0, true), (2, false), (1, true), (3, false), (2, true)]);

    let verdict = world.verdicts.append(&mut world.machine, append(partition, &[Some(2), Some(1)]), 0).unwrap();
    let Verdict::Duplicate { placed, after: Some(_) } = verdict else { panic!("{verdict:?}") };
    assert_eq!(offsets(&placed), [(1, true), (0, true)]);
    world.settle();
    assert_eq!(world.next(partition), 4);
    let verdict = world.verdicts.append(&mut world.machine, append(partition, &[Some(2)]), 0).unwrap();
    assert!(matches!(verdict, Verdict::Duplicate { after: None, .. }));
}

#[test]
fn the_records_left_are_the_right_ones() {
    let mut world = World::new(8);
    let partition = world.create("ta");
    world.append(append(partition, &[Some(1)])).unwrap();
    world.append(append(partition, &[Some(5), Some(1), Some(6)])).unwrap();
    let Command::Append(append) = &world.log.last().unwrap().commands[0] else { panic!() };
    let payloads: Vec<u8> = append.batch.records().map(|record| record.unwrap().value[0]).collect();
    assert_eq!(payloads, [0, 2]);
    assert_eq!(append.dedup, [Some(digest(5)), Some(digest(6))]);
    assert_eq!((append.batch.base_offset(), append.batch.count()), (1, 2));
}

#[test]
fn time_never_falls() {
    let mut world = World::new(8);
    let partition = world.create("ta");
    for (now_ms, stamped_ms) in [(5_000, 5_000), (4_000, 5_000), (6_000, 6_000), (1, 6_000)] {
        world.now_ms = now_ms;
        world.append(append(partition, &[None])).unwrap();
        let Command::Append(append) = &world.log.last().unwrap().commands[0] else { panic!() };
        assert_eq!(append.batch.max_timestamp_ms(), stamped_ms);
    }
    world.settle();
    world.now_ms = 2;
    world.append(append(partition, &[None])).unwrap();
    world.settle();
    assert_eq!(world.machine.partition(partition).unwrap().unwrap().last_ms, 6_000);
}

#[test]
fn a_full_table_of_ids_refuses_new_ids_only() {
    let mut world = World::new(0);
    let partition = world.create("ta");
    world.verdicts = Verdicts::new(2 * ID_BYTES);
    world.append(append(partition, &[Some(1), Some(2)])).unwrap();
    let refused = world.append(append(partition, &[Some(3), None])).unwrap_err();
    assert!(refused.code == Code::Throttled && refused.retry_after_ms.is_some());
    assert_eq!(offsets(&world.append(append(partition, &[Some(2)])).unwrap()), [(1, true)]);
    assert_eq!(offsets(&world.append(append(partition, &[None])).unwrap()), [(2, false)]);
    world.verdicts = Verdicts::new(4 * ID_BYTES);
    world.verdicts.set_ids_elsewhere(2 * ID_BYTES);
    let refused = world.append(append(partition, &[Some(4), Some(5), Some(6)])).unwrap_err();
    assert_eq!(refused.code, Code::Throttled, "the bound is the node's");
}

#[test]
fn what_is_being_deleted_takes_nothing() {
    let mut world = World::new(8);
    let partition = world.create("ta");
    world.command(Command::DeleteTopic { name: name("ta") });
    assert_eq!(world.append(append(partition, &[None])).unwrap_err().code, Code::NotFound);
    // Made again in the same breath: judged where it is applied.
    let config = TopicConfig { max_deliveries: 2, ..TopicConfig::default() };
    assert_eq!(world.command(Command::CreateTopic { name: name("ta"), config }), None);
    assert!(matches!(world.settle()[0], Outcome::Topic { new: true, .. }));
    assert_eq!(world.append(append(partition, &[None])).unwrap_err().code, Code::NotFound);
}

#[test]
fn a_producer_goes_in_order() {
    let mut world = World::new(8);
    let partition = world.create("ta");
    let p = ProducerId::new(1_000_000, 1).0;
    assert_eq!(offsets(&world.append(numbered(partition, p, &[3, 4], 0, 0)).unwrap()), [(0, false), (1, false)]);
    // What it follows has not arrived.
    assert!(is_out_of_order(&world.append(numbered(partition, p, &[9], 7, 0)).unwrap_err()));
    assert_eq!(offsets(&world.append(numbered(partition, p, &[7], 4, 0)).unwrap()), [(2, false)]);
    assert_eq!(offsets(&world.append(numbered(partition, p, &[9], 7, 0)).unwrap()), [(3, false)]);
    // Sent again, whole and in part: in flight, and applied.
    for _ in 0..2 {
        assert_eq!(offsets(&world.append(numbered(partition, p, &[3, 4], 0, 0)).unwrap()), [(0, true), (1, true)]);
        world.settle();
    }
    let placed = world.append(numbered(partition, p, &[7, 9, 11], 4, 7)).unwrap();
    assert_eq!(offsets(&placed), [(2, true), (3, true), (4, false)]);
    world.settle();
    // Below 7 all is settled: never asked for again.
    assert_eq!(world.append(numbered(partition, p, &[4], 3, 7)).unwrap_err().code, Code::Conflict);
    assert_eq!(offsets(&world.append(numbered(partition, p, &[12], 5, 7)).unwrap()), [(5, false)]);
    // A number that was passed over comes too late.
    assert_eq!(world.append(numbered(partition, p, &[10], 9, 7)).unwrap_err().code, Code::Conflict);
    assert_eq!(world.append(numbered(partition, p, &[5, 5], 4, 0)).unwrap_err().code, Code::InvalidArgument);
}

#[test]
fn a_number_under_a_known_id_is_remembered() {
    let mut world = World::new(8);
    let partition = world.create("ta");
    let p = ProducerId::new(1_000_000, 1).0;
    world.append(append(partition, &[Some(1)])).unwrap();
    let mut again = numbered(partition, p, &[1], 0, 0);
    again.dedup = vec![Some(digest(1))];
    assert_eq!(offsets(&world.append(again.clone()).unwrap()), [(0, true)]);
    // The next one follows it, though nothing of it was stored; in flight and applied.
    assert_eq!(offsets(&world.append(numbered(partition, p, &[2], 1, 0)).unwrap()), [(1, false)]);
    world.settle();
    assert_eq!(offsets(&world.append(again).unwrap()), [(0, true)]);
    assert_eq!(world.machine.producer(partition, ProducerId(p)).unwrap().unwrap().find(1), Some(0));
}

#[test]
fn a_new_term_forgets_what_flew() {
    let mut world = World::new(8);
    let partition = world.create("ta");
    world.append(append(partition, &[Some(1)])).unwrap();
    world.verdicts.reset(2);
    assert_eq!((world.verdicts.term(), world.verdicts.in_flight()), (2, 0));
    let verdict = world.verdicts.append(&mut world.machine, append(partition, &[Some(1)]), 0).unwrap();
    let Verdict::Propose { placed, .. } = verdict else { panic!() };
    assert_eq!(offsets(&placed), [(0, false)]);
}

#[test]
fn a_group_that_stands_needs_no_entry() {
    let mut world = World::new(0);
    world.create("ta");
    let group = world.group("ta", "g1").unwrap();
    let create = || Command::CreateGroup { group: group.clone(), mode: crate::log::Mode::Key, start: 0 };
    assert!(matches!(world.command(create()), Some(Outcome::Group { new: true, .. })));
    let entries = world.log.len();
    assert!(matches!(world.command(create()), Some(Outcome::Group { new: false, .. })));
    assert_eq!(world.log.len(), entries);
}

#[test]
fn small_batches_are_joined_in_order() {
    let (a, b) = (PartitionId([1; 16]), PartitionId([2; 16]));
    let appends = vec![
        append(a, &[None]),
        append(b, &[None, None]),
        append(a, &[None, None]),
        append(a, &[Some(1)]),
        append(a, &[Some(2), None]),
        numbered(a, 7, &[1], 0, 0),
        append(a, &[None]),
    ];
    let joined = join_small(appends);
    let parts: Vec<_> = joined.iter().map(|joined| joined.parts.clone()).collect();
    assert_eq!(
        parts,
        [vec![(0, 0..1), (2, 1..3)], vec![(1, 0..2)], vec![(3, 0..1), (4, 1..3)], vec![(5, 0..1)], vec![(6, 0..1)],]
    );
    assert_eq!(joined[0].append.batch.count(), 3);
    assert_eq!(joined[2].append.dedup, [Some(digest(1)), Some(digest(2)), None]);
    let payloads: Vec<u8> = joined[0].append.batch.records().map(|record| record.unwrap().value[0]).collect();
    assert_eq!(payloads, [0, 0, 1]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever flies, nothing is stored twice under an id or a number, and all fits in place
    /// (`World::propose` asserts that no batch was out of place).
    #[test]
    fn retries_are_stored_once(
        steps in prop::collection::vec((any::<bool>(), 0u64..6, 1u64..5, 0u8..20), 1..80),
        fly in 0usize..6,
    ) {
        let mut world = World::new(fly);
        let partition = world.create("ta");
        let p = ProducerId::new(1_000_000, 1).0;
        let mut stored: std::collections::BTreeMap<u64, Offset> = Default::default();
        let mut ids: std::collections::BTreeMap<u8, Offset> = Default::default();
        let mut last = 0;
        for (is_numbered, back, count, id) in steps {
            if is_numbered {
                let first = (last + 1u64).saturating_sub(back).max(1);
                let numbers: Vec<u64> = (first..first + count).collect();
                let placed = world.append(numbered(partition, p, &numbers, first - 1, 0)).unwrap();
                for (number, placed) in numbers.iter().zip(placed) {
                    prop_assert_eq!(placed.duplicate, stored.contains_key(number));
                    prop_assert_eq!(*stored.entry(*number).or_insert(placed.offset), placed.offset);
                }
                last = last.max(first + count - 1);
            } else {
                let batch: Vec<Option<u8>> = (0..count as u8).map(|n| Some((id + n) % 20)).collect();
                let placed = world.append(append(partition, &batch)).unwrap();
                for (id, placed) in batch.iter().flatten().zip(placed) {
                    prop_assert_eq!(placed.duplicate, ids.contains_key(id));
                    prop_assert_eq!(*ids.entry(*id).or_insert(placed.offset), placed.offset);
                }
            }
        }
        world.settle();
        prop_assert_eq!(world.next(partition), (stored.len() + ids.len()) as u64);
    }
}
