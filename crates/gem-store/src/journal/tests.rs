//! Tests of the journal as its users see it, on a simulated disk (and once on the real one).

mod crashes;
mod damage;
mod files;
mod flushes;
mod model;
mod real_disk;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use gem_types::GroupId;
use gem_types::seams::Clock;

use super::*;
use crate::StoreError;
use crate::disk::{Disk, SimDisk};

pub(super) const DIR: &str = "/node/journal";

/// A clock that stands.
pub(super) struct Still;

impl Clock for Still {
    fn wall_ms(&self) -> i64 {
        0
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

/// Files so small that tests fill many.
pub(super) fn small() -> JournalConfig {
    JournalConfig { segment_bytes: 64 << 10, queue_bytes: 16 << 10, disk_reserve: 0, ..Default::default() }
}

pub(super) fn open_with(disk: &SimDisk, config: JournalConfig) -> Result<(Journal, Writer), StoreError> {
    Journal::open(Arc::new(disk.clone()), Path::new(DIR), config, Arc::new(Still))
}

pub(super) fn open(disk: &SimDisk) -> Result<(Journal, Writer), StoreError> {
    open_with(disk, small())
}

pub(super) fn group(n: u8) -> GroupId {
    GroupId([n; 16])
}

pub(super) fn pos(term: u64, index: u64) -> LogPos {
    LogPos { term, index, ..Default::default() }
}

pub(super) fn append(group: GroupId, term: u64, index: u64, payload: &[u8]) -> JournalOp {
    JournalOp::Append { group, id: pos(term, index), parts: vec![Bytes::copy_from_slice(payload)] }
}

/// Submits and steps until it is answered.
pub(super) fn write(journal: &Journal, writer: &mut Writer, ops: Vec<JournalOp>) -> Result<(), StoreError> {
    let outcome = Outcome::default();
    journal.submit(ops, outcome.done());
    while writer.step() {}
    outcome.take().expect("every submission is answered")
}

/// Where a callback leaves what it was told.
#[derive(Clone, Default)]
pub(super) struct Outcome(Arc<Mutex<Option<Result<(), StoreError>>>>);

impl Outcome {
    pub(super) fn done(&self) -> Done {
        let slot = self.0.clone();
        Box::new(move |outcome| assert!(slot.lock().unwrap().replace(outcome).is_none(), "answered twice"))
    }

    pub(super) fn take(&self) -> Option<Result<(), StoreError>> {
        self.0.lock().unwrap().take()
    }
}

/// Counts acknowledged operations.
pub(super) fn count(acked: &Arc<AtomicU64>, ops: u64) -> Done {
    let acked = acked.clone();
    Box::new(move |outcome| {
        if outcome.is_ok() {
            acked.fetch_add(ops, Ordering::Relaxed);
        }
    })
}

/// SplitMix64: a test's choices.
pub(super) struct Chance(pub u64);

impl Chance {
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}
