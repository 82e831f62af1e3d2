//! The messages of one producer with the same key are stored in the order in which it published
//! them.

use std::collections::{BTreeMap, BTreeSet};

use gem_types::PartitionId;

use super::{Invariant, Verdict};
use crate::event::{Event, Kind, MessageId, OpId};
use crate::facts::{Facts, Moment};

/// See the module.
#[derive(Default)]
pub struct KeyOrder {
    /// The first publish of each message to each partition: what comes again keeps its turn.
    published: BTreeMap<(PartitionId, MessageId), OpId>,
}

impl Invariant for KeyOrder {
    fn name(&self) -> &'static str {
        "key_order"
    }

    fn promise(&self) -> &'static str {
        "messages with the same key from one producer are stored in the order published (CONTRACT, What GEM promises)"
    }

    fn observe(&mut self, _: &Moment, facts: &Facts, event: &Event) -> Verdict {
        match event {
            Event::Publish { op, partition, messages, .. } => {
                for sent in messages {
                    self.published.entry((*partition, sent.message)).or_insert(*op);
                }
                Ok(0)
            }
            Event::Audit { partition, records, .. } => {
                let Some(fact) = facts.partitions.get(partition).filter(|fact| !fact.topic.is_dead_letter()) else {
                    return Ok(0);
                };
                let mut last: BTreeMap<(u32, &str), (OpId, MessageId)> = BTreeMap::new();
                let mut known = BTreeSet::new();
                for seen in records {
                    // One that came again after its id's window has a second place; its first one
                    // counts, which a cut may have taken.
                    let has_ids = facts.messages.get(&seen.message).is_some_and(|message| message.kind == Kind::Ids);
                    if !known.insert(seen.message) || (has_ids && fact.may_trim()) {
                        continue;
                    }
                    // In a mesh, what nobody knows the end of may still be on its way, by another node
                    // than what is sent next.
                    if facts.is_mesh && facts.unsure.contains(&seen.message) {
                        continue;
                    }
                    let Some(op) = self.published.get(&(*partition, seen.message)) else { continue };
                    let (producer, _) = seen.message;
                    let turn = (*op, seen.message);
                    if let Some(before) = last.insert((producer, &seen.key), turn)
                        && before > turn
                    {
                        return Err(format!(
                            "key {:?} of {partition}: {:?} is stored before {:?}, at offset {}",
                            seen.key, before.1, seen.message, seen.offset
                        ));
                    }
                }
                Ok(records.len() as u64)
            }
            _ => Ok(0),
        }
    }
}
