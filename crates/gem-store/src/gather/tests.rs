//! Gathering against crashes: a small node of three shards on a disk that loses what was not
//! synced, with indexes that lose what was not flushed, cut off at any operation.

mod world;

use super::*;
use crate::index::locations::Holder;
use world::{Chance, World};

/// Some hundred seeded operations with gathering among them, then the power goes at a seeded
/// moment; whatever was acknowledged must read right, again and again, and in the end the disk
/// holds little more than what is live.
fn run(seed: u64, lives: u32) -> GatherCounts {
    let mut chance = Chance(seed);
    let mut world = World::new(seed);
    let mut counts = GatherCounts::default();
    for life in 0..lives {
        let mut gatherer = world.gatherer();
        world.disk.cut_power_after(30 + chance.below(600));
        for _ in 0..chance.below(400) {
            // The first failure is the power: nothing more is done in this life.
            if world.operate(&mut chance).is_err() {
                break;
            }
            for _ in 0..chance.below(6) {
                match gatherer.step() {
                    Ok(Next::Idle) => break,
                    Ok(_) => {}
                    Err(StoreError::Refused(what)) => panic!("seed {seed}, life {life}: {what}"),
                    Err(_) => break,
                }
            }
            world.flush_journal();
        }
        let now = gatherer.counts();
        counts.files_recycled += now.files_recycled;
        counts.carried += now.carried;
        counts.batches += now.batches;
        counts.objects_removed += now.objects_removed;
        drop(gatherer);
        world.crash(chance.next());
        world.verify(&format!("seed {seed}, life {life}"));
    }
    world.settle();
    world.verify(&format!("seed {seed}, settled"));
    world.check_disk_use(seed);
    counts
}

#[test]
fn nothing_is_lost_at_any_crash() {
    let mut all = GatherCounts::default();
    for seed in 0..40 {
        let counts = run(seed, 6);
        all.files_recycled += counts.files_recycled;
        all.carried += counts.carried;
        all.batches += counts.batches;
        all.objects_removed += counts.objects_removed;
    }
    // The test is worth something only if all of it happened.
    assert!(all.files_recycled > 50 && all.carried > 20 && all.batches > 100 && all.objects_removed > 10, "{all:?}");
}

/// The same seed, the same outcome.
#[test]
fn a_seed_repeats() {
    assert_eq!(run(7, 3), run(7, 3));
}

/// A crash between any two steps of one round, and within each.
#[test]
fn every_step_of_a_round_may_be_the_last() {
    for steps in 0.. {
        let mut world = World::new(99);
        let mut chance = Chance(99);
        while world.journal().files().len() < 8 {
            world.operate(&mut chance).unwrap();
            world.flush_journal();
        }
        let mut gatherer = world.gatherer();
        let mut stage = None;
        for _ in 0..steps {
            gatherer.step().unwrap();
            world.flush_journal();
            stage = gatherer.stage();
        }
        let rounds = gatherer.counts().rounds;
        drop(gatherer);
        world.crash(steps);
        world.verify(&format!("after {steps} steps, before {stage:?}"));
        if rounds > 1 {
            return;
        }
    }
}

/// A location that an apply writes late, at a place that it had looked up before the entry was
/// carried away, keeps the file.
#[test]
fn a_late_apply_is_waited_for() {
    let mut world = World::new(5);
    world.purges = false;
    let mut chance = Chance(5);
    while world.journal().files().len() < 7 {
        world.append(&mut chance, 0).unwrap();
        world.flush_journal();
    }
    let group = world.group(0);
    world.host().begin_apply(group).unwrap();
    let mut gatherer = world.gatherer();
    let mut steps = 0;
    while gatherer.counts().rounds == 0 {
        gatherer.step().unwrap();
        world.flush_journal();
        steps += 1;
        assert!(steps < 5000, "the round does not end: {:?}", gatherer.stage());
    }
    assert!(gatherer.counts().carried > 0 && gatherer.counts().files_recycled > 0);
    world.verify("after the round");
    drop(gatherer);
    world.crash(1);
    world.verify("after a crash");
}

/// Entries that are applied, flushed and purged after a round has looked for live batches: it looks
/// again.
#[test]
fn what_is_applied_during_a_round_is_found() {
    let mut world = World::new(4);
    let mut chance = Chance(4);
    while world.journal().files().len() < 7 {
        world.append(&mut chance, 0).unwrap();
        world.flush_journal();
    }
    let mut gatherer = world.gatherer();
    while gatherer.stage() != Some("flush") {
        gatherer.step().unwrap();
    }
    assert_eq!(gatherer.counts().batches, 0, "nothing was applied, so nothing was live");
    world.apply_all();
    while gatherer.counts().rounds == 0 {
        if gatherer.stage() == Some("settle") {
            (0..20).for_each(|_| world.host().purge(GroupId([1; 16])));
        }
        world.flush_journal();
        gatherer.step().unwrap();
    }
    assert_eq!(gatherer.counts().carried, 0, "all was purged in time");
    assert!(gatherer.counts().batches > 0 && gatherer.counts().files_recycled > 0);
    world.verify("after the round");
    drop(gatherer);
    world.crash(1);
    world.verify("after a crash");
}

#[test]
fn a_file_of_a_shard_that_is_not_open_is_left_alone() {
    let mut world = World::new(6);
    let mut chance = Chance(6);
    while world.journal().files().len() < 7 {
        world.append(&mut chance, 1).unwrap();
        world.flush_journal();
    }
    world.apply_all();
    let mut gatherer = world.gatherer();
    let group = world.group(1);
    world.host().hide(group, true);
    let outcome = loop {
        match gatherer.step() {
            Ok(Next::Idle) => break Ok(()),
            Ok(_) => world.flush_journal(),
            Err(error) => break Err(error),
        }
    };
    assert!(matches!(outcome, Err(StoreError::Refused(_))), "{outcome:?}");
    assert_eq!(gatherer.counts().files_recycled, 0);
    world.host().hide(group, false);
    world.verify("left alone");
}

/// A quiet topic that is kept long beside a fast one that is kept shortly: the disk holds about
/// what both hold, not the fast one's past.
#[test]
fn disk_use_follows_what_is_live() {
    let mut world = World::new(8);
    let mut chance = Chance(8);
    let mut gatherer = world.gatherer();
    for round in 0..600 {
        world.put(0, 1, 1, 2_000).unwrap();
        if round % 10 == 0 {
            world.put(0, 2, 1, 500).unwrap();
        }
        if round % 5 == 4 {
            world.trim_all_but(0, 1, 20).unwrap();
        }
        world.flush_journal();
        world.apply_all();
        for _ in 0..chance.below(30) {
            gatherer.step().unwrap();
            world.flush_journal();
        }
    }
    drop(gatherer);
    world.settle();
    world.verify("at the end");
    world.check_disk_use(8);
    let live = world.live_bytes();
    assert!(live < 150_000, "the test keeps little: {live}");
    let holders: Vec<Holder> = world.holders();
    assert!(holders.iter().any(|holder| matches!(holder, Holder::Object(_))), "{holders:?}");
}
