//! A term of a group has one leader.

use std::collections::BTreeMap;

use gem_types::{GroupId, ReplicaId};

use super::{Invariant, Verdict};
use crate::event::Event;
use crate::facts::{Facts, Moment};

/// See the module.
#[derive(Default)]
pub struct OneLeader {
    leaders: BTreeMap<(GroupId, u64), ReplicaId>,
}

impl Invariant for OneLeader {
    fn name(&self) -> &'static str {
        "one_leader"
    }

    fn promise(&self) -> &'static str {
        "leader ids are Raft's standard ones: one leader a term (gem-shard, raft/types; Ongaro, Election Safety)"
    }

    fn observe(&mut self, _: &Moment, _: &Facts, event: &Event) -> Verdict {
        let Event::Leads { group, prefix, term, replica } = event else { return Ok(0) };
        match self.leaders.insert((*group, *term), *replica) {
            Some(before) if before != *replica => {
                Err(format!("shard {prefix} has two leaders in term {term}: {before} and {replica}"))
            }
            _ => Ok(1),
        }
    }
}
