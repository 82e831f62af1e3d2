//! Once faults have ended a mesh comes to rest: all shards led and fully replicated, every node with
//! the same picture of them.

use super::{Invariant, Verdict};
use crate::event::Event;
use crate::facts::{Facts, Moment};

/// See the module.
pub struct MeshRests;

impl Invariant for MeshRests {
    fn name(&self) -> &'static str {
        "mesh_rests"
    }

    fn promise(&self) -> &'static str {
        "changes travel by gossip; a dead replica is replaced; three members, three voters (DESIGN, Shards are prefixes)"
    }

    fn observe(&mut self, _: &Moment, _: &Facts, event: &Event) -> Verdict {
        match event {
            Event::Rested(Ok(_)) => Ok(1),
            Event::Rested(Err(why)) => Err(format!("the mesh does not come to rest: {why}")),
            _ => Ok(0),
        }
    }
}
