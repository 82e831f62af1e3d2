//! The messages of one producer with the same key are stored in the order in which it published
//! them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Invariant, Verdict};
use crate::event::{Event, MessageId};
use crate::facts::{Facts, Moment};

/// See the module.
pub struct KeyOrder;

impl Invariant for KeyOrder {
    fn name(&self) -> &'static str {
        "key_order"
    }

    fn promise(&self) -> &'static str {
        "messages with the same key from one producer are stored in the order published (CONTRACT, What GEM promises)"
    }

    fn observe(&mut self, _: &Moment, facts: &Facts, event: &Event) -> Verdict {
        let Event::Audit { partition, records, .. } = event else { return Ok(0) };
        if facts.partitions.get(partition).is_none_or(|fact| fact.topic.is_dead_letter()) {
            return Ok(0);
        }
        let mut last: BTreeMap<(u32, &str), MessageId> = BTreeMap::new();
        let mut known = BTreeSet::new();
        for seen in records {
            // One that came again after its id's window has a second place; its first one counts.
            if !known.insert(seen.message) {
                continue;
            }
            let (producer, _) = seen.message;
            if let Some(before) = last.insert((producer, &seen.key), seen.message)
                && before > seen.message
            {
                return Err(format!(
                    "key {:?} of {partition}: {before:?} is stored before {:?}, at offset {}",
                    seen.key, seen.message, seen.offset
                ));
            }
        }
        Ok(records.len() as u64)
    }
}
