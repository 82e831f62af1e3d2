//! Deliveries of a message are counted from 1, and no count is handed out twice.

use std::collections::BTreeMap;

use gem_shard::log::Verb;
use gem_types::Offset;

use super::{Invariant, Verdict};
use crate::event::Event;
use crate::facts::{Facts, GroupKey, Moment, key};

/// See the module.
#[derive(Default)]
pub struct Attempts {
    /// The last count seen, and how many seeks had begun by then, if that was clear.
    last: BTreeMap<(GroupKey, Offset), (u32, Option<u64>)>,
}

impl Invariant for Attempts {
    fn name(&self) -> &'static str {
        "attempts"
    }

    fn promise(&self) -> &'static str {
        "`delivery` counts from 1 and never falls (CONTRACT, Leases); no attempt of a message is handed out twice between seeks, whoever leads (gem-shard, dispatch)"
    }

    fn observe(&mut self, _: &Moment, facts: &Facts, event: &Event) -> Verdict {
        match event {
            Event::Pulled { group, messages, .. } => {
                let seeks = facts.seeks_of(&key(group));
                for (seen, delivery) in messages {
                    let before = self.last.insert((key(group), seen.offset), (*delivery, seeks));
                    let is_wrong = match before {
                        None => *delivery == 0,
                        Some((last, then)) if then.is_some() && then == seeks => *delivery <= last,
                        Some((last, _)) => *delivery < last,
                    };
                    if is_wrong {
                        return Err(format!(
                            "{group:?}: offset {} was delivered as number {delivery} after {before:?}",
                            seen.offset
                        ));
                    }
                }
                Ok(messages.len() as u64)
            }
            // What is done and comes back by a seek begins anew.
            Event::Settle { group, verbs, .. } => {
                for (offset, _, verb) in verbs {
                    if *verb == Verb::Ack && facts.seeks.contains_key(&key(group)) {
                        self.last.remove(&(key(group), *offset));
                    }
                }
                Ok(0)
            }
            _ => Ok(0),
        }
    }
}
