//! The node starts after whatever fault there was, and its shards and its gatherer go on while the
//! disk does.

use super::{Invariant, Verdict};
use crate::event::Event;
use crate::facts::{Facts, Moment};

/// See the module.
pub struct Serves;

impl Invariant for Serves {
    fn name(&self) -> &'static str {
        "serves"
    }

    fn promise(&self) -> &'static str {
        "damage below the last known frontier is corruption, above it a crash's tail; a start without that record resumes (DESIGN, Storage and Shards)"
    }

    fn observe(&mut self, _: &Moment, _: &Facts, event: &Event) -> Verdict {
        match event {
            Event::StartFailed(error) => Err(format!("the node does not start: {error}")),
            Event::ShardStopped(error) => Err(format!("a shard stopped by itself: {error}")),
            Event::GatherFailed(error) => Err(format!("gathering failed on a disk that is well: {error}")),
            Event::Started => Ok(1),
            _ => Ok(0),
        }
    }
}
