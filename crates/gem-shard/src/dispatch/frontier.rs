//! The dispatch frontier: first deliveries go out below what is logged of it.
//!
//! It is logged ahead, so that deliveries wait for no flush: a chunk begins as what the waiting
//! pulls ask for and doubles whenever deliveries had to wait. It may lie beyond the partition's
//! end; then a message goes out as soon as it is stored.

use gem_types::Offset;

/// A chunk that lasted so long was larger than needed, in milliseconds.
const SLOW_MS: u64 = 1_000;

/// A group's frontier.
#[derive(Debug)]
pub(super) struct Frontier {
    /// Durable: below it first deliveries go out.
    pub logged: Offset,
    /// Proposed, and perhaps logged.
    pub proposed: Offset,
    chunk: u64,
    proposed_ms: u64,
}

impl Frontier {
    pub fn new(logged: Offset) -> Self {
        Frontier { logged, proposed: logged, chunk: 1, proposed_ms: 0 }
    }

    /// The frontier to propose, if it is time. `cursor` is the next first delivery, `demand` what
    /// the waiting pulls ask for.
    pub fn advance(&mut self, cursor: Offset, tail: Offset, demand: u64, most: u64, now_ms: u64) -> Option<Offset> {
        let target = self.chunk.max(demand).min(most);
        let left = self.proposed.saturating_sub(cursor);
        if demand == 0 || left > target / 2 {
            return None;
        }
        if cursor >= self.logged && cursor < tail && self.proposed_ms > 0 {
            self.chunk = target.saturating_mul(2).min(most);
        } else if now_ms.saturating_sub(self.proposed_ms) > SLOW_MS {
            self.chunk = (self.chunk / 2).max(1);
        }
        self.proposed_ms = now_ms.max(1);
        self.proposed = cursor.saturating_add(self.chunk.max(demand).min(most));
        Some(self.proposed)
    }

    /// A proposal of it is durable.
    pub fn applied(&mut self, frontier: Offset) {
        self.logged = self.logged.max(frontier);
        self.proposed = self.proposed.max(frontier);
    }

    /// A proposal of it failed.
    pub fn failed(&mut self) {
        self.proposed = self.logged;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_follow_demand_and_grow_while_deliveries_wait() {
        let mut frontier = Frontier::new(0);
        assert_eq!(frontier.advance(0, 1_000, 0, 64, 1), None, "nobody asks");
        assert_eq!(frontier.advance(0, 1_000, 4, 64, 1), Some(4));
        assert_eq!(frontier.advance(0, 1_000, 4, 64, 1), None, "it is under way");
        frontier.applied(4);
        assert_eq!(frontier.advance(2, 1_000, 4, 64, 2), Some(6), "ahead of time");
        assert_eq!(frontier.advance(4, 1_000, 4, 64, 2), Some(12), "deliveries wait: a larger chunk");
        frontier.applied(12);
        assert_eq!(frontier.advance(12, 1_000, 4, 64, 3), Some(12 + 16));
        assert_eq!(frontier.advance(28, 1_000, 1_000, 64, 3), Some(28 + 64), "bounded");
    }

    #[test]
    fn it_may_lie_beyond_the_end() {
        let mut frontier = Frontier::new(0);
        assert_eq!(frontier.advance(0, 0, 100, 64, 1), Some(64));
        assert_eq!(frontier.advance(0, 0, 100, 64, 1), None);
    }
}
