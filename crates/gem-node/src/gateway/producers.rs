//! Numbered producers (RIFL, Lee et al., SOSP 2015): what a stream of batches keeps so that each
//! message is stored once and in order, through retries and a second gateway.
//!
//! A batch names its producer's previous number in its partition. The leader refuses a batch whose
//! predecessor it has not seen; the gateway then tries again, so nothing overtakes. Where an
//! earlier batch was refused for good, the later ones name the one before it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use gem_types::{Error, PartitionId, ProducerId, Result};

/// One producer on one stream.
#[derive(Debug)]
pub struct Producer {
    /// Its id.
    pub id: ProducerId,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the next batch's first message; 0 before the first batch.
    next: u64,
    /// What the client says is settled.
    settled: u64,
    /// First numbers of batches that are not answered yet.
    open: BTreeSet<u64>,
    lanes: BTreeMap<PartitionId, Lane>,
    /// A batch was refused that the client may send again: nothing overtakes it on this stream.
    blocked: bool,
}

/// A producer's way into one partition.
#[derive(Debug, Default)]
struct Lane {
    /// The greatest number known to be stored.
    stored: u64,
    /// Last numbers of the parts on their way.
    waiting: BTreeSet<u64>,
}

/// How the leader is told about one part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// See [`gem_shard::log::ProducerBatch::previous`].
    pub previous: u64,
    /// See [`gem_shard::log::ProducerBatch::settled`].
    pub settled: u64,
}

impl Producer {
    /// A producer that has sent nothing on this stream yet.
    pub fn new(id: ProducerId) -> Self {
        Producer { id, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers a batch of `count` messages: `number` is the client's, 0 lets the gateway choose.
    /// Answers the first message's number.
    pub fn number(&self, number: u64, settled: u64, count: usize) -> Result<u64> {
        let mut state = self.state();
        let expected = match (state.next, number) {
            (0, 0) => 1,
            (0, _) => settled.max(1),
            (next, _) => next,
        };
        if number != 0 && number != expected {
            return Err(Error::invalid(format!(
                "the batch begins with number {number}, expected {expected}: a stream begins with its first unsettled number and goes on without gaps"
            )));
        }
        let next = expected.checked_add(count as u64).ok_or_else(|| Error::invalid("the numbers are used up"))?;
        if settled > expected {
            return Err(Error::invalid(format!(
                "number {expected} cannot be sent: the same batch says that all below {settled} are settled"
            )));
        }
        state.settled = state.settled.max(settled);
        state.next = next;
        state.open.insert(expected);
        Ok(expected)
    }

    /// A batch was refused as a whole before it was on its way. The client may send it again, in
    /// parts perhaps, so later batches of this stream may not overtake it.
    pub fn block(&self) {
        self.state().blocked = true;
    }

    /// Refuses what would overtake a refused batch.
    pub fn check_open(&self) -> Result<()> {
        if self.state().blocked {
            return Err(Error::unavailable(
                "an earlier batch of this stream was refused: open a new stream, from the first unsettled number on",
                0,
            ));
        }
        Ok(())
    }

    /// A part with these first and last numbers is on its way.
    pub fn begin(&self, partition: PartitionId, last: u64) {
        self.state().lanes.entry(partition).or_default().waiting.insert(last);
    }

    /// What to tell the leader of a part that begins with number `first`. To be asked anew before
    /// each attempt. `by_client`: the client says what is settled; else all that is answered is.
    pub fn standing(&self, partition: PartitionId, first: u64, by_client: bool) -> Standing {
        let state = self.state();
        let settled = if by_client { state.settled } else { state.open.first().copied().unwrap_or(first) };
        let previous = state.lanes.get(&partition).map_or(0, |lane| {
            let waiting = lane.waiting.range(..first).next_back().copied().unwrap_or(0);
            waiting.max(if lane.stored < first { lane.stored } else { 0 })
        });
        Standing { previous, settled }
    }

    /// The part that ends with number `last` is stored, or refused for good.
    pub fn end(&self, partition: PartitionId, last: u64, stored: bool) {
        if let Some(lane) = self.state().lanes.get_mut(&partition) {
            lane.waiting.remove(&last);
            if stored {
                lane.stored = lane.stored.max(last);
            }
        }
    }

    /// The batch that begins with number `first` is answered.
    pub fn answered(&self, first: u64) {
        self.state().open.remove(&first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId([1; 16]);

    #[test]
    fn numbers_have_no_gaps() {
        let producer = Producer::new(ProducerId(1));
        assert_eq!(producer.number(0, 0, 10).unwrap(), 1);
        assert_eq!(producer.number(0, 0, 1).unwrap(), 11);
        assert_eq!(producer.number(12, 5, 1).unwrap(), 12);
        assert!(producer.number(14, 5, 1).is_err());
    }

    #[test]
    fn a_second_gateway_begins_at_the_first_unsettled() {
        let producer = Producer::new(ProducerId(1));
        assert!(producer.number(9, 7, 1).is_err());
        assert_eq!(producer.number(7, 7, 1).unwrap(), 7);
        assert_eq!(producer.standing(P, 7, true), Standing { previous: 0, settled: 7 });
    }

    #[test]
    fn nothing_overtakes_a_batch_that_may_come_again() {
        let producer = Producer::new(ProducerId(1));
        assert!(producer.check_open().is_ok());
        producer.block();
        assert!(producer.check_open().is_err());
    }

    #[test]
    fn a_refused_batch_is_stepped_over() {
        let producer = Producer::new(ProducerId(1));
        for last in [10, 20, 30] {
            producer.begin(P, last);
        }
        producer.end(P, 10, true);
        assert_eq!(producer.standing(P, 21, true).previous, 20);
        producer.end(P, 20, false);
        assert_eq!(producer.standing(P, 21, true).previous, 10);
    }
}
