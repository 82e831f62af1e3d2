//! One node's clock: the run's, with a wall clock that is off.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use gem_types::seams::Clock;

use crate::clock::SimClock;

/// A node's clock.
#[derive(Debug)]
pub struct NodeClock {
    clock: Arc<SimClock>,
    off_ms: AtomicI64,
}

impl NodeClock {
    /// A clock that is right.
    pub fn new(clock: Arc<SimClock>) -> NodeClock {
        NodeClock { clock, off_ms: AtomicI64::new(0) }
    }

    /// From now on the wall clock is off by so much.
    pub fn set_off(&self, ms: i64) {
        self.off_ms.store(ms, Ordering::Relaxed);
    }
}

impl Clock for NodeClock {
    fn wall_ms(&self) -> i64 {
        self.clock.wall_ms() + self.off_ms.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }
}
