//! The proof, read off the ids: what was acknowledged, against what is stored and what was processed.

use std::collections::BTreeMap;

use super::consumers::Group;
use super::events::Events;
use super::ledger::Ledger;
use super::record::{Place, Sent};

/// A message as the topic holds it.
#[derive(Clone, Debug)]
pub struct Stored {
    pub id: String,
    pub place: Place,
}

/// What was counted. All but the first three must be 0, and so must the groups' failures.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    pub events: u64,
    pub acknowledged: u64,
    pub stored: u64,

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
    /// Stored after a later event of its key.
    pub stored_out_of_order: u64,

    pub groups: Vec<Share>,
}

/// What was counted of one group.
#[derive(Clone, Debug)]
pub struct Share {
    pub group: Group,
    /// Distinct events processed.
    pub processed: u64,
    pub processings: u64,
    /// Acknowledged, but never processed.
    pub skipped: u64,
    /// Processed for the first time after a later event of its key; no failure in mode `shared`.
    pub out_of_order: u64,
}

impl Share {
    /// Processings beyond the first.
    pub fn redelivered(&self) -> u64 {
        self.processings - self.processed
    }

    fn failures(&self) -> Vec<String> {
        let (name, out_of_order) = (self.group.name, if self.group.mode == "key" { self.out_of_order } else { 0 });
        let checks = [(self.skipped, "never processed"), (out_of_order, "processed out of order")];
        checks
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} events {what} by group {name}"))
            .collect()
    }
}

impl Proof {
    /// What is wrong; nothing, if the proof holds.
    pub fn failures(&self) -> Vec<String> {
        let checks = [
            (self.unacknowledged, "never acknowledged"),
            (self.lost, "acknowledged but lost"),
            (self.stored_twice, "stored twice"),
            (self.misplaced, "not where the acknowledgement said"),
            (self.strange, "stored though never published"),
            (self.stored_out_of_order, "stored out of order"),
        ];
        let failed = checks.iter().filter(|(count, _)| *count > 0);
        let failed = failed.map(|(count, what)| format!("{count} events {what}"));
        failed.chain(self.groups.iter().flat_map(Share::failures)).collect()
    }
}

/// Compares. `stored` is in the order of the topic: by partition and offset.
pub fn check(events: &Events, sent: &[Sent], stored: &[Stored], ledgers: &[(Group, &Ledger)]) -> Proof {
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
    }
    proof.groups = ledgers.iter().map(|(group, ledger)| share(*group, ledger, events, sent)).collect();
    proof
}

fn share(group: Group, ledger: &Ledger, events: &Events, sent: &[Sent]) -> Share {
    let mut share = Share { group, processed: 0, processings: 0, skipped: 0, out_of_order: 0 };
    let mut processed = vec![false; events.all.len()];
    let mut order = Order::default();
    for line in &ledger.lines {
        let index = line.event as usize;
        let (Some(event), Some(before)) = (events.all.get(index), processed.get_mut(index)) else { continue };
        share.processings += 1;
        if std::mem::replace(before, true) {
            continue;
        }
        share.processed += 1;
        share.out_of_order += u64::from(!order.follows(&event.key, event.seq));
    }
    let skipped = processed.iter().zip(sent).filter(|(done, sent)| !**done && sent.place.is_some());
    share.skipped = skipped.count() as u64;
    share
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
