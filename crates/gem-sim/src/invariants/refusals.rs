//! What was refused is not there, and nothing is there that nobody sent.

use std::collections::BTreeMap;

use gem_types::PartitionId;

use super::{Invariant, Verdict};
use crate::event::{Answer, Event, MessageId};
use crate::facts::{Facts, Moment};

/// See the module.
#[derive(Default)]
pub struct Refusals {
    /// Publishes of each message that were not refused.
    chances: BTreeMap<(PartitionId, MessageId), u64>,
}

impl Invariant for Refusals {
    fn name(&self) -> &'static str {
        "refusals"
    }

    fn promise(&self) -> &'static str {
        "every code but `deadline` and `internal` means: not stored, and never will be (CONTRACT, Errors)"
    }

    fn observe(&mut self, _: &Moment, facts: &Facts, event: &Event) -> Verdict {
        match event {
            Event::Publish { partition, messages, .. } => {
                for sent in messages {
                    *self.chances.entry((*partition, sent.message)).or_default() += 1;
                }
                Ok(0)
            }
            Event::Published { op, answer: Answer::Refused(_) } => {
                let Some((partition, messages)) = facts.publishes.get(op) else { return Ok(0) };
                for message in messages {
                    *self.chances.entry((*partition, *message)).or_default() -= 1;
                }
                Ok(0)
            }
            Event::Audit { partition, records, .. } => {
                let mine = facts.partitions.get(partition);
                if mine.is_none_or(|fact| fact.topic.is_dead_letter()) {
                    return Ok(0);
                }
                for seen in records {
                    if self.chances.get(&(*partition, seen.message)).is_none_or(|chances| *chances == 0) {
                        return Err(format!(
                            "{:?} is stored at offset {} of {partition}, though it was refused or never sent",
                            seen.message, seen.offset
                        ));
                    }
                }
                Ok(records.len() as u64)
            }
            _ => Ok(0),
        }
    }
}
