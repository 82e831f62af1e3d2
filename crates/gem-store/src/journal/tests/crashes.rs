//! Power cuts and kills at any operation of the disk: what was acknowledged is there, in order,
//! and what was not is there wholly up to some operation, or not at all.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::model::Model;
use super::{Chance, DIR, Outcome, count, open};
use crate::disk::{Disk, SimDisk};
use crate::journal::{Journal, JournalOp, Writer};

/// A journal under test: its model as acknowledged, and the operations beyond.
struct World {
    disk: SimDisk,
    chance: Chance,
    acked: Model,
    /// Submitted, not known to be acknowledged, in order.
    beyond: VecDeque<JournalOp>,
    submitted: Model,
    acks: Arc<AtomicU64>,
    acks_seen: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        World {
            disk: SimDisk::new(),
            chance: Chance(seed),
            acked: Model::default(),
            beyond: VecDeque::new(),
            submitted: Model::default(),
            acks: Arc::default(),
            acks_seen: 0,
        }
    }

    /// One step of a caller, the writer or the gatherer.
    fn step(&mut self, journal: &Journal, writer: &mut Writer) {
        match self.chance.below(20) {
            0..10 => {
                let mut ops = Vec::new();
                for _ in 0..1 + self.chance.below(3) {
                    let op = self.submitted.draw(&mut self.chance);
                    self.submitted.apply(&op);
                    ops.push(op);
                }
                self.beyond.extend(ops.iter().cloned());
                let acks = count(&self.acks, ops.len() as u64);
                journal.submit(ops, acks);
            }
            10..17 => {
                writer.step();
            }
            17 => journal.seal_current(),
            _ => self.recycle(journal),
        }
        let acks = self.acks.load(Ordering::Relaxed);
        for op in self.beyond.drain(..(acks - self.acks_seen) as usize) {
            self.acked.apply(&op);
        }
        self.acks_seen = acks;
        let powered = self.disk.list(Path::new(DIR)).is_ok();
        if powered && journal.poisoned().is_none() {
            self.submitted.matches(journal).unwrap();
        }
    }

    /// Frees a file, or moves what keeps it from being freed.
    fn recycle(&mut self, journal: &Journal) {
        let sealed: Vec<_> = journal.files().into_iter().filter(|file| file.sealed).collect();
        if sealed.is_empty() {
            return;
        }
        let file = sealed[self.chance.below(sealed.len() as u64) as usize];
        if file.entries == 0 {
            journal.recycle(file.file, file.generation, Box::new(drop));
        } else {
            journal.carry(&journal.entries_left(file.file), Box::new(drop));
        }
    }

    /// Opens again, and holds what is found to the model.
    fn recover(&mut self) -> (Journal, Writer) {
        let (journal, writer) = open(&self.disk).unwrap();
        let mut candidate = self.acked.clone();
        let mut mismatch = candidate.matches(&journal);
        while mismatch.is_err()
            && let Some(op) = self.beyond.pop_front()
        {
            candidate.apply(&op);
            mismatch = candidate.matches(&journal).map_err(|later| format!("{} … {later}", mismatch.unwrap_err()));
        }
        mismatch.unwrap();
        (self.acked, self.submitted) = (candidate.clone(), candidate);
        self.beyond.clear();
        self.acks = Arc::default();
        self.acks_seen = 0;
        (journal, writer)
    }
}

fn lives(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..4 {
        let (journal, mut writer) = world.recover();
        let power = 1 + world.chance.below(60);
        let steps = 20 + world.chance.below(60);
        if world.chance.below(3) > 0 {
            world.disk.cut_power_after(power);
        }
        for _ in 0..steps {
            world.step(&journal, &mut writer);
        }
        if world.chance.below(4) == 0 {
            world.disk.kill();
        } else {
            world.disk.crash(world.chance.below(u64::MAX));
        }
    }
    let (journal, mut writer) = world.recover();
    for _ in 0..20 {
        world.step(&journal, &mut writer);
    }
    while writer.step() {}
    world.submitted.matches(&journal).unwrap();
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_half_done() {
    let rounds = std::env::var("GEM_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(600);
    for seed in 0..rounds {
        if std::panic::catch_unwind(|| lives(seed)).is_err() {
            panic!("seed {seed}");
        }
    }
}

#[test]
fn a_crash_while_starting_changes_nothing() {
    for seed in 0..60 {
        let mut world = World::new(seed);
        let (journal, mut writer) = world.recover();
        for _ in 0..60 {
            world.step(&journal, &mut writer);
        }
        world.disk.crash(seed);
        for power in 0..12 {
            world.disk.cut_power_after(power);
            // Starting writes and syncs: it fails wherever the power goes.
            let _ = open(&world.disk);
            world.disk.crash(seed + power);
        }
        world.recover();
    }
}

#[test]
fn one_seed_makes_one_journal() {
    let trace = |seed| {
        let mut world = World::new(seed);
        let (journal, mut writer) = world.recover();
        for _ in 0..200 {
            world.step(&journal, &mut writer);
        }
        (journal.files(), world.disk.writes(), world.disk.syncs(), journal.counters().bytes())
    };
    assert_eq!(trace(5), trace(5));
}

#[test]
fn an_operation_is_answered_once_also_when_the_writer_goes() {
    let (journal, writer) = open(&SimDisk::new()).unwrap();
    let outcome = Outcome::default();
    journal.submit(vec![super::append(super::group(1), 1, 0, b"x")], outcome.done());
    drop(writer);
    assert!(outcome.take().unwrap().is_err());
    journal.submit(vec![super::append(super::group(1), 1, 1, b"x")], outcome.done());
    assert!(outcome.take().unwrap().is_err());
}
