//! Simulated time: tokio's paused clock, and a wall clock on top of it that faults push forward.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use gem_types::seams::Clock;
use tokio::time::Instant;

/// The wall clock's time when a run begins: some day in 2026.
const EPOCH_MS: i64 = 1_790_000_000_000;

/// The clock of a run.
#[derive(Debug)]
pub struct SimClock {
    began: Instant,
    pushed_ms: AtomicI64,
}

impl SimClock {
    /// A clock that begins now, in a runtime whose time is paused.
    pub fn new() -> SimClock {
        SimClock { began: Instant::now(), pushed_ms: AtomicI64::new(0) }
    }

    /// The wall clock jumps forward.
    pub fn jump(&self, ms: u64) {
        self.pushed_ms.fetch_add(ms as i64, Ordering::Relaxed);
    }

    /// Virtual milliseconds since the run began.
    pub fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }
}

impl Clock for SimClock {
    fn wall_ms(&self) -> i64 {
        EPOCH_MS + self.now_ms() as i64 + self.pushed_ms.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        self.began.elapsed()
    }
}
