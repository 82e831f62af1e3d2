//! Deliveries of a message are counted from 1, and no count is handed out twice.

use std::collections::{BTreeMap, BTreeSet};

use gem_shard::log::Verb;
use gem_types::Offset;

use super::{Invariant, Verdict};
use crate::event::Event;
use crate::facts::{Facts, GroupKey, Moment, key};

/// See the module.
#[derive(Default)]
pub struct Attempts {
    last: BTreeMap<(GroupKey, Offset), Last>,
    /// In a mesh, where answers overtake each other: every count handed out, by seeks begun.
    handed: BTreeSet<(GroupKey, Offset, u64, u32)>,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    count: u32,
    /// How many seeks had begun by then, if that was clear.
    seeks: Option<u64>,
    /// It was acked, perhaps: what is done and comes back by a seek begins anew.
    is_acked: bool,
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
            Event::Pulled { group, messages, asked_ms, .. } => {
                let seeks = facts.seeks_of_pull(&key(group), *asked_ms);
                if facts.is_mesh {
                    let Some(seeks) = seeks else { return Ok(0) };
                    for (seen, delivery) in messages {
                        if *delivery == 0 || !self.handed.insert((key(group), seen.offset, seeks, *delivery)) {
                            return Err(format!(
                                "{group:?}: offset {} was delivered twice as number {delivery}",
                                seen.offset
                            ));
                        }
                    }
                    return Ok(messages.len() as u64);
                }
                for (seen, delivery) in messages {
                    let last = Last { count: *delivery, seeks, is_acked: false };
                    let before = self.last.insert((key(group), seen.offset), last);
                    let is_wrong = match before {
                        None => *delivery == 0,
                        Some(last) if last.seeks.is_some() && last.seeks == seeks => *delivery <= last.count,
                        Some(last) => *delivery < last.count && !last.is_acked,
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
            Event::Settle { group, verbs, .. } => {
                for (offset, _, verb) in verbs {
                    if let Some(last) = self.last.get_mut(&(key(group), *offset)) {
                        last.is_acked |= *verb == Verb::Ack;
                    }
                }
                Ok(0)
            }
            _ => Ok(0),
        }
    }
}
