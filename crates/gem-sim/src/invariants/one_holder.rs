//! A message is with one member at a time: it is not delivered again while its lease must stand.

use std::collections::BTreeMap;

use gem_shard::log::Verb;
use gem_types::Offset;

use super::{Invariant, Verdict};
use crate::event::Event;
use crate::facts::{Facts, GroupKey, Moment, key};

/// See the module.
#[derive(Default)]
pub struct OneHolder {
    held: BTreeMap<(GroupKey, Offset), Held>,
}

struct Held {
    member: String,
    life: u32,
    seeks: Option<u64>,
    /// Its lease can't end before this.
    until_ms: u64,
    delivery: u32,
}

impl Invariant for OneHolder {
    fn name(&self) -> &'static str {
        "one_holder"
    }

    fn promise(&self) -> &'static str {
        "a message that a group member got is leased to it until `ack_timeout` after its delivery (CONTRACT, Leases); a message has one valid lease at the most (gem-shard, dispatch)"
    }

    fn observe(&mut self, at: &Moment, facts: &Facts, event: &Event) -> Verdict {
        match event {
            Event::Pulled { group, member, asked_ms, messages } => {
                let id = key(group);
                let seeks = facts.seeks_of_pull(&id, *asked_ms);
                let Some(fact) = facts.partitions.get(&group.partition) else { return Ok(0) };
                // Leased when it was handed out, which was between the question and now.
                let until_ms = asked_ms + fact.config.ack_timeout_ms.min(crate::setup::MEMBER_TIMEOUT_MS_MIN);
                for (seen, delivery) in messages {
                    let held = Held { member: member.clone(), life: at.life, seeks, until_ms, delivery: *delivery };
                    let Some(before) = self.held.insert((id.clone(), seen.offset), held) else { continue };
                    // In a mesh an earlier delivery may come in after a later one.
                    let is_late = facts.is_mesh && before.delivery > *delivery;
                    if is_late {
                        self.held.insert((id.clone(), seen.offset), before);
                        continue;
                    }
                    if before.life == at.life && seeks.is_some() && before.seeks == seeks && at.ms < before.until_ms {
                        return Err(format!(
                            "{group:?}: offset {} went to {member} (delivery {delivery}) while {} held it until {} ms",
                            seen.offset, before.member, before.until_ms
                        ));
                    }
                }
                Ok(messages.len() as u64)
            }
            Event::Settle { group, verbs, .. } => {
                for (offset, _, verb) in verbs {
                    if matches!(verb, Verb::Nack { .. }) {
                        self.held.remove(&(key(group), *offset));
                    }
                }
                Ok(0)
            }
            Event::Vanished { group, member } => {
                let id = key(group);
                self.held.retain(|(group, _), held| *group != id || held.member != *member);
                Ok(0)
            }
            _ => Ok(0),
        }
    }
}
