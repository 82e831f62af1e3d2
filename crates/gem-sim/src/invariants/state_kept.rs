//! What the log determined is the same after whatever stop: once nothing changes it any more, the
//! state of a shard reads back to the digest that it had.

use std::collections::BTreeMap;

use super::{Invariant, Verdict};
use crate::event::Event;
use crate::facts::{Facts, Moment};

/// See the module.
#[derive(Default)]
pub struct StateKept {
    digests: BTreeMap<String, (usize, u64)>,
}

impl Invariant for StateKept {
    fn name(&self) -> &'static str {
        "state_kept"
    }

    fn promise(&self) -> &'static str {
        "apply is a function of state and entry (DESIGN, Replication); replay from the last flush ends at the same rows (gem-shard, machine)"
    }

    fn observe(&mut self, _: &Moment, _: &Facts, event: &Event) -> Verdict {
        let Event::Digest { shard, rows, digest } = event else { return Ok(0) };
        match self.digests.insert(shard.clone(), (*rows, *digest)) {
            Some(before) if before != (*rows, *digest) => {
                Err(format!("shard {shard} had a state of {} rows, and came back with another, of {rows}", before.0))
            }
            _ => Ok(1),
        }
    }
}
