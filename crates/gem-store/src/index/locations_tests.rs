//! Locations against a model, and counters against a recount.

use std::collections::BTreeMap;
use std::sync::Arc;

use gem_types::{GroupId, PartitionId};
use proptest::prelude::*;

use super::locations::{self, Holder, Location, Locations, Move};
use super::model::ModelStores;
use super::ordered::{OrderedStore, OrderedStores};
use crate::journal::JournalPlace;

const GROUP: GroupId = GroupId([9; 16]);

fn partition(n: u8) -> PartitionId {
    PartitionId([n; 16])
}

fn in_journal(file: u64, n: u64) -> Location {
    let entry = JournalPlace { file, generation: file * 10, position: n * 4096, length: 4000 };
    Location::Journal { entry, start: 17, length: 100 + n as u32 }
}

fn in_object(object: u64, n: u64) -> Location {
    Location::Object { object, position: 1000 * n, length: 100 + n as u32 }
}

fn store() -> (ModelStores, Arc<dyn OrderedStore>) {
    let stores = ModelStores::new();
    let store = stores.open(GROUP).unwrap();
    (stores, store)
}

#[test]
fn rows_are_found_by_any_offset_of_theirs() {
    let (_stores, store) = store();
    let mut locations = Locations::open(store.clone()).unwrap();
    for n in 0..10 {
        locations.put_new(partition(1), n * 5, in_journal(1, n));
    }
    locations.put_new(partition(2), 0, in_object(3, 4));
    store.write(locations.take_changes()).unwrap();
    let at = |p, offset| locations::find(&*store, partition(p), offset).unwrap();
    assert_eq!(at(1, 0), Some((0, in_journal(1, 0))));
    assert_eq!(at(1, 14), Some((10, in_journal(1, 2))));
    assert_eq!(at(1, u64::MAX), Some((45, in_journal(1, 9))));
    assert_eq!(at(2, 3), Some((0, in_object(3, 4))));
    assert_eq!(at(3, 3), None);
    let some = locations::scan(&*store, partition(1), 11, 26, 10).unwrap();
    assert_eq!(some.iter().map(|(base, _)| *base).collect::<Vec<_>>(), [15, 20, 25]);
}

#[test]
fn a_move_is_void_where_the_row_changed() {
    let (_stores, store) = store();
    let mut locations = Locations::open(store.clone()).unwrap();
    for n in 0..3 {
        locations.put_new(partition(1), n, in_journal(1, n));
    }
    store.write(locations.take_changes()).unwrap();
    locations.remove_below(partition(1), 1).unwrap();
    let one = |n, from| Move { partition: partition(1), base: n, from, to: in_object(7, n) };
    let moves = [one(0, in_journal(1, 0)), one(1, in_journal(1, 1)), one(2, in_journal(2, 2))];
    assert_eq!(locations.repoint(&moves).unwrap(), 1);
    store.write(locations.take_changes()).unwrap();
    let rows = locations::scan(&*store, partition(1), 0, 9, 9).unwrap();
    assert_eq!(rows, [(1, in_object(7, 1)), (2, in_journal(1, 2))]);
    recount(&*store);
}

#[test]
fn what_does_not_read_is_damage() {
    let (_stores, store) = store();
    let mut locations = Locations::open(store.clone()).unwrap();
    locations.put_new(partition(1), 0, in_journal(1, 0));
    let changes = locations.take_changes();
    use super::ordered::Change;
    let Change::Put(family, key, value) = &changes[0] else { panic!("{changes:?}") };
    let mut newer = value.to_vec();
    newer[0] = 2;
    for bad in [newer, value[..value.len() - 1].to_vec(), [&value[..], &[0]].concat(), Vec::new()] {
        store.write(vec![Change::Put(*family, key.clone(), bad.into())]).unwrap();
        assert!(locations::get(&*store, partition(1), 0).is_err());
    }
}

/// The counters equal a recount of the rows.
fn recount(store: &dyn OrderedStore) {
    let mut counted: BTreeMap<Holder, u64> = BTreeMap::new();
    for p in 0..4 {
        for (_, location) in locations::scan(store, partition(p), 0, u64::MAX, usize::MAX).unwrap() {
            *counted.entry(location.holder()).or_default() += u64::from(location.length());
        }
    }
    assert_eq!(locations::live_files(store).unwrap(), counted);
}

#[derive(Clone, Debug)]
enum Step {
    Put { partition: u8, location: Location },
    RemoveBelow { partition: u8, share: u8 },
    RemovePartition { partition: u8 },
    Gather { file: u64, object: u64 },
    Write,
    Flush,
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let p = 0u8..4;
    let step = prop_oneof![
        8 => (p.clone(), 0u64..4, 0u64..50).prop_map(|(partition, file, n)| Step::Put {
            partition,
            location: if file == 0 { in_object(1, n) } else { in_journal(file, n) },
        }),
        2 => (p.clone(), 0u8..=110).prop_map(|(partition, share)| Step::RemoveBelow { partition, share }),
        1 => p.prop_map(|partition| Step::RemovePartition { partition }),
        2 => (1u64..4, 2u64..9).prop_map(|(file, object)| Step::Gather { file, object }),
        6 => Just(Step::Write),
        2 => Just(Step::Flush),
        1 => Just(Step::Crash),
    ];
    proptest::collection::vec(step, 1..120)
}

type Model = BTreeMap<(u8, u64), Location>;

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any sequence of changes, writes, flushes and crashes leaves what a plain map has.
    #[test]
    fn locations_follow_a_model(steps in steps()) {
        let (stores, mut store) = store();
        let mut locations = Locations::open(store.clone()).unwrap();
        let (mut now, mut written, mut flushed) = (Model::new(), Model::new(), Model::new());
        // Base offsets only rise, whatever a crash takes back.
        let mut next = [0u64; 4];
        for step in steps {
            match step {
                Step::Put { partition: p, location } => {
                    let base = next[p as usize];
                    next[p as usize] += 1 + base % 3;
                    locations.put_new(partition(p), base, location);
                    now.insert((p, base), location);
                }
                Step::RemoveBelow { partition: p, share } => {
                    let base = next[p as usize] * u64::from(share) / 100;
                    locations.remove_below(partition(p), base).unwrap();
                    now.retain(|&(at, b), _| at != p || b >= base);
                }
                Step::RemovePartition { partition: p } => {
                    locations.remove_partition(partition(p)).unwrap();
                    now.retain(|&(at, _), _| at != p);
                }
                Step::Gather { file, object } => {
                    let of_file = |l: &Location| l.holder() == Holder::Journal { file, generation: file * 10 };
                    let found: Vec<_> = now.iter().filter(|(_, l)| of_file(l)).map(|(k, l)| (*k, *l)).collect();
                    let moves: Vec<_> = found.iter().map(|&((p, base), from)| Move {
                        partition: partition(p), base, from, to: in_object(object, base),
                    }).collect();
                    prop_assert_eq!(locations.repoint(&moves).unwrap(), moves.len());
                    for (key, _) in found {
                        now.insert(key, in_object(object, key.1));
                    }
                }
                Step::Write => {
                    store.write(locations.take_changes()).unwrap();
                    written = now.clone();
                }
                Step::Flush => {
                    store.flush().unwrap();
                    flushed = written.clone();
                }
                Step::Crash => {
                    stores.crash();
                    store = stores.open(GROUP).unwrap();
                    locations = Locations::open(store.clone()).unwrap();
                    (now, written) = (flushed.clone(), flushed.clone());
                }
            }
            for (&(p, base), location) in &now {
                prop_assert_eq!(locations.get(partition(p), base).unwrap(), Some(*location));
            }
            recount(&*store);
        }
        store.write(locations.take_changes()).unwrap();
        for p in 0..4 {
            let rows = locations::scan(&*store, partition(p), 0, u64::MAX, usize::MAX).unwrap();
            let model: Vec<_> = now.range((p, 0)..=(p, u64::MAX)).map(|(&(_, base), l)| (base, *l)).collect();
            prop_assert_eq!(rows, model);
        }
        recount(&*store);
    }
}
