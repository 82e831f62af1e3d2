//! What was delivered and never acked ends in the group's dead-letter topic, and nothing else does.

use std::collections::{BTreeMap, BTreeSet};

use gem_shard::log::Verb;
use gem_types::{Offset, PartitionId};

use super::{Invariant, Verdict};
use crate::event::Event;
use crate::facts::{Facts, GroupKey, Moment, key};

/// See the module.
#[derive(Default)]
pub struct DeadLetters {
    groups: BTreeMap<GroupKey, Group>,
    /// By dead-letter topic, what it holds.
    dead: BTreeMap<String, BTreeSet<(PartitionId, Offset)>>,
    earliest: BTreeMap<PartitionId, Offset>,
}

#[derive(Default)]
struct Group {
    /// The topic of its dead letters.
    topic: String,
    /// Delivered, and how often at the most.
    delivered: BTreeMap<Offset, u32>,
    /// Acks were asked for.
    acked: BTreeSet<Offset>,
    drained: bool,
}

impl Invariant for DeadLetters {
    fn name(&self) -> &'static str {
        "dead_letters"
    }

    fn promise(&self) -> &'static str {
        "after `max_deliveries` the source records moving, publishes to `<topic>.<group>.dlq`, then records moved (DESIGN, Dead letters)"
    }

    fn observe(&mut self, _: &Moment, facts: &Facts, event: &Event) -> Verdict {
        match event {
            Event::Pulled { group, messages, .. } => {
                let known = self.groups.entry(key(group)).or_default();
                known.topic = format!("{}.{}.dlq", group.topic, group.group);
                for (seen, delivery) in messages {
                    known.delivered.insert(seen.offset, *delivery);
                }
                Ok(0)
            }
            Event::Settle { group, verbs, .. } => {
                let acks = verbs.iter().filter(|(.., verb)| *verb == Verb::Ack);
                self.groups.entry(key(group)).or_default().acked.extend(acks.map(|(offset, ..)| *offset));
                Ok(0)
            }
            Event::Drained { group, .. } => {
                self.groups.entry(key(group)).or_default().drained = true;
                Ok(0)
            }
            Event::Audit { partition, stats, records } => {
                self.earliest.insert(*partition, stats.earliest);
                if let Some(fact) = facts.partitions.get(partition) {
                    let dead = self.dead.entry(fact.topic.to_string()).or_default();
                    dead.extend(records.iter().filter_map(|seen| seen.source));
                }
                Ok(0)
            }
            Event::Audited => {
                let mut checks = 0;
                for (group, known) in self.groups.iter().filter(|(_, known)| known.drained) {
                    let Some(fact) = facts.partitions.get(&group.0).filter(|_| facts.seeks_of(group) == Some(0)) else {
                        continue;
                    };
                    let earliest = self.earliest.get(&group.0).copied().unwrap_or(0);
                    let dead = self.dead.get(&known.topic);
                    for (offset, delivery) in known.delivered.range(earliest..) {
                        let is_dead = dead.is_some_and(|dead| dead.contains(&(group.0, *offset)));
                        if !is_dead && !known.acked.contains(offset) {
                            return Err(format!(
                                "{group:?}: offset {offset} was delivered {delivery} times and never acked, is done, and is no dead letter"
                            ));
                        }
                        // The last delivery may not have reached its member.
                        if is_dead && !facts.is_mesh && delivery + 1 < fact.config.max_deliveries {
                            return Err(format!(
                                "{group:?}: offset {offset} is a dead letter after {delivery} deliveries of {}",
                                fact.config.max_deliveries
                            ));
                        }
                        checks += 1;
                    }
                }
                Ok(checks)
            }
            _ => Ok(0),
        }
    }
}
