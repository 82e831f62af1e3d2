//! Groups against sets of offsets.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::world::*;
use crate::entry::{Command, Progress};
use crate::log::{GroupRef, Mode};
use crate::machine::Outcome;

/// A group as one would write it down.
#[derive(Default)]
struct Naive {
    floor: u64,
    done: BTreeSet<u64>,
    attempts: BTreeMap<u64, u32>,
    delayed: BTreeMap<u64, i64>,
    moving: BTreeSet<u64>,
    dead_lettered: u64,
}

impl Naive {
    fn is_open(&self, offset: u64, next: u64) -> bool {
        offset >= self.floor && offset < next && !self.done.contains(&offset)
    }

    fn finish(&mut self, offset: u64) {
        self.done.insert(offset);
        self.attempts.remove(&offset);
        self.delayed.remove(&offset);
        self.moving.remove(&offset);
    }

    fn progress(&mut self, progress: &Progress, next: u64) {
        for offset in progress.acked.iter().flat_map(|(from, to)| *from..*to) {
            if self.is_open(offset, next) {
                self.finish(offset);
            }
        }
        for &(offset, attempts) in &progress.attempts {
            if self.is_open(offset, next) {
                let known = self.attempts.get(&offset).copied().unwrap_or(0);
                self.attempts.insert(offset, known.max(attempts));
                self.delayed.remove(&offset);
            }
        }
        for &(offset, due_ms) in &progress.delayed {
            if self.is_open(offset, next) && !self.moving.contains(&offset) {
                self.delayed.insert(offset, due_ms);
            }
        }
        for &offset in &progress.moving {
            if self.is_open(offset, next) {
                self.moving.insert(offset);
                self.delayed.remove(&offset);
            }
        }
        for &offset in &progress.moved {
            if self.is_open(offset, next) {
                self.finish(offset);
                self.dead_lettered += 1;
            }
        }
    }

    fn cut(&mut self, earliest: u64) {
        self.floor = self.floor.max(earliest);
        while self.done.contains(&self.floor) {
            self.floor += 1;
        }
        let floor = self.floor;
        self.attempts.retain(|offset, _| *offset >= floor);
        self.delayed.retain(|offset, _| *offset >= floor);
        self.moving.retain(|offset| *offset >= floor);
    }
}

fn check(world: &mut World, group: &GroupRef, naive: &Naive, next: u64) {
    let state = world.machine.group(group).unwrap().unwrap();
    assert_eq!(state.floor, naive.floor);
    assert_eq!(state.lag(next), (naive.floor..next).filter(|offset| !naive.done.contains(offset)).count() as u64);
    assert_eq!(
        state.acked.iter().flatten().collect::<Vec<_>>(),
        naive.done.range(naive.floor..).copied().collect::<Vec<_>>()
    );
    let moving: BTreeSet<u64> = state.moving.keys().copied().collect();
    assert_eq!((&state.attempts, &state.delayed, &moving), (&naive.attempts, &naive.delayed, &naive.moving));
    let numbers: BTreeSet<u64> = state.moving.values().copied().collect();
    assert_eq!(numbers.len(), moving.len(), "no two moves have one number");
    assert!(numbers.last().is_none_or(|last| *last <= state.moves));
    assert_eq!(state.dead_lettered, naive.dead_lettered);
    assert!(state.frontier >= state.floor);
    assert!(!state.acked.contains(state.floor));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_group_is_what_was_said_of_it(steps in prop::collection::vec(any::<Step>(), 1..150)) {
        let mut world = World::new(0);
        let partition = world.create("ta");
        let group = world.group("ta", "g1").unwrap();
        world.append(append(partition, &[None; 20])).unwrap();
        world.command(Command::CreateGroup { group: group.clone(), mode: Mode::Shared, start: 3 });
        let mut naive = Naive { floor: 3, ..Naive::default() };
        for (kind, a, b, c) in steps {
            let next = world.next(partition);
            let before = naive.floor;
            match kind % 12 {
                0 => {
                    // Past the end of a chunk now and then.
                    let records = if b % 4 == 0 { 3000 } else { 1 + b as usize % 20 };
                    world.append(append(partition, &vec![None; records])).unwrap();
                }
                1 if b % 4 == 0 => {
                    let earliest = naive.floor / 2 + u64::from(c) % next.div_ceil(4).max(1);
                    let Some(Outcome::Trimmed { earliest, .. }) =
                        world.command(Command::Trim { partition, before: earliest }) else { panic!() };
                    naive.cut(earliest);
                }
                2 if b % 4 == 0 => {
                    let offset = u64::from(c) % next;
                    let earliest = world.machine.partition(partition).unwrap().unwrap().earliest;
                    world.command(Command::Seek { group: group.clone(), offset });
                    let attempts = std::mem::take(&mut naive.attempts);
                    let (moving, dead_lettered) = (std::mem::take(&mut naive.moving), naive.dead_lettered);
                    naive = Naive { floor: offset.max(earliest), attempts, moving, dead_lettered, ..Naive::default() };
                    naive.cut(0);
                    check(&mut world, &group, &naive, next);
                    continue;
                }
                3 => {
                    let at = naive.floor;
                    let mut progress = Progress::of(group.clone());
                    progress.acked = vec![(at, at + 1 + u64::from(c) % 1500)];
                    naive.progress(&progress, next);
                    naive.cut(0);
                    world.command(Command::Progress(progress));
                }
                _ => {
                    let progress = progress(group.clone(), (a, b, c), next);
                    naive.progress(&progress, next);
                    naive.cut(0);
                    world.command(Command::Progress(progress));
                }
            }
            prop_assert!(naive.floor >= before, "the floor fell");
            let next = world.next(partition);
            check(&mut world, &group, &naive, next);
        }
    }
}

#[test]
fn chunks_below_the_floor_leave_no_rows() {
    let mut world = World::new(0);
    let partition = world.create("ta");
    let group = world.group("ta", "g1").unwrap();
    world.append(append(partition, &vec![None; 20_000])).unwrap();
    world.command(Command::CreateGroup { group: group.clone(), mode: Mode::Shared, start: 0 });
    let rows = |world: &World| {
        let store = world.machine.store();
        store.scan(gem_store::index::ordered::Family::State, &[8], &[9], 100).unwrap().len()
    };
    let ack = |world: &mut World, from, to| {
        let mut progress = Progress::of(group.clone());
        progress.acked = vec![(from, to)];
        world.command(Command::Progress(progress));
    };
    ack(&mut world, 1, 20_000);
    assert_eq!(rows(&world), 5);
    ack(&mut world, 0, 1);
    assert_eq!(rows(&world), 0);
    let state = world.machine.group(&group).unwrap().unwrap();
    assert_eq!((state.floor, state.lag(20_000), state.acked_total), (20_000, 0, 20_000));
}
