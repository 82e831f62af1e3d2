//! Replicas that have applied the same entries hold the same state.

use std::collections::BTreeMap;

use gem_types::{GroupId, ReplicaId};

use super::{Invariant, Verdict};
use crate::event::Event;
use crate::facts::{Facts, Moment};

/// See the module.
#[derive(Default)]
pub struct SameState {
    digests: BTreeMap<(GroupId, u64), (ReplicaId, u64)>,
}

impl Invariant for SameState {
    fn name(&self) -> &'static str {
        "same_state"
    }

    fn promise(&self) -> &'static str {
        "apply is a function of state and entry (DESIGN, Replication); the state is the same on every replica (DESIGN, Words)"
    }

    fn observe(&mut self, _: &Moment, _: &Facts, event: &Event) -> Verdict {
        let Event::Applied { group, replica, index, digest } = event else { return Ok(0) };
        let (other, before) = *self.digests.entry((*group, *index)).or_insert((*replica, *digest));
        if before != *digest {
            return Err(format!(
                "group {group}: {other} and {replica} have applied the log up to {index}, and hold different states"
            ));
        }
        Ok(u64::from(other != *replica))
    }
}
