//! A group's replicated state goes forward: its floor never falls, what is done stays done, counts
//! of deliveries never fall; but a seek begins anew.

use std::collections::BTreeMap;

use super::{Invariant, Verdict};
use crate::event::{Event, GroupView};
use crate::facts::{Facts, GroupKey, Moment, key};

/// See the module.
#[derive(Default)]
pub struct Floors {
    last: BTreeMap<GroupKey, GroupView>,
}

fn is_done(view: &GroupView, from: u64, to: u64) -> bool {
    let from = from.max(view.floor);
    from >= to || view.acked.iter().any(|(a, b)| *a <= from && to <= *b)
}

impl Invariant for Floors {
    fn name(&self) -> &'static str {
        "floors"
    }

    fn promise(&self) -> &'static str {
        "a group's floor never falls but by a seek; nothing is forgotten early (gem-shard, machine)"
    }

    fn observe(&mut self, _: &Moment, _: &Facts, event: &Event) -> Verdict {
        let Event::Probe { group, view } = event else { return Ok(0) };
        let Some(before) = self.last.insert(key(group), view.clone()) else { return Ok(0) };
        if before.life != view.life || before.seeks > view.seeks {
            return Err(format!("{group:?} went from {before:?} back to {view:?}"));
        }
        if before.seeks != view.seeks {
            return Ok(0);
        }
        if view.floor < before.floor {
            return Err(format!("{group:?}: the floor fell from {} to {}", before.floor, view.floor));
        }
        if let Some((from, to)) = before.acked.iter().find(|(from, to)| !is_done(view, *from, *to)) {
            return Err(format!("{group:?}: {from}..{to} were done and are no more: {view:?}"));
        }
        for (offset, count) in &before.attempts {
            let now = view.attempts.iter().find(|(o, _)| o == offset).map(|(_, count)| *count);
            if !is_done(view, *offset, offset + 1) && now.is_none_or(|now| now < *count) {
                return Err(format!("{group:?}: offset {offset} was delivered {count} times, and now {now:?}"));
            }
        }
        Ok(2 + before.acked.len() as u64 + before.attempts.len() as u64)
    }
}
