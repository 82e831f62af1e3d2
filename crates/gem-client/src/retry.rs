//! When to try again.

use std::time::Duration;

use gem_types::seams::{OsRandom, Random};

const FIRST_MS: u64 = 20;
const LAST_MS: u64 = 2_000;

/// Exponential backoff with jitter, never shorter than what the node asked for.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The pause before the next attempt.
    pub(crate) fn pause(&mut self, retry_after_ms: Option<u64>) -> Duration {
        let ceiling = FIRST_MS.saturating_mul(1 << self.attempts.min(10)).min(LAST_MS);
        self.attempts += 1;
        // Half fixed, half drawn: clients that failed together do not come back together.
        let drawn = ceiling / 2 + OsRandom.u64() % (ceiling / 2 + 1);
        Duration::from_millis(drawn.max(retry_after_ms.unwrap_or(0)))
    }

    /// Something succeeded: the next failure starts small again.
    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_respect_the_node() {
        let mut backoff = Backoff::default();
        assert!(backoff.pause(None) <= Duration::from_millis(FIRST_MS));
        for _ in 0..20 {
            assert!(backoff.pause(None) <= Duration::from_millis(LAST_MS));
        }
        assert!(backoff.pause(Some(5_000)) >= Duration::from_secs(5));
        backoff.reset();
        assert!(backoff.pause(None) <= Duration::from_millis(FIRST_MS));
    }
}
