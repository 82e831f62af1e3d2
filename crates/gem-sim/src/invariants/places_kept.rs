//! A place, once seen, holds the same message for ever: in receipts, reads, deliveries and audits.

use std::collections::BTreeMap;

use gem_types::{Offset, PartitionId, TimestampMs};

use super::{Invariant, Verdict};
use crate::event::{Answer, Event, MessageId, Seen};
use crate::facts::{Facts, Moment};

/// See the module.
#[derive(Default)]
pub struct PlacesKept {
    places: BTreeMap<(PartitionId, Offset), Place>,
}

struct Place {
    message: MessageId,
    /// Stamp, and hash of the contents, once it was read.
    read: Option<(TimestampMs, u64)>,
}

impl PlacesKept {
    fn check(&mut self, partition: PartitionId, seen: &Seen) -> Verdict {
        let read = (seen.timestamp_ms, seen.hash);
        let place = self.places.entry((partition, seen.offset));
        let place = place.or_insert(Place { message: seen.message, read: None });
        let was = *place.read.get_or_insert(read);
        if place.message != seen.message || was != read {
            return Err(format!(
                "offset {} of {partition} held {:?} {was:?} and now holds {:?} {read:?}",
                seen.offset, place.message, seen.message
            ));
        }
        Ok(1)
    }

    fn check_all<'a>(&mut self, partition: PartitionId, all: impl Iterator<Item = &'a Seen>) -> Verdict {
        let mut last: Option<&Seen> = None;
        let mut checks = 0;
        for seen in all {
            checks += self.check(partition, seen)?;
            if let Some(last) = last.filter(|last| last.timestamp_ms > seen.timestamp_ms) {
                return Err(format!("stamps of {partition} fall from {last:?} to {seen:?}"));
            }
            last = Some(seen);
        }
        Ok(checks)
    }
}

impl Invariant for PlacesKept {
    fn name(&self) -> &'static str {
        "places_kept"
    }

    fn promise(&self) -> &'static str {
        "a stored message's (partition, offset) never changes, whoever leads (CONTRACT, What GEM promises); stamps never fall within a partition (DESIGN, Time)"
    }

    fn observe(&mut self, _: &Moment, facts: &Facts, event: &Event) -> Verdict {
        match event {
            Event::Published { op, answer: Answer::Done(placed) } => {
                let Some((partition, messages)) = facts.publishes.get(op) else { return Ok(0) };
                for (placed, message) in placed.iter().zip(messages) {
                    let place = self.places.entry((*partition, placed.offset));
                    let place = place.or_insert(Place { message: *message, read: None });
                    if place.message != *message {
                        return Err(format!(
                            "{message:?} was placed at offset {} of {partition}, where {:?} is",
                            placed.offset, place.message
                        ));
                    }
                }
                Ok(placed.len() as u64)
            }
            Event::Read { partition, from, next, records, stats } => {
                let begin = (*from).max(stats.earliest);
                let whole = records.iter().map(|seen| seen.offset).eq(begin..*next);
                if !whole && !records.is_empty() {
                    let offsets: Vec<_> = records.iter().map(|seen| seen.offset).collect();
                    return Err(format!("a read of {partition} from {from} to {next} gave {offsets:?}, of {stats:?}"));
                }
                self.check_all(*partition, records.iter())
            }
            Event::Audit { partition, records, .. } => self.check_all(*partition, records.iter()),
            Event::Pulled { group, messages, .. } => {
                messages.iter().try_fold(0, |checks, (seen, _)| Ok(checks + self.check(group.partition, seen)?))
            }
            _ => Ok(0),
        }
    }
}
