//! When to dial again: exponential backoff with jitter, so that nodes that lost the same peer do
//! not come back to it in step.

use std::time::Duration;

use gem_types::seams::Random;

/// The wait before the next dial.
pub(super) struct Backoff {
    least: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new((least, most): (Duration, Duration)) -> Self {
        Backoff { least, most: most.max(least), next: least }
    }

    /// How long to wait after one more failure: between half of the step and all of it.
    pub(super) fn failed(&mut self, random: &dyn Random) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.most);
        let half = step / 2;
        half + half.mul_f64((random.u64() % 1024) as f64 / 1024.0)
    }

    /// The other side said hello.
    pub(super) fn succeeded(&mut self) {
        self.next = self.least;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Random for Fixed {
        fn fill(&self, out: &mut [u8]) {
            out.fill(0xff);
        }
    }

    #[test]
    fn waits_grow_to_the_most_and_start_again() {
        let (least, most) = (Duration::from_millis(50), Duration::from_secs(2));
        let mut backoff = Backoff::new((least, most));
        let waits: Vec<_> = (0..8).map(|_| backoff.failed(&Fixed)).collect();
        assert!(waits.is_sorted() && waits[0] >= least / 2 && waits[0] <= least, "{waits:?}");
        assert!(waits[7] > most / 2 && waits[7] <= most, "{waits:?}");
        backoff.succeeded();
        assert!(backoff.failed(&Fixed) <= least);
    }
}
