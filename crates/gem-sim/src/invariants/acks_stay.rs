//! What was acked, and confirmed as acked, is never delivered again but after a seek.

use std::collections::BTreeMap;

use gem_shard::log::{Status, Verb};
use gem_types::Offset;

use super::{Invariant, Verdict};
use crate::event::{Answer, Event, OpId};
use crate::facts::{Facts, GroupKey, Moment, key};

/// A settle under way: the group, its life, and each offset with whether it is an ack.
type Asked = (GroupKey, u64, Vec<(Offset, bool)>);

/// See the module.
#[derive(Default)]
pub struct AcksStay {
    asked: BTreeMap<OpId, Asked>,
    /// Confirmed acks: how many seeks had begun when they were asked for, and when the answer came.
    acked: BTreeMap<(GroupKey, Offset), (u64, u64)>,
}

impl Invariant for AcksStay {
    fn name(&self) -> &'static str {
        "acks_stay"
    }

    fn promise(&self) -> &'static str {
        "a group's progress survives as its messages do (DESIGN, The way of a message); a message is delivered again only after a nack, a timeout, a lost member, a lost leader, a seek or a redrive (CONTRACT)"
    }

    fn observe(&mut self, at: &Moment, facts: &Facts, event: &Event) -> Verdict {
        match event {
            Event::Settle { op, group, verbs } => {
                if let Some(seeks) = facts.seeks_of(&key(group)) {
                    let acks = verbs.iter().map(|(offset, _, verb)| (*offset, *verb == Verb::Ack)).collect();
                    self.asked.insert(*op, (key(group), seeks, acks));
                }
                Ok(0)
            }
            Event::Settled { op, answer: Answer::Done(statuses) } => {
                let Some((group, seeks, acks)) = self.asked.remove(op) else { return Ok(0) };
                for ((offset, is_ack), status) in acks.into_iter().zip(statuses) {
                    if is_ack && *status == Status::Acked {
                        self.acked.insert((group.clone(), offset), (seeks, at.ms));
                    }
                }
                Ok(0)
            }
            Event::Pulled { group, messages, asked_ms, .. } => {
                let seeks = facts.seeks_of(&key(group));
                for (seen, delivery) in messages {
                    let acked = self.acked.get(&(key(group), seen.offset));
                    // In a mesh what was handed out before may come in after.
                    let acked = acked.filter(|(_, at_ms)| !facts.is_mesh || asked_ms > at_ms);
                    if acked.is_some_and(|(at, _)| Some(*at) == seeks) {
                        return Err(format!(
                            "{group:?}: offset {} was acked, and was delivered again, for the {delivery}th time",
                            seen.offset
                        ));
                    }
                }
                Ok(messages.len() as u64)
            }
            Event::Probe { group, view } => {
                let Some(seeks) = facts.seeks_of(&key(group)) else { return Ok(0) };
                let from = (key(group), 0);
                let to = (key(group), Offset::MAX);
                let mut checks = 0;
                for ((_, offset), _) in self.acked.range(from..to).filter(|(_, (at, _))| *at == seeks) {
                    let after = view.acked.partition_point(|(_, end)| end <= offset);
                    let is_acked = view.acked.get(after).is_some_and(|(begin, _)| begin <= offset);
                    if *offset >= view.floor && !is_acked {
                        return Err(format!(
                            "{group:?}: the ack of offset {offset} was confirmed, and is gone: {view:?}"
                        ));
                    }
                    checks += 1;
                }
                Ok(checks)
            }
            _ => Ok(0),
        }
    }
}
