//! The proof, read off the ids: what was acknowledged, against what is stored and what was processed.

use std::collections::BTreeMap;

use super::consumers::Ledger;
use super::events::Events;
use super::record::{Place, Sent};

/// A message as the topic holds it.
#[derive(Clone, Debug)]
pub struct Stored {
    pub id: String,
    pub place: Place,
}

/// What was counted. All but the first three groups must be 0.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    pub events: u64,
    pub acknowledged: u64,
    pub stored: u64,
    pub processed: u64,
    pub processings: u64,

    /// Published, but never acknowledged.
    pub unacknowledged: u64,
    /// Acknowledged, but not stored.
    pub lost: u64,
    /// Stored more than once.
    pub stored_twice: u64,
    /// Stored elsewhere than where the acknowledgement said.
    pub misplaced: u64,
    /// Stored, but of no event.
    pub strange: u64,
    /// Acknowledged, but never processed.
    pub skipped: u64,
    /// Stored after a later event of its key.
    pub stored_out_of_order: u64,
    /// Processed for the first time after a later event of its key.
    pub processed_out_of_order: u64,
}

impl Proof {
    /// Processings beyond the first.
    pub fn redelivered(&self) -> u64 {
        self.processings - self.processed
    }

    /// What is wrong; nothing, if the proof holds.
    pub fn failures(&self) -> Vec<String> {
        let checks = [
            (self.unacknowledged, "never acknowledged"),
            (self.lost, "acknowledged but lost"),
            (self.stored_twice, "stored twice"),
            (self.misplaced, "not where the acknowledgement said"),
            (self.strange, "stored though never published"),
            (self.skipped, "never processed"),
            (self.stored_out_of_order, "stored out of order"),
            (self.processed_out_of_order, "processed out of order"),
        ];
        checks.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} events {what}")).collect()
    }
}

/// Compares. `stored` is in the order of the topic: by partition and offset.
pub fn check(events: &Events, sent: &[Sent], stored: &[Stored], ledger: &Ledger) -> Proof {
    let mut proof = Proof { events: events.all.len() as u64, ..Proof::default() };
    let mut places: BTreeMap<u32, Place> = BTreeMap::new();
    let mut order = Order::default();
    for message in stored {
        let Some(event) = events.find(&message.id) else {
            proof.strange += 1;
            continue;
        };
        if places.insert(event.index, message.place).is_some() {
            proof.stored_twice += 1;
            continue;
        }
        proof.stored_out_of_order += u64::from(!order.follows(&event.key, event.seq));
    }
    proof.stored = places.len() as u64;

    let mut processed = vec![false; events.all.len()];
    let mut order = Order::default();
    for line in &ledger.lines {
        let index = line.event as usize;
        let (Some(event), Some(before)) = (events.all.get(index), processed.get_mut(index)) else { continue };
        proof.processings += 1;
        if std::mem::replace(before, true) {
            continue;
        }
        proof.processed += 1;
        proof.processed_out_of_order += u64::from(!order.follows(&event.key, event.seq));
    }

    for (event, sent) in events.all.iter().zip(sent) {
        let Some(place) = sent.place else {
            proof.unacknowledged += 1;
            continue;
        };
        proof.acknowledged += 1;
        match places.get(&event.index) {
            None => proof.lost += 1,
            Some(stored) if *stored != place => proof.misplaced += 1,
            Some(_) => {}
        }
        let done = processed.get(event.index as usize).copied().unwrap_or(false);
        proof.skipped += u64::from(!done);
    }
    proof
}

/// The sequence number that each key has reached.
#[derive(Debug, Default)]
struct Order<'a> {
    next: BTreeMap<&'a str, u32>,
}

impl<'a> Order<'a> {
    /// Whether `seq` comes right after the key's last one.
    fn follows(&mut self, key: &'a str, seq: u32) -> bool {
        let next = self.next.entry(key).or_insert(0);
        let follows = *next == seq;
        *next = seq + 1;
        follows
    }
}
