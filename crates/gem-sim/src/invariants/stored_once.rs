//! A message that was sent again under its id or number is stored once; so is a dead letter.

use std::collections::BTreeMap;

use gem_types::{Offset, PartitionId};

use super::{Invariant, Verdict};
use crate::event::{Event, Kind, MessageId, Seen};
use crate::facts::{Facts, Moment};

/// What must be there once: a message's id and, for dead letters, where it came from.
type Identity = (MessageId, Option<(PartitionId, Offset)>);

/// See the module.
pub struct StoredOnce;

impl Invariant for StoredOnce {
    fn name(&self) -> &'static str {
        "stored_once"
    }

    fn promise(&self) -> &'static str {
        "the same id is stored once within its window (CONTRACT, What GEM promises); once per (partition, offset), as an internal producer with a move counter (DESIGN, Dead letters)"
    }

    fn observe(&mut self, _: &Moment, facts: &Facts, event: &Event) -> Verdict {
        let Event::Audit { partition, records, .. } = event else { return Ok(0) };
        let Some(fact) = facts.partitions.get(partition) else { return Ok(0) };
        let mut first: BTreeMap<Identity, &Seen> = BTreeMap::new();
        for seen in records {
            let Some(before) = first.insert((seen.message, seen.source), seen) else { continue };
            let has_window = seen.source.is_some()
                || facts.messages.get(&seen.message).is_some_and(|message| message.kind == Kind::Ids);
            let apart_ms = seen.timestamp_ms.saturating_sub(before.timestamp_ms);
            if !has_window || (apart_ms as u64) < fact.config.dedup_window_ms {
                return Err(format!(
                    "{:?} is stored at offsets {} and {} of {} ({partition}), {apart_ms} ms apart",
                    seen.message, before.offset, seen.offset, fact.topic
                ));
            }
        }
        Ok(records.len() as u64)
    }
}
