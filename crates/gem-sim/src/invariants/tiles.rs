//! The shards that a node knows of tile the ring.

use super::{Invariant, Verdict};
use crate::event::Event;
use crate::facts::{Facts, Moment};

/// See the module.
pub struct Tiles;

impl Invariant for Tiles {
    fn name(&self) -> &'static str {
        "tiles"
    }

    fn promise(&self) -> &'static str {
        "at every instant the prefixes tile the ring (DESIGN, Shards are prefixes)"
    }

    fn observe(&mut self, _: &Moment, _: &Facts, event: &Event) -> Verdict {
        let Event::Tiles { node, prefixes } = event else { return Ok(0) };
        let mut next = Some(0u64);
        for prefix in prefixes {
            if next != Some(prefix.first().0) {
                return Err(format!("node {node} knows shards that do not tile the ring: {prefixes:?}"));
            }
            next = prefix.last().0.checked_add(1);
        }
        match next {
            None => Ok(prefixes.len() as u64),
            Some(_) => Err(format!("node {node} knows of no shard at the end of the ring: {prefixes:?}")),
        }
    }
}
