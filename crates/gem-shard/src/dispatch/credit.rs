//! The pulls that wait for messages: first come, first served, and none takes it all.

use std::collections::VecDeque;

use super::actions::RequestId;

/// A pull that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub request: RequestId,
    pub member: u32,
    pub stream: Option<u64>,
    /// The most messages it takes.
    pub max: usize,
    /// The most bytes it takes, about.
    pub max_bytes: usize,
    /// When it is answered empty.
    pub deadline: u64,
}

/// A group's waiting pulls, in order of arrival.
#[derive(Debug, Default)]
pub(super) struct Pulls {
    queue: VecDeque<Waiting>,
    /// Not before this is any of them late.
    check_ms: Option<u64>,
    /// Some are past their deadline and linger.
    lingering: bool,
}

impl Pulls {
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub fn push(&mut self, pull: Waiting) {
        self.check_ms = Some(self.check_ms.map_or(pull.deadline, |at| at.min(pull.deadline)));
        self.queue.push_back(pull);
    }

    pub fn get(&self, index: usize) -> Option<&Waiting> {
        self.queue.get(index)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.queue.iter()
    }

    pub fn remove(&mut self, index: usize) -> Option<Waiting> {
        self.queue.remove(index)
    }

    /// Takes back the pull of a caller that is gone.
    pub fn cancel(&mut self, request: RequestId) -> Option<Waiting> {
        let index = self.queue.iter().position(|pull| pull.request == request)?;
        self.queue.remove(index)
    }

    /// The pulls whose deadline has passed, `linger_ms` added to it.
    pub fn late(&mut self, now_ms: u64, linger_ms: u64) -> Vec<Waiting> {
        let given_up = self.lingering && linger_ms == 0;
        if !given_up && self.check_ms.is_none_or(|at| at > now_ms) {
            return Vec::new();
        }
        let mut late = Vec::new();
        let mut next: Option<u64> = None;
        self.lingering = false;
        for _ in 0..self.queue.len() {
            let Some(pull) = self.queue.pop_front() else { break };
            let lingers = pull.deadline <= now_ms;
            let end = if lingers { pull.deadline.saturating_add(linger_ms) } else { pull.deadline };
            if end <= now_ms {
                late.push(pull);
            } else {
                self.lingering |= lingers;
                next = Some(next.map_or(end, |at| at.min(end)));
                self.queue.push_back(pull);
            }
        }
        self.check_ms = next;
        late
    }

    pub fn drain(&mut self) -> Vec<Waiting> {
        self.check_ms = None;
        self.queue.drain(..).collect()
    }

    pub fn next_deadline(&self) -> Option<u64> {
        self.check_ms
    }

    pub fn bytes(&self) -> usize {
        self.queue.capacity() * size_of::<Waiting>()
    }
}
