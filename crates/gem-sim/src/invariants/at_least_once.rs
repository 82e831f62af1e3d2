//! At the end of a run every stored message has been delivered to every group, and each group can
//! be emptied.

use std::collections::{BTreeMap, BTreeSet};

use gem_types::{Offset, PartitionId};

use super::{Invariant, Verdict};
use crate::event::Event;
use crate::facts::{Facts, GroupKey, Moment, key};

/// See the module.
#[derive(Default)]
pub struct AtLeastOnce {
    delivered: BTreeMap<GroupKey, BTreeSet<Offset>>,
    drained: BTreeSet<GroupKey>,
    /// In a mesh: what was emptied and never seen, and what lies in dead-letter topics. Answers may
    /// be lost up to the last delivery.
    unseen: BTreeSet<(PartitionId, Offset)>,
    dead: BTreeSet<(PartitionId, Offset)>,
}

impl Invariant for AtLeastOnce {
    fn name(&self) -> &'static str {
        "at_least_once"
    }

    fn promise(&self) -> &'static str {
        "storage once, delivery at least once (CONTRACT, What GEM promises)"
    }

    fn observe(&mut self, _: &Moment, facts: &Facts, event: &Event) -> Verdict {
        match event {
            Event::Pulled { group, messages, .. } => {
                let delivered = self.delivered.entry(key(group)).or_default();
                delivered.extend(messages.iter().map(|(seen, _)| seen.offset));
                Ok(0)
            }
            Event::Drained { group, lag } if *lag > 0 => {
                Err(format!("{group:?} can't be emptied: {lag} messages stay behind"))
            }
            Event::Drained { group, .. } => {
                self.drained.insert(key(group));
                Ok(1)
            }
            Event::Audit { partition, stats, records } => {
                self.dead.extend(records.iter().filter_map(|seen| seen.source));
                let mut checks = 0;
                for group in self.drained.iter().filter(|(of, _)| of == partition) {
                    // A seek forward leaves messages out.
                    if facts.seeks_of(group) != Some(0) {
                        continue;
                    }
                    let delivered = self.delivered.get(group);
                    for offset in stats.earliest..stats.next {
                        if delivered.is_none_or(|delivered| !delivered.contains(&offset)) {
                            if facts.is_mesh {
                                self.unseen.insert((*partition, offset));
                                continue;
                            }
                            return Err(format!("{group:?} was emptied, but offset {offset} was never delivered"));
                        }
                        checks += 1;
                    }
                }
                Ok(checks)
            }
            Event::Audited => {
                let unseen = std::mem::take(&mut self.unseen);
                match unseen.iter().find(|place| !self.dead.contains(place)) {
                    Some((partition, offset)) => Err(format!(
                        "a group of partition {partition} was emptied, but offset {offset} was never delivered, and is no dead letter"
                    )),
                    None => Ok(unseen.len() as u64),
                }
            }
            _ => Ok(0),
        }
    }
}
