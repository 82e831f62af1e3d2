//! What must hold, kept as plainly as can be: every lease ever given, and why it ended.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use gem_types::{Error, Offset};

use super::super::Progress;
use super::world::{ACK_TIMEOUT_MS, MEMBER_TIMEOUT_MS, Replicated};
use crate::log::{Delivered, Mode, Status, Verb};

#[derive(Clone, Debug)]
struct Lease {
    attempt: u32,
    consumer: String,
    stream: Option<u64>,
    deadline: u64,
    /// It ended before its deadline: a nack, a lost member, a closed stream.
    freed: bool,
    /// Its ack is proposed.
    acking: bool,
    /// It was settled when only the leader knew whether it stood.
    unclear: bool,
    /// The term it was given or taken over in.
    term: u64,
}

#[derive(Debug, Default)]
struct Consumer {
    seen_ms: u64,
    streams: BTreeSet<u64>,
    waiting: usize,
}

/// What a settle must answer for one token; `None`: either way.
type Expected = (Option<Status>, String);

#[derive(Default)]
pub struct Model {
    pub keys: BTreeMap<Offset, Option<Bytes>>,
    pub total: bool,
    leases: BTreeMap<Offset, Lease>,
    tokens: BTreeMap<String, (Offset, u32, u32)>,
    last_attempt: BTreeMap<Offset, u32>,
    due: BTreeMap<Offset, u64>,
    consumers: BTreeMap<String, Consumer>,
    pulls: BTreeMap<u64, (String, Option<u64>)>,
    expected: BTreeMap<u64, Vec<Expected>>,
    seeks: u32,
    /// The attempts that were logged when the leader took over.
    taken_over: BTreeMap<Offset, u32>,
    /// The ordering was changed with messages out: order is only owed once they are done.
    pub unordered: bool,
}

impl Model {
    pub fn pulled(&mut self, request: u64, consumer: &str, stream: Option<u64>, now_ms: u64) {
        let known = self.consumers.entry(consumer.to_owned()).or_default();
        known.seen_ms = now_ms;
        known.waiting += 1;
        known.streams.extend(stream);
        self.pulls.insert(request, (consumer.to_owned(), stream));
    }

    pub fn answered(&mut self, request: u64, now_ms: u64) {
        if let Some((consumer, _)) = self.pulls.remove(&request)
            && let Some(consumer) = self.consumers.get_mut(&consumer)
        {
            consumer.waiting = consumer.waiting.saturating_sub(1);
            consumer.seen_ms = now_ms;
        }
    }

    pub fn delivered(&mut self, request: u64, got: &Delivered, state: &Replicated, mode: Mode, now_ms: u64, term: u64) {
        let (offset, attempt) = (got.offset, got.delivery);
        assert_eq!(got.batch.base_offset() + u64::from(got.index), offset);
        assert!(!state.is_done(offset), "{offset} was acked or has left, and is delivered");
        assert!(!state.moving.contains(&offset), "{offset} is moving, and is delivered");
        if attempt == 1 {
            assert!(offset < state.frontier, "{offset} went out above the logged frontier {}", state.frontier);
        } else {
            let logged = state.attempts.get(&offset).copied().unwrap_or(1);
            assert!(attempt <= logged, "attempt {attempt} of {offset} went out, only {logged} are logged");
        }
        let last = self.last_attempt.insert(offset, attempt).unwrap_or(0);
        assert!(attempt > last, "{offset} is handed out for the {attempt}th time after the {last}th");
        if let Some(lease) = self.leases.get(&offset) {
            assert!(!lease.acking, "{offset} is being acked, and is delivered");
            assert!(lease.freed || lease.deadline <= now_ms, "{offset} is leased: {lease:?}, now {now_ms}");
        }
        let due = self.due.remove(&offset).unwrap_or(0);
        assert!(due <= now_ms, "{offset} was nacked until {due}, now {now_ms}");
        if mode == Mode::Key && !self.unordered {
            self.check_order(offset, state);
        }
        let (consumer, stream) = self.pulls.get(&request).cloned().expect("a pull was answered");
        let deadline = now_ms + ACK_TIMEOUT_MS;
        self.leases.insert(
            offset,
            Lease { attempt, consumer, stream, deadline, freed: false, acking: false, unclear: false, term },
        );
        self.tokens.insert(got.token.to_string(), (offset, attempt, self.seeks));
    }

    fn check_order(&self, offset: Offset, state: &Replicated) {
        let key = self.keys.get(&offset).cloned().flatten();
        for (earlier, other) in self.keys.range(..offset) {
            let same = self.total || (key.is_some() && *other == key);
            let finished = state.is_done(*earlier) || state.moving.contains(earlier);
            assert!(!same || finished, "{offset} goes out before {earlier} of the same key is finished");
        }
    }

    fn is_silent(&self, name: &str, now_ms: u64) -> bool {
        self.consumers.get(name).is_none_or(|consumer| {
            consumer.streams.is_empty() && consumer.waiting == 0 && consumer.seen_ms + MEMBER_TIMEOUT_MS <= now_ms
        })
    }

    pub fn time_passed(&mut self, now_ms: u64) {
        let lost: Vec<_> = self.consumers.keys().filter(|name| self.is_silent(name, now_ms)).cloned().collect();
        for lease in self.leases.values_mut().filter(|lease| lost.contains(&lease.consumer) && !lease.acking) {
            lease.freed = true;
        }
    }

    pub fn free(&mut self, offset: Offset, attempt: u32) {
        if let Some(lease) = self.leases.get_mut(&offset).filter(|l| l.attempt == attempt && !l.acking) {
            lease.freed = true;
        }
    }

    pub fn stream_closed(&mut self, name: &str, stream: u64, now_ms: u64) {
        if let Some(consumer) = self.consumers.get_mut(name) {
            consumer.streams.remove(&stream);
            consumer.seen_ms = now_ms;
        }
        for lease in self.leases.values_mut() {
            if lease.consumer == name && lease.stream == Some(stream) && !lease.acking && lease.deadline > now_ms {
                lease.freed = true;
            }
        }
    }

    pub fn heartbeat(&mut self, name: &str, count: u64, now_ms: u64) {
        self.consumers.entry(name.to_owned()).or_default().seen_ms = now_ms;
        let mut extended = 0;
        for lease in self.leases.values_mut().filter(|l| l.consumer == name && !l.freed) {
            if lease.deadline > now_ms || lease.acking {
                lease.deadline = lease.deadline.max(now_ms + ACK_TIMEOUT_MS);
                extended += 1;
            }
        }
        assert!(count <= extended, "{count} leases extended, {name} holds {extended} at the most");
    }

    /// Works out what the tokens must be answered.
    pub fn settling(&mut self, request: u64, verbs: &[(String, Verb)], state: &Replicated, now_ms: u64, term: u64) {
        let about = |model: &Self, text: &str, verb: &Verb| {
            let known = model.tokens.get(text);
            let lease = known.and_then(|(offset, ..)| model.leases.get(offset));
            format!("{verb:?} at {now_ms} in term {term} of (offset, attempt, seeks) {known:?}: {lease:?}")
        };
        let mut expected = Vec::new();
        for (text, verb) in verbs {
            let about = about(self, text, verb);
            expected.push((self.judge(text, *verb, state, now_ms, term), about));
        }
        self.expected.insert(request, expected);
    }

    fn judge(&mut self, text: &str, verb: Verb, state: &Replicated, now_ms: u64, term: u64) -> Option<Status> {
        let Some((offset, attempt, seeks)) = self.tokens.get(text).copied() else { return Some(Status::Unknown) };
        if seeks != self.seeks {
            return Some(Status::Expired);
        }
        if state.dead.contains(&offset) || offset < state.floor {
            return None;
        }
        if state.is_done(offset) {
            return Some(if verb == Verb::Ack { Status::Acked } else { Status::Expired });
        }
        let lease = self.leases.get_mut(&offset)?;
        if lease.unclear {
            return None;
        }
        if lease.acking {
            return Some(if verb == Verb::Ack { Status::Acked } else { Status::Expired });
        }
        if lease.term != term && self.taken_over.get(&offset).is_some_and(|logged| *logged > attempt) {
            // A later attempt was logged before the leader was lost: it may be out.
            return Some(Status::Expired);
        }
        let stands = lease.attempt == attempt && !lease.freed && lease.deadline > now_ms;
        if !stands {
            // Under the term that gave it, it has ended. A later leader cannot know that.
            if lease.attempt != attempt && self.last_attempt.get(&offset) != Some(&attempt) {
                return (!lease.acking).then_some(Status::Expired);
            }
            if lease.term == term {
                return Some(Status::Expired);
            }
            lease.freed = true;
            lease.unclear = true;
            return None;
        }
        if let Some(consumer) = self.consumers.get_mut(&lease.consumer) {
            consumer.seen_ms = now_ms;
        }
        Some(match verb {
            Verb::Ack => {
                lease.acking = true;
                Status::Acked
            }
            Verb::Nack { delay_ms } => {
                lease.freed = true;
                self.due.insert(offset, now_ms + delay_ms);
                Status::Nacked
            }
            Verb::Extend { by_ms } => {
                if lease.term != term {
                    lease.term = term;
                    lease.consumer.clear();
                    lease.stream = None;
                }
                lease.deadline = lease.deadline.max(now_ms + by_ms);
                Status::Extended
            }
        })
    }

    pub fn settled(&mut self, request: u64, result: &Result<Vec<Status>, Error>, state: &Replicated) {
        let Some(expected) = self.expected.remove(&request) else { return };
        let Ok(statuses) = result else { return };
        assert_eq!(statuses.len(), expected.len());
        for (status, (expected, about)) in statuses.iter().zip(expected) {
            if let Some(expected) = expected {
                assert_eq!(*status, expected, "{about}");
            }
        }
        let _ = state;
    }

    /// Failed proposals are undone.
    pub fn failed(&mut self, progress: &Progress) {
        for (from, to) in &progress.acked {
            for (_, lease) in self.leases.range_mut(*from..*to) {
                lease.acking = false;
            }
        }
    }

    pub fn committed(&mut self, progress: &Progress) {
        for (from, to) in &progress.acked {
            let gone: Vec<_> = self.leases.range(*from..*to).map(|(offset, _)| *offset).collect();
            for offset in gone {
                self.leases.remove(&offset);
                self.due.remove(&offset);
            }
        }
        for offset in &progress.moving {
            self.leases.remove(offset);
            self.due.remove(offset);
        }
    }

    /// What may be out is held for the grace; who held it is forgotten.
    pub fn leader_lost(&mut self, state: &Replicated, now_ms: u64) {
        self.taken_over = state.attempts.clone();
        for lease in self.leases.values_mut() {
            lease.acking = false;
            if !lease.freed {
                lease.deadline = now_ms + ACK_TIMEOUT_MS;
            }
            lease.consumer.clear();
            lease.stream = None;
        }
        self.due.clear();
        self.consumers.clear();
        self.pulls.clear();
    }

    /// A seek: every lease ends, what settles is under way has no effect.
    pub fn moved(&mut self, state: &Replicated) {
        self.leases.clear();
        self.due.clear();
        self.seeks = state.seeks;
        self.last_attempt = state.attempts.clone();
        self.expected.clear();
    }
}
