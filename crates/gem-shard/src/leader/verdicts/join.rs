//! Joining what waits: one batch a flush and partition, where batches are small.
//!
//! A batch costs two rows in the index and a head of 61 bytes. Messages published one by one
//! would pay that each; those that wait for the same flush become one batch instead. That copies
//! their records, so only small batches are joined.

use std::collections::BTreeMap;
use std::ops::Range;

use gem_types::PartitionId;
use gem_types::batch::{Codec, RecordBatch};

use crate::log::Append;

/// A batch of more encoded bytes stays as it is.
const SMALL: usize = 4096;
/// A joined batch has about so many bytes and records at the most.
const JOINED_BYTES_MAX: usize = 256 << 10;
const JOINED_RECORDS_MAX: u32 = 4096;

/// Appends that became one.
#[derive(Clone, Debug)]
pub struct Joined {
    /// All of them.
    pub append: Append,
    /// Which of the appends given it holds (their places in the list), and where their records
    /// are among its own.
    pub parts: Vec<(usize, Range<usize>)>,
}

/// Joins small appends to the same partition, keeping their order within each partition. Numbered
/// and compressed batches stay as they are, and appends with clients' ids stay apart from those
/// without: they may be refused.
pub fn join_small(appends: Vec<Append>) -> Vec<Joined> {
    let mut runs: Vec<Run> = Vec::new();
    let mut open: BTreeMap<PartitionId, usize> = BTreeMap::new();
    for (place, append) in appends.into_iter().enumerate() {
        let run = open.get(&append.partition).and_then(|run| runs.get_mut(*run)).filter(|run| run.takes(&append));
        match run {
            Some(run) => run.push(place, append),
            None => {
                open.insert(append.partition, runs.len());
                runs.push(Run::of(place, append));
            }
        }
    }
    runs.into_iter().flat_map(|run| join(run.appends)).collect()
}

/// Appends to one partition that may become one.
struct Run {
    appends: Vec<(usize, Append)>,
    is_open: bool,
    has_ids: bool,
    bytes: usize,
    records: u32,
}

impl Run {
    fn of(place: usize, append: Append) -> Self {
        Run {
            is_open: is_small(&append),
            has_ids: !append.dedup.is_empty(),
            bytes: append.batch.len(),
            records: append.batch.count(),
            appends: vec![(place, append)],
        }
    }

    fn takes(&self, append: &Append) -> bool {
        self.is_open
            && is_small(append)
            && self.has_ids != append.dedup.is_empty()
            && self.bytes + append.batch.len() <= JOINED_BYTES_MAX
            && self.records.saturating_add(append.batch.count()) <= JOINED_RECORDS_MAX
    }

    fn push(&mut self, place: usize, append: Append) {
        self.bytes += append.batch.len();
        self.records += append.batch.count();
        self.appends.push((place, append));
    }
}

fn is_small(append: &Append) -> bool {
    append.producer.is_none()
        && append.batch.producer_id().is_none()
        && append.batch.codec() == Codec::None
        && append.batch.len() <= SMALL
}

fn join(run: Vec<(usize, Append)>) -> Vec<Joined> {
    let batches: Vec<RecordBatch> = run.iter().map(|(_, append)| append.batch.clone()).collect();
    let joined = if run.len() > 1 { RecordBatch::join(&batches).ok() } else { None };
    let Some(batch) = joined else {
        let alone = |(place, append): (usize, Append)| {
            let records = 0..append.batch.count() as usize;
            Joined { append, parts: vec![(place, records)] }
        };
        return run.into_iter().map(alone).collect();
    };
    let mut parts = Vec::with_capacity(run.len());
    let mut whole: Option<Append> = None;
    let mut at = 0;
    for (place, append) in run {
        let records = at..at + append.batch.count() as usize;
        at = records.end;
        parts.push((place, records));
        match &mut whole {
            Some(whole) => {
                whole.dedup.extend(append.dedup);
                whole.wait = whole.wait.max(append.wait);
            }
            None => whole = Some(append),
        }
    }
    whole.map(|append| Joined { append: Append { batch, ..append }, parts }).into_iter().collect()
}
