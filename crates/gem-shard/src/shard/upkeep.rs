//! When a leader cuts and expires, and when it must not.
//!
//! A cut can't be undone, and follows the clock. On a node alone nobody can say whether a clock
//! that jumped was wrong before or is wrong now: so after a jump nothing is cut for a day, unless
//! a person restarts the node.

use std::time::Duration;

use gem_types::TimestampMs;

/// A wall clock that runs so far from the monotonic one has jumped.
const JUMP_MS: i64 = 3_600_000;
/// How long cuts are suspended then.
const SUSPENDED: Duration = Duration::from_secs(86_400);

/// The clocks as they were last seen.
#[derive(Debug, Default)]
pub(crate) struct ClockWatch {
    last: Option<(TimestampMs, Duration)>,
    suspended_until: Option<Duration>,
}

impl ClockWatch {
    /// Whether time may be acted on, as the clocks stand now.
    pub fn may_cut(&mut self, wall_ms: TimestampMs, monotonic: Duration) -> bool {
        if let Some((last_ms, at)) = self.last.replace((wall_ms, monotonic)) {
            let passed = i64::try_from(monotonic.saturating_sub(at).as_millis()).unwrap_or(i64::MAX);
            let jump_ms = wall_ms.saturating_sub(last_ms.saturating_add(passed));
            if jump_ms.unsigned_abs() > JUMP_MS.unsigned_abs() {
                tracing::warn!(jump_ms, "the wall clock jumped: nothing is cut or expired for a day");
                self.suspended_until = Some(monotonic.saturating_add(SUSPENDED));
            }
        }
        self.suspended_until.is_none_or(|until| monotonic >= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_suspends_cuts_for_a_day() {
        let (mut watch, hour) = (ClockWatch::default(), 3_600u64);
        let at = Duration::from_secs;
        assert!(watch.may_cut(0, at(0)));
        assert!(watch.may_cut(JUMP_MS, at(hour)));
        assert!(watch.may_cut(2 * JUMP_MS + JUMP_MS, at(2 * hour)));
        assert!(!watch.may_cut(10 * JUMP_MS, at(3 * hour)));
        assert!(!watch.may_cut(33 * JUMP_MS, at(26 * hour)));
        assert!(watch.may_cut(34 * JUMP_MS, at(27 * hour)));
        assert!(!watch.may_cut(0, at(27 * hour)));
    }
}
