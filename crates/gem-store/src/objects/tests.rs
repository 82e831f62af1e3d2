//! Objects: round trip, damage, and the file of version 1 that is kept for ever.

use std::path::Path;
use std::sync::Arc;

use gem_types::{GroupId, NodeId, PartitionId};

use super::*;
use crate::StoreError;
use crate::disk::{Disk, OsDisk};
use crate::test_batches::batch;

const GOLDEN: &[u8] = include_bytes!("../../tests/fixtures/object-v1.bin");

fn key(group: u8, partition: u8, base: u64) -> BatchKey {
    BatchKey { group: GroupId([group; 16]), partition: PartitionId([partition; 16]), base }
}

fn keys() -> Vec<BatchKey> {
    vec![key(1, 1, 0), key(1, 1, 3), key(1, 2, 0), key(2, 1, 7), key(2, 1, 10)]
}

fn open(dir: &Path) -> Objects {
    let origin = Origin { node: NodeId([5; 32]), group: None };
    Objects::open(Arc::new(OsDisk), dir, origin).unwrap()
}

fn write(objects: &Objects, keys: &[BatchKey]) -> writer::Written {
    let mut writer = objects.create().unwrap();
    for key in keys {
        writer.add(*key, &batch(key.base, 3, 40).to_bytes()).unwrap();
    }
    let written = writer.finish().unwrap();
    objects.publish(&written).unwrap();
    written
}

fn path_of(dir: &Path) -> std::path::PathBuf {
    dir.join("objects/0000000000000001.object")
}

#[expect(clippy::disallowed_methods, reason = "the test looks at the file itself")]
fn read_file(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "the test damages the file itself")]
fn write_file(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn what_was_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let objects = open(dir.path());
    let written = write(&objects, &keys());
    for objects in [objects, open(dir.path())] {
        assert_eq!(objects.index(1).unwrap(), written.entries);
        for entry in &written.entries {
            let bytes = objects.read(1, &entry.key, entry.position, entry.length).unwrap();
            assert_eq!(bytes, batch(entry.key.base, 3, 40).to_bytes());
        }
        assert_eq!(objects.list().len(), 1);
        assert_eq!(objects.bytes(), read_file(&path_of(dir.path())).len() as u64);
        let other = written.entries[1];
        let wrong = objects.read(1, &key(9, 9, 9), other.position, other.length);
        assert!(matches!(wrong, Err(StoreError::Damaged { .. })), "{wrong:?}");
        assert!(matches!(objects.read(2, &other.key, other.position, other.length), Err(StoreError::Moved)));
    }
}

#[test]
fn numbers_are_not_used_twice_and_leftovers_go() {
    let dir = tempfile::tempdir().unwrap();
    let objects = open(dir.path());
    write(&objects, &keys());
    let mut half = objects.create().unwrap();
    half.add(key(1, 1, 0), b"lost").unwrap();
    drop((half, objects));
    let objects = open(dir.path());
    assert_eq!(OsDisk.list(&dir.path().join("objects")).unwrap(), ["0000000000000001.object"]);
    objects.reserve(41);
    assert_eq!(objects.create().unwrap().number(), 42);
    let entry = objects.index(1).unwrap()[0];
    objects.remove(1).unwrap();
    objects.remove(1).unwrap();
    assert!(matches!(objects.read(1, &entry.key, entry.position, entry.length), Err(StoreError::Moved)));
    assert_eq!((objects.bytes(), objects.list().len()), (0, 0));
}

#[test]
fn an_empty_object_is_an_object() {
    let dir = tempfile::tempdir().unwrap();
    let objects = open(dir.path());
    write(&objects, &[]);
    assert_eq!(objects.index(1).unwrap(), []);
}

#[test]
fn the_golden_object_reads_and_is_written_so() {
    let dir = tempfile::tempdir().unwrap();
    let objects = open(dir.path());
    let written = write(&objects, &keys());
    if std::env::var_os("GEM_WRITE_FIXTURES").is_some() {
        return write_file(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/object-v1.bin"),
            &read_file(&path_of(dir.path())),
        );
    }
    assert!(read_file(&path_of(dir.path())) == GOLDEN, "the format changed: give it a new version, keep reading this");
    drop(objects);
    write_file(&path_of(dir.path()), GOLDEN);
    let objects = open(dir.path());
    assert_eq!(objects.index(1).unwrap(), written.entries);
}

/// Every flipped bit and every cut is noticed by whatever reads the bytes it is in.
#[test]
fn damage_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let entries = write(&open(dir.path()), &keys()).entries;
    let path = path_of(dir.path());
    let whole = read_file(&path);
    let check = |what: &str| {
        let reader = match ObjectReader::open(&OsDisk, &path) {
            Ok(reader) => reader,
            Err(StoreError::Damaged { .. }) => return,
            Err(e) => panic!("{what}: {e}"),
        };
        let damaged = |e: &StoreError| matches!(e, StoreError::Damaged { .. });
        let index = reader.index();
        let batches: Vec<_> = entries.iter().map(|e| reader.batch(&e.key, e.position, e.length)).collect();
        let good = index.is_ok() && batches.iter().all(|b| b.is_ok());
        assert!(!good, "{what} went unnoticed");
        assert!(index.as_ref().err().is_none_or(damaged), "{what}: {index:?}");
        assert!(batches.iter().filter_map(|b| b.as_ref().err()).all(damaged), "{what}");
    };
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        write_file(&path, &bytes);
        check(&format!("a flip at byte {at}"));
    }
    for cut in (0..whole.len()).step_by(7) {
        write_file(&path, &whole[..cut]);
        check(&format!("a cut at byte {cut}"));
    }
}
