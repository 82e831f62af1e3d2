//! The pauses that clients saw when a node died.

use super::events::Events;
use super::ledger::Ledger;
use super::record::Sent;

/// Pauses in microseconds.
#[derive(Clone, Debug, Default)]
pub struct Pauses {
    /// By way of publishing: the longest time without an acknowledgement.
    pub acknowledged: Vec<(&'static str, u64)>,
    /// By group: the longest time without a processing.
    pub processed: Vec<(&'static str, u64)>,
}

impl Pauses {
    /// The longest pauses that ended after the kill.
    pub fn after(killed_us: u64, events: &Events, sent: &[Sent], ledgers: &[(&'static str, &Ledger)]) -> Pauses {
        let mut ways: Vec<_> = events.all.iter().map(|event| event.way).collect();
        ways.sort_unstable();
        ways.dedup();
        let acked = |way| {
            let pairs = events.all.iter().zip(sent);
            pairs.filter(move |(event, _)| event.way == way).filter_map(|(_, sent)| sent.acked_us).collect()
        };
        let processed = |ledger: &Ledger| ledger.lines.iter().map(|line| line.at_us).collect();
        Pauses {
            acknowledged: ways.into_iter().map(|way| (way.name(), longest(acked(way), killed_us))).collect(),
            processed: ledgers.iter().map(|(name, ledger)| (*name, longest(processed(ledger), killed_us))).collect(),
        }
    }
}

/// The longest time between two neighbours of which the later is after `since`; 0 without such.
fn longest(mut times: Vec<u64>, since: u64) -> u64 {
    times.sort_unstable();
    let gaps = times.windows(2).filter_map(|pair| match pair {
        [before, after] if *after > since => Some(after - before),
        _ => None,
    });
    gaps.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::longest;

    #[test]
    fn only_pauses_that_end_after_the_kill_count() {
        let times = vec![5_000, 100, 200, 3_000, 4_900];
        assert_eq!(longest(times.clone(), 0), 2_800);
        assert_eq!(longest(times.clone(), 2_900), 2_800);
        assert_eq!(longest(times.clone(), 3_000), 1_900);
        assert_eq!(longest(times, 5_000), 0);
        assert_eq!(longest(Vec::new(), 0), 0);
    }
}
