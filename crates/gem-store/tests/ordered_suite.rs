//! What `index::ordered` promises, held against RocksDB and the simulator's model; and RocksDB's
//! durability against real files and a process that is killed.

use std::sync::Arc;

use bytes::Bytes;
use gem_store::index::model::ModelStores;
use gem_store::index::ordered::{Change, Family, OrderedStore, OrderedStores, StoreId};
use gem_store::index::rocks::{RocksConfig, RocksStores};
use gem_types::GroupId;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use Family::{Locations, State};

const GROUP: GroupId = GroupId([7; 16]);

fn small() -> RocksConfig {
    RocksConfig { cache_bytes: 1 << 20, write_buffer_bytes: 1 << 20, threads: 1, open_files: 16 }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(family: Family, key: &str, value: &str) -> Change {
    Change::Put(family, bytes(key), bytes(value))
}

fn keys(rows: Vec<(Bytes, Bytes)>) -> String {
    rows.iter().map(|(key, _)| String::from_utf8_lossy(key)).collect::<Vec<_>>().join(" ")
}

/// The suite: what any implementation must do.
fn suite(stores: &dyn OrderedStores, dir: &std::path::Path) {
    reads_see_writes_in_order(&*stores.open(GroupId([1; 16])).unwrap());
    changes_of_a_batch_apply_in_order(&*stores.open(GroupId([2; 16])).unwrap());
    groups_are_apart(stores);
    a_store_is_opened_once_and_removed_closed(stores);
    a_checkpoint_is_made_once(stores, dir);
    a_copy_is_a_store_of_its_own(stores);
}

fn a_copy_is_a_store_of_its_own(stores: &dyn OrderedStores) {
    let (first, second) = (GroupId([8; 16]).into(), StoreId { group: GroupId([8; 16]), generation: 1 });
    let store = stores.open_at(first).unwrap();
    store.write(vec![put(State, "a", "1"), put(Locations, "a", "2")]).unwrap();
    stores.copy(&*store, second).unwrap();
    assert!(stores.copy(&*store, second).is_err(), "a copy replaces nothing");
    store.write(vec![put(State, "a", "3")]).unwrap();
    let copy = stores.open_at(second).unwrap();
    assert_eq!(copy.get(State, b"a").unwrap().unwrap(), "1");
    assert_eq!(copy.get(Locations, b"a").unwrap().unwrap(), "2");
    copy.write(vec![put(State, "b", "4")]).unwrap();
    assert_eq!(store.get(State, b"b").unwrap(), None);
    let of_group = |id: &StoreId| id.group == GroupId([8; 16]);
    assert_eq!(stores.list().unwrap().into_iter().filter(of_group).collect::<Vec<_>>(), [first, second]);
    drop(copy);
    stores.remove_at(second).unwrap();
    assert_eq!(stores.list().unwrap().into_iter().filter(of_group).collect::<Vec<_>>(), [first]);
}

fn reads_see_writes_in_order(store: &dyn OrderedStore) {
    assert_eq!(store.get(State, b"a").unwrap(), None);
    store.write(["d", "b", "a", "c", "bb"].map(|key| put(State, key, &key.to_uppercase())).to_vec()).unwrap();
    store.write(vec![put(Locations, "b", "other")]).unwrap();
    assert_eq!(store.get(State, b"bb").unwrap().unwrap(), "BB");
    assert_eq!(store.get(Locations, b"b").unwrap().unwrap(), "other");
    assert_eq!(store.get(Locations, b"a").unwrap(), None);
    assert_eq!(keys(store.scan(State, b"", b"\xff", 10).unwrap()), "a b bb c d");
    assert_eq!(keys(store.scan(State, b"b", b"c", 10).unwrap()), "b bb");
    assert_eq!(keys(store.scan(State, b"b", b"zz", 2).unwrap()), "b bb");
    assert_eq!(keys(store.scan_back(State, b"a", b"c", 2).unwrap()), "bb b");
    assert_eq!(keys(store.scan_back(State, b"a", b"\xff", 1).unwrap()), "d");
    for (from, to, limit) in [("c", "b", 9), ("b", "b", 9), ("x", "z", 9), ("a", "z", 0)] {
        assert_eq!(store.scan(State, from.as_bytes(), to.as_bytes(), limit).unwrap(), []);
        assert_eq!(store.scan_back(State, from.as_bytes(), to.as_bytes(), limit).unwrap(), []);
    }
    store.flush().unwrap();
    store.flush().unwrap();
    assert_eq!(keys(store.scan(State, b"", b"\xff", 10).unwrap()), "a b bb c d");
}

fn changes_of_a_batch_apply_in_order(store: &dyn OrderedStore) {
    let range = |from: &str, to: &str| Change::DeleteRange(State, bytes(from), bytes(to));
    let delete = |key: &str| Change::Delete(State, bytes(key));
    store
        .write(vec![put(State, "a", "1"), put(State, "b", "1"), put(State, "c", "1"), put(Locations, "a", "1")])
        .unwrap();
    store
        .write(vec![range("a", "c"), put(State, "b", "2"), delete("none"), put(State, "d", "2"), delete("d")])
        .unwrap();
    assert_eq!(keys(store.scan(State, b"", b"\xff", 10).unwrap()), "b c");
    assert_eq!(store.get(State, b"b").unwrap().unwrap(), "2");
    assert_eq!(store.get(Locations, b"a").unwrap().unwrap(), "1", "a range is of one family");
    store
        .write(vec![
            range("c", "b"),
            range("b", "b"),
            put(State, "b", ""),
            Change::Put(State, Bytes::new(), bytes("e")),
        ])
        .unwrap();
    assert_eq!(store.get(State, b"b").unwrap().unwrap(), "");
    assert_eq!(store.get(State, b"").unwrap().unwrap(), "e");
    store.write(Vec::new()).unwrap();
}

fn groups_are_apart(stores: &dyn OrderedStores) {
    let [one, two] = [3, 4].map(|n| stores.open(GroupId([n; 16])).unwrap());
    one.write(vec![put(State, "key", "one")]).unwrap();
    assert_eq!(two.get(State, b"key").unwrap(), None);
}

fn a_store_is_opened_once_and_removed_closed(stores: &dyn OrderedStores) {
    let group = GroupId([5; 16]);
    let store = stores.open(group).unwrap();
    store.write(vec![put(State, "key", "value")]).unwrap();
    assert!(stores.open(group).is_err());
    assert!(stores.remove(group).is_err());
    store.flush().unwrap();
    drop(store);
    let store = stores.open(group).unwrap();
    assert!(store.get(State, b"key").unwrap().is_some());
    drop(store);
    stores.remove(group).unwrap();
    stores.remove(group).unwrap();
    let store = stores.open(group).unwrap();
    assert!(store.get(State, b"key").unwrap().is_none());
}

fn a_checkpoint_is_made_once(stores: &dyn OrderedStores, dir: &std::path::Path) {
    let store = stores.open(GroupId([6; 16])).unwrap();
    store.write(vec![put(State, "key", "value")]).unwrap();
    store.checkpoint(&dir.join("checkpoint")).unwrap();
    assert!(store.checkpoint(&dir.join("checkpoint")).is_err());
}

#[test]
fn the_model_passes() {
    let dir = tempfile::tempdir().unwrap();
    let stores = ModelStores::new();
    suite(&stores, dir.path());
    let rows = stores.checkpoint_rows(&dir.path().join("checkpoint"), State).unwrap();
    assert_eq!(keys(rows), "key");
}

#[test]
fn rocksdb_passes() {
    let dir = tempfile::tempdir().unwrap();
    let stores = RocksStores::open(dir.path(), small()).unwrap();
    suite(&stores, dir.path());
    // A checkpoint is a database: move it to where one is opened.
    let place = dir.path().join("index").join(GROUP.to_string());
    rename(&dir.path().join("checkpoint"), &place);
    let store = stores.open(GROUP).unwrap();
    assert_eq!(store.get(State, b"key").unwrap().unwrap(), "value");
    assert!(stores.memory_used() > 0);
}

#[expect(clippy::disallowed_methods, reason = "the test moves RocksDB's own directory")]
fn rename(from: &std::path::Path, to: &std::path::Path) {
    std::fs::rename(from, to).unwrap();
}

#[test]
fn damage_names_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let stores = RocksStores::open(dir.path(), small()).unwrap();
    drop(stores.open(GROUP).unwrap());
    let place = dir.path().join("index").join(GROUP.to_string());
    #[expect(clippy::disallowed_methods, reason = "the test damages RocksDB's own files")]
    std::fs::write(place.join("CURRENT"), b"nonsense\n").unwrap();
    let error = stores.open(GROUP).unwrap_err().to_string();
    assert!(error.contains(&GROUP.to_string()), "{error}");
}

#[test]
fn the_model_loses_all_since_its_last_flush() {
    let stores = ModelStores::new();
    let store = stores.open(GROUP).unwrap();
    store.write(vec![put(State, "a", "1"), put(State, "b", "1"), put(Locations, "a", "1")]).unwrap();
    store.flush().unwrap();
    store.write(vec![put(State, "a", "2"), Change::Delete(State, bytes("b")), put(Locations, "c", "2")]).unwrap();
    store.write(vec![put(State, "a", "3"), put(State, "b", "3")]).unwrap();
    stores.crash();
    assert!(store.get(State, b"a").is_err(), "a handle from before the crash is dead");
    let again = stores.open(GROUP).unwrap();
    drop(store);
    assert!(stores.open(GROUP).is_err(), "a dead handle frees nothing");
    assert_eq!(again.get(State, b"a").unwrap().unwrap(), "1");
    assert_eq!(again.get(State, b"b").unwrap().unwrap(), "1");
    assert_eq!(again.get(Locations, b"a").unwrap().unwrap(), "1");
    assert_eq!(again.get(Locations, b"c").unwrap(), None);
}

/// The same seeded history leaves the same rows in both.
#[test]
fn both_agree_on_any_history() {
    let dir = tempfile::tempdir().unwrap();
    let rocks = RocksStores::open(dir.path(), small()).unwrap();
    let models = ModelStores::new();
    let config = Config { cases: 24, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let step = (0u8..10, 0u8..2, 0u8..40, 0u8..40, 0u8..200);
    let history = proptest::collection::vec(proptest::collection::vec(step, 1..8), 1..40);
    let mut number = 0u64;
    let (rocks, models, number) = (&rocks, &models, &mut number);
    let counter = std::cell::RefCell::new(number);
    TestRunner::new_with_rng(config, rng)
        .run(&history, |history| {
            let mut id = [0; 16];
            **counter.borrow_mut() += 1;
            id[..8].copy_from_slice(&counter.borrow().to_be_bytes());
            let stores = [rocks.open(GroupId(id)).unwrap(), models.open(GroupId(id)).unwrap()];
            for batch in &history {
                let changes: Vec<Change> = batch.iter().map(|&step| change(step)).collect();
                for store in &stores {
                    store.write(changes.clone()).unwrap();
                    if batch.len() == 7 {
                        store.flush().unwrap();
                    }
                }
            }
            for family in [State, Locations] {
                let [real, model] = stores.each_ref().map(|s| s.scan(family, b"", b"\xff", usize::MAX).unwrap());
                proptest::prop_assert_eq!(&real, &model);
                let [real, model] = stores.each_ref().map(|s| s.scan_back(family, &[5], &[30], 7).unwrap());
                proptest::prop_assert_eq!(real, model);
            }
            Ok(())
        })
        .unwrap();
}

fn change((kind, family, a, b, value): (u8, u8, u8, u8, u8)) -> Change {
    let family = if family == 0 { State } else { Locations };
    let key = |n: u8| Bytes::copy_from_slice(&[n]);
    match kind {
        0 => Change::DeleteRange(family, key(a), key(b)),
        1 | 2 => Change::Delete(family, key(a)),
        _ => Change::Put(family, key(a), Bytes::from(vec![value; usize::from(value)])),
    }
}

// The crash test: this binary starts itself as a child that writes numbered batches and flushes
// now and then, telling its parent of every flush; the parent kills it.

const CHILD: &str = "GEM_TEST_CRASHING_INDEX";

#[test]
fn a_killed_process_keeps_both_families_at_one_batch() {
    if let Ok(dir) = std::env::var(CHILD) {
        child(std::path::Path::new(&dir));
    }
    let mut started = 0;
    let dir = tempfile::tempdir().unwrap();
    for seed in 0..6u64 {
        let flushed = run_and_kill(dir.path(), started, seed);
        let stores = RocksStores::open(dir.path(), small()).unwrap();
        let store = stores.open(GROUP).unwrap();
        let [state, locations] = [State, Locations].map(|family| last_batch(&*store, family));
        assert_eq!(state, locations, "seed {seed}: the families are at different batches");
        assert!(state >= flushed, "seed {seed}: flushed up to {flushed}, but only {state} is there");
        for n in state.saturating_sub(300)..=state {
            let value = store.get(Locations, &row(n)).unwrap();
            assert_eq!(value.is_some(), n > 0 && n % 5 != 0, "seed {seed}: row {n} of {state}");
        }
        started = state;
    }
    assert!(started > 1000, "the child hardly wrote: {started}");
}

fn row(n: u64) -> [u8; 9] {
    let mut key = [b'r'; 9];
    key[1..].copy_from_slice(&n.to_be_bytes());
    key
}

fn last_batch(store: &dyn OrderedStore, family: Family) -> u64 {
    let value = store.get(family, b"applied").unwrap();
    value.map_or(0, |v| u64::from_be_bytes(v.as_ref().try_into().unwrap()))
}

/// Writes batch after batch until it is killed. Lines on standard output: `flushed N`.
fn child(dir: &std::path::Path) -> ! {
    use std::io::Write;
    let stores = RocksStores::open(dir, small()).unwrap();
    let store: Arc<dyn OrderedStore> = stores.open(GROUP).unwrap();
    let mut out = std::io::stdout();
    for n in last_batch(&*store, State) + 1.. {
        let number = Bytes::copy_from_slice(&n.to_be_bytes());
        let mut changes = vec![
            Change::Put(State, bytes("applied"), number.clone()),
            Change::Put(Locations, bytes("applied"), number),
            // Uneven sizes: one family's buffer fills long before the other's.
            Change::Put(State, Bytes::copy_from_slice(&row(n % 1000)), Bytes::from(vec![n as u8; 900])),
            Change::Put(Locations, Bytes::copy_from_slice(&row(n)), Bytes::from_static(b"location")),
        ];
        if n % 5 == 0 {
            let (from, to) = (Bytes::copy_from_slice(&row(n)), Bytes::copy_from_slice(&row(n + 1)));
            changes.push(Change::DeleteRange(Locations, from, to));
        }
        store.write(changes).unwrap();
        if n % 97 == 0 {
            store.flush().unwrap();
            writeln!(out, "flushed {n}").unwrap();
        }
    }
    unreachable!("numbers do not end")
}

/// Runs the child until it reported some flushes, kills it, and answers the last one reported.
fn run_and_kill(dir: &std::path::Path, at_least: u64, seed: u64) -> u64 {
    use std::io::{BufRead, BufReader};
    let me = std::env::current_exe().unwrap();
    let mut child = std::process::Command::new(me)
        .args(["--exact", "--nocapture", "a_killed_process_keeps_both_families_at_one_batch"])
        .env(CHILD, dir)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut flushed = at_least;
    let mut left = 2 + seed * 3 % 8;
    while left > 0 {
        let line = lines.next().expect("the child writes until it is killed");
        if let Some((_, number)) = line.split_once("flushed ") {
            flushed = number.trim().parse().unwrap();
            left -= 1;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // Lines that were on their way count too.
    for line in lines {
        if let Some(number) = line.strip_prefix("flushed ").and_then(|n| n.trim().parse().ok()) {
            flushed = number;
        }
    }
    flushed
}
