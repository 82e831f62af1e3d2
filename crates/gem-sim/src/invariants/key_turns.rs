//! In mode `key` a message is delivered only when every earlier one of its key is acked or has
//! become a dead letter.

use std::collections::{BTreeMap, BTreeSet};

use gem_shard::log::{Mode, Ordering, Verb};
use gem_types::Offset;

use super::{Invariant, Verdict};
use crate::event::Event;
use crate::facts::{Facts, GroupKey, Moment, key};

/// See the module.
#[derive(Default)]
pub struct KeyTurns {
    groups: BTreeMap<GroupKey, Group>,
}

#[derive(Default)]
struct Group {
    /// Delivered and neither acked nor used up, by key.
    open: BTreeMap<String, BTreeSet<Offset>>,
    keys: BTreeMap<Offset, String>,
    /// In a mesh: the highest delivery seen, and whether an ack was asked for.
    known: BTreeMap<Offset, (u32, bool)>,
}

impl Group {
    fn close(&mut self, offset: Offset) {
        if let Some(open) = self.keys.get(&offset).and_then(|key| self.open.get_mut(key)) {
            open.remove(&offset);
        }
    }
}

impl Invariant for KeyTurns {
    fn name(&self) -> &'static str {
        "key_turns"
    }

    fn promise(&self) -> &'static str {
        "in mode `key` no later message of that key is delivered while one is out; under `ordering=total` all messages count as one key (CONTRACT, Leases)"
    }

    fn observe(&mut self, _: &Moment, facts: &Facts, event: &Event) -> Verdict {
        match event {
            Event::Settle { group, verbs, .. } => {
                let state = self.groups.entry(key(group)).or_default();
                for (offset, _, verb) in verbs {
                    // Acked, perhaps, as soon as that is asked for.
                    if *verb == Verb::Ack {
                        state.known.entry(*offset).or_default().1 = true;
                        state.close(*offset);
                    }
                }
                Ok(0)
            }
            Event::Pulled { group, messages, .. } => {
                let id = key(group);
                let Some(fact) = facts.partitions.get(&group.partition) else { return Ok(0) };
                // A seek makes done what was not, and a purge forgets what is out.
                let is_clear = facts.seeks_of(&id) == Some(0) && !fact.may_trim() && !fact.is_going;
                if crate::setup::mode_of(group) != Mode::Key || !is_clear {
                    return Ok(0);
                }
                let is_total = fact.config.ordering == Ordering::Total;
                let state = self.groups.entry(id).or_default();
                let mut checks = 0;
                for (seen, delivery) in messages {
                    if seen.key.is_empty() && !is_total {
                        continue;
                    }
                    let key = if is_total { String::new() } else { seen.key.clone() };
                    let known = state.known.entry(seen.offset).or_default();
                    let is_late = facts.is_mesh && (known.1 || known.0 > *delivery);
                    known.0 = known.0.max(*delivery);
                    if is_late {
                        continue;
                    }
                    let open = state.open.entry(key.clone()).or_default();
                    if let Some(earlier) = open.range(..seen.offset).next_back()
                        // In a mesh some deliveries are never heard of, the last among them.
                        && (!facts.is_mesh || state.known.get(earlier).is_none_or(|known| known.0 + 1 < fact.config.max_deliveries))
                    {
                        return Err(format!(
                            "{group:?}: offset {} of key {key:?} was delivered while offset {earlier} is out",
                            seen.offset
                        ));
                    }
                    checks += 1;
                    // With its last delivery it may leave for the dead-letter topic.
                    if *delivery < fact.config.max_deliveries {
                        open.insert(seen.offset);
                    } else {
                        open.remove(&seen.offset);
                    }
                    state.keys.insert(seen.offset, key);
                }
                Ok(checks)
            }
            _ => Ok(0),
        }
    }
}
