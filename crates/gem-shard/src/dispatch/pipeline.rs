//! What a group has proposed: changes gather while two proposals are under way, and whoever
//! waits for a change is answered once it is durable.

use std::collections::VecDeque;

use gem_types::{Error, Offset};

use super::actions::{ProposalId, RequestId};
use crate::entry::Progress;
use crate::log::{GroupRef, Status};

/// So many proposals of a group are under way at once: one being flushed, one behind it.
const IN_FLIGHT_MAX: usize = 2;
/// After a failed proposal nothing is proposed for so long, in milliseconds.
const RETRY_MS: u64 = 100;

/// A settle that waits for its changes.
#[derive(Debug)]
struct Waiter {
    request: RequestId,
    /// The proposal that holds the last of them.
    sequence: u64,
    statuses: Vec<Status>,
}

#[derive(Debug)]
struct InFlight {
    id: ProposalId,
    sequence: u64,
    progress: Progress,
    done: bool,
    failed: Option<Error>,
}

/// A settle that can be answered.
pub(super) type Answer = (RequestId, Result<Vec<Status>, Error>);

/// A group's changes on their way into the log.
pub(super) struct Pipeline {
    /// What the next proposal will hold.
    pub building: Progress,
    /// Its number.
    sequence: u64,
    in_flight: VecDeque<InFlight>,
    waiters: VecDeque<Waiter>,
    retry_ms: u64,
}

impl Pipeline {
    pub fn new(group: GroupRef) -> Self {
        Pipeline {
            building: Progress::of(group),
            sequence: 1,
            in_flight: VecDeque::new(),
            waiters: VecDeque::new(),
            retry_ms: 0,
        }
    }

    /// Whether a change is under way or about to be.
    pub fn is_busy(&self) -> bool {
        !self.in_flight.is_empty() || !self.building.is_empty()
    }

    /// Notes that an offset is acked, or gone.
    pub fn ack(&mut self, from: Offset, to: Offset) {
        match self.building.acked.last_mut() {
            Some(last) if last.1 == from => last.1 = to,
            _ => self.building.acked.push((from, to)),
        }
    }

    /// The request is answered once everything noted so far is durable: `None`, or at once where
    /// nothing is under way.
    pub fn wait(&mut self, request: RequestId, statuses: Vec<Status>) -> Option<Answer> {
        let sequence = match self.in_flight.back() {
            _ if !self.building.is_empty() => self.sequence,
            Some(last) => last.sequence,
            None => return Some((request, Ok(statuses))),
        };
        self.waiters.push_back(Waiter { request, sequence, statuses });
        None
    }

    /// The next proposal, where there is something to propose and room for it.
    pub fn next(&mut self, now_ms: u64, new_id: impl FnOnce() -> ProposalId) -> Option<(ProposalId, Progress)> {
        if self.building.is_empty() || self.in_flight.len() >= IN_FLIGHT_MAX || now_ms < self.retry_ms {
            return None;
        }
        let empty = Progress::of(self.building.group.clone());
        let mut progress = std::mem::replace(&mut self.building, empty);
        join_ranges(&mut progress.acked);
        let id = new_id();
        let sequence = self.sequence;
        self.sequence += 1;
        self.in_flight.push_back(InFlight { id, sequence, progress: progress.clone(), done: false, failed: None });
        Some((id, progress))
    }

    /// When a proposal is to be tried again.
    pub fn next_deadline(&self, now_ms: u64) -> Option<u64> {
        (!self.building.is_empty() && self.retry_ms > now_ms).then_some(self.retry_ms)
    }

    /// A proposal ended; answers what was in it, where it is known.
    pub fn finished(&mut self, id: ProposalId, failed: Option<Error>, now_ms: u64) -> Option<Progress> {
        let entry = self.in_flight.iter_mut().find(|entry| entry.id == id && !entry.done)?;
        entry.done = true;
        if failed.is_some() {
            self.retry_ms = now_ms.saturating_add(RETRY_MS);
        }
        entry.failed = failed;
        let empty = Progress::of(entry.progress.group.clone());
        Some(std::mem::replace(&mut entry.progress, empty))
    }

    /// Who can be answered now.
    pub fn answers(&mut self, out: &mut Vec<Answer>) {
        while self.in_flight.front().is_some_and(|entry| entry.done) {
            let Some(entry) = self.in_flight.pop_front() else { return };
            while self.waiters.front().is_some_and(|waiter| waiter.sequence <= entry.sequence) {
                let Some(waiter) = self.waiters.pop_front() else { return };
                let result = entry.failed.clone().map_or(Ok(waiter.statuses), Err);
                out.push((waiter.request, result));
            }
        }
    }

    /// Ends everything: the group was moved. What was not answered had no effect, or one that
    /// the move took back.
    pub fn reset(&mut self) -> Vec<Answer> {
        self.building = Progress::of(self.building.group.clone());
        self.in_flight.clear();
        self.retry_ms = 0;
        let ended = |status| match status {
            Status::Acked | Status::Nacked => Status::Expired,
            other => other,
        };
        self.waiters.drain(..).map(|w| (w.request, Ok(w.statuses.into_iter().map(ended).collect()))).collect()
    }

    /// Whoever waits, to be told that the leader is lost.
    pub fn abandon(&mut self) -> Vec<RequestId> {
        self.waiters.drain(..).map(|waiter| waiter.request).collect()
    }
}

/// Sorts ranges and joins those that touch.
fn join_ranges(ranges: &mut Vec<(Offset, Offset)>) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, last| {
        let touches = next.0 <= last.1;
        if touches {
            last.1 = last.1.max(next.1);
        }
        touches
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use gem_types::{GroupName, PartitionId, TopicName};

    fn pipeline() -> Pipeline {
        let topic = TopicName::new("t").unwrap();
        let group = GroupName::new("g").unwrap();
        Pipeline::new(GroupRef { partition: PartitionId::new(&topic, 0, b""), topic, group })
    }

    #[test]
    fn acks_gather_and_waiters_are_answered_in_order() {
        let mut pipeline = pipeline();
        for offset in [4, 1, 2, 9] {
            pipeline.ack(offset, offset + 1);
        }
        assert!(pipeline.wait(1, vec![Status::Acked]).is_none());
        let (first, progress) = pipeline.next(0, || 10).unwrap();
        assert_eq!(progress.acked, [(1, 3), (4, 5), (9, 10)]);
        pipeline.ack(5, 6);
        assert!(pipeline.wait(2, vec![Status::Acked]).is_none());
        let (second, _) = pipeline.next(0, || 11).unwrap();
        pipeline.ack(6, 7);
        assert!(pipeline.next(0, || 12).is_none(), "two are under way");
        let mut out = Vec::new();
        assert!(pipeline.finished(second, None, 0).is_some());
        pipeline.answers(&mut out);
        assert!(out.is_empty(), "the first is not durable");
        assert!(pipeline.finished(first, Some(Error::internal("x")), 0).is_some());
        assert!(pipeline.finished(first, None, 0).is_none());
        pipeline.answers(&mut out);
        assert!(matches!(out.as_slice(), [(1, Err(_)), (2, Ok(_))]));
        assert!(pipeline.next(50, || 12).is_none(), "after a failure it waits");
        assert!(pipeline.next(100, || 12).is_some());
    }
}
