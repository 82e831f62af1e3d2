//! When to try again.

use std::time::Duration;

use gem_types::seams::{OsRandom, Random};

use crate::status::Failure;

const FIRST_MS: u64 = 20;
const LAST_MS: u64 = 2_000;

/// Exponential backoff with jitter, never shorter than what the node asked for.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    attempts: u32,
    /// Failures in a row for which the next node was turned to.
    moves: usize,
}

impl Backoff {
    /// The pause after a failure of one of `nodes` nodes: none while there is a node that has not
    /// been asked yet, since one that is dead says nothing of the others.
    pub(crate) fn after(&mut self, failure: &Failure, nodes: usize) -> Duration {
        if failure.moves {
            self.moves += 1;
            if !self.moves.is_multiple_of(nodes.max(1)) {
                return Duration::ZERO;
            }
        }
        self.pause(failure.error.retry_after_ms)
    }

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
        *self = Backoff::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_is_asked_before_the_first_pause() {
        let failed = |moves| {
            let error = gem_types::Error::unavailable("gone", 100);
            Failure { error, outcome_unknown: false, moves }
        };
        let mut backoff = Backoff::default();
        let pauses: Vec<bool> = (0..6).map(|_| backoff.after(&failed(true), 3).is_zero()).collect();
        assert_eq!(pauses, [true, true, false, true, true, false]);
        assert!(!backoff.after(&failed(false), 3).is_zero(), "the same node again is left alone");
        assert!(!Backoff::default().after(&failed(true), 1).is_zero(), "there is no other node");
    }

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
