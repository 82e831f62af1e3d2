//! What was acknowledged is there, at its place, with its contents, whatever happened since.

use std::collections::{BTreeMap, BTreeSet};

use gem_types::{Offset, PartitionId};

use super::{Invariant, Verdict};
use crate::event::{Answer, Event, MessageId};
use crate::facts::{Facts, Moment};

/// See the module.
#[derive(Default)]
pub struct NothingLost {
    acknowledged: BTreeMap<PartitionId, BTreeMap<Offset, MessageId>>,
    audited: BTreeSet<PartitionId>,
}

impl Invariant for NothingLost {
    fn name(&self) -> &'static str {
        "nothing_lost"
    }

    fn promise(&self) -> &'static str {
        "an acknowledged message survives a power cut: it was flushed before the ack (CONTRACT, What GEM promises)"
    }

    fn observe(&mut self, _: &Moment, facts: &Facts, event: &Event) -> Verdict {
        match event {
            Event::Published { op, answer: Answer::Done(placed) } => {
                let Some((partition, messages)) = facts.publishes.get(op) else { return Ok(0) };
                if placed.len() != messages.len() {
                    return Err(format!("publish {op} of {} messages was answered {placed:?}", messages.len()));
                }
                let acknowledged = self.acknowledged.entry(*partition).or_default();
                acknowledged.extend(placed.iter().map(|placed| placed.offset).zip(messages.iter().copied()));
                Ok(0)
            }
            Event::Audit { partition, stats, records } => {
                self.audited.insert(*partition);
                let whole = records.iter().map(|seen| seen.offset).eq(stats.earliest..stats.next);
                if !whole || stats.messages != records.len() as u64 {
                    let offsets: Vec<_> = records.iter().map(|seen| seen.offset).collect();
                    return Err(format!("partition {partition} says {stats:?} and reads as offsets {offsets:?}"));
                }
                let Some(fact) = facts.partitions.get(partition) else { return Ok(0) };
                if stats.earliest > fact.trimmed_to && fact.config.retention_bytes.is_none() {
                    return Err(format!(
                        "partition {partition} of {} begins at {}, though nothing above {} was purged",
                        fact.topic, stats.earliest, fact.trimmed_to
                    ));
                }
                let known = self.acknowledged.get(partition);
                let mut checks = 0;
                for (offset, message) in known.into_iter().flat_map(|known| known.range(stats.earliest..)) {
                    let found = records.get((offset - stats.earliest) as usize).map(|seen| seen.message);
                    if found != Some(*message) {
                        return Err(format!(
                            "{message:?} was acknowledged at offset {offset} of {} ({partition}): there is {found:?}",
                            fact.topic
                        ));
                    }
                    checks += 1;
                }
                Ok(checks)
            }
            Event::Audited => {
                let audited = std::mem::take(&mut self.audited);
                for (partition, fact) in &facts.partitions {
                    let is_lost = !fact.is_going && !audited.contains(partition);
                    if is_lost && self.acknowledged.contains_key(partition) {
                        return Err(format!("topic {} with its partition {partition} is gone", fact.topic));
                    }
                }
                Ok(1)
            }
            _ => Ok(0),
        }
    }
}
