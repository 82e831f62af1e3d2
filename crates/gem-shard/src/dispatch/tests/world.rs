//! A partition, a log and members around one `Dispatch`, all naive. Whatever dispatch does is
//! held to the [`Model`] as it happens.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use gem_types::batch::{BatchBuilder, RecordBatch};
use gem_types::{Error, GroupName, Message, Offset, PartitionId, TopicName};

use super::super::{Action, Dispatch, DispatchConfig, GroupStart, Now, Progress, Rules};
use super::model::Model;
use crate::log::{Delivered, GroupRef, Mode, Ordering, Pull, Status, TopicConfig, Verb};

pub const ACK_TIMEOUT_MS: u64 = 1_000;
pub const MEMBER_TIMEOUT_MS: u64 = 3_000;
/// The wall clock is that far ahead of the monotonic one.
const EPOCH_MS: i64 = 1_790_000_000_000;

/// The group's replicated state, as the machine would hold it.
#[derive(Clone, Debug, Default)]
pub struct Replicated {
    pub seeks: u32,
    pub floor: Offset,
    pub frontier: Offset,
    pub done: BTreeSet<Offset>,
    pub attempts: BTreeMap<Offset, u32>,
    pub delayed: BTreeMap<Offset, i64>,
    pub moving: BTreeSet<Offset>,
    pub dead: BTreeSet<Offset>,
    pub redelivered: u64,
}

impl Replicated {
    pub fn is_done(&self, offset: Offset) -> bool {
        offset < self.floor || self.done.contains(&offset)
    }

    fn finish(&mut self, offset: Offset) {
        self.done.insert(offset);
        self.attempts.remove(&offset);
        self.delayed.remove(&offset);
        self.moving.remove(&offset);
    }

    fn apply(&mut self, progress: &Progress, next: Offset) {
        self.frontier = self.frontier.max(progress.frontier.unwrap_or(0));
        self.redelivered += progress.redelivered;
        for (from, to) in &progress.acked {
            (*from..(*to).min(next)).for_each(|offset| self.finish(offset));
        }
        for (offset, attempt) in &progress.attempts {
            if !self.is_done(*offset) {
                let known = self.attempts.entry(*offset).or_default();
                *known = (*known).max(*attempt);
                self.delayed.remove(offset);
            }
        }
        for (offset, due) in &progress.delayed {
            if !self.is_done(*offset) {
                self.delayed.insert(*offset, *due);
            }
        }
        for offset in &progress.moving {
            if !self.is_done(*offset) {
                self.moving.insert(*offset);
                self.delayed.remove(offset);
            }
        }
        for offset in &progress.moved {
            if self.moving.contains(offset) {
                self.dead.insert(*offset);
                self.finish(*offset);
            }
        }
    }
}

/// What the log holds and nobody applied yet.
#[derive(Debug)]
pub enum Entry {
    Progress(u64, Progress),
    Seek(Offset),
    Trim(Offset),
}

pub struct World {
    pub dispatch: Dispatch,
    pub now_ms: u64,
    pub term: u64,
    pub group: GroupRef,
    pub mode: Mode,
    pub config: TopicConfig,
    pub batches: Vec<RecordBatch>,
    pub earliest: Offset,
    pub state: Replicated,
    pub log: VecDeque<Entry>,
    pub fetches: Vec<(u64, Offset, usize)>,
    pub dead_letters: Vec<Offset>,
    pub replies: BTreeMap<u64, Result<Vec<Delivered>, Error>>,
    pub settled: BTreeMap<u64, Result<Vec<Status>, Error>>,
    pub model: Model,
    pub may_reorder: bool,
    next_request: u64,
}

impl World {
    pub fn new(mode: Mode, topic: &str) -> World {
        let topic = TopicName::new(topic).unwrap();
        let group = GroupRef {
            partition: PartitionId::new(&topic, 0, b"made"),
            topic,
            group: GroupName::new("billing").unwrap(),
        };
        let limits = DispatchConfig {
            member_timeout_ms: MEMBER_TIMEOUT_MS,
            max_out: 64,
            max_out_member: 40,
            frontier_chunk: 16,
            fetch_bytes: 600,
            cache_bytes: 1_000,
            linger_ms: 200,
            ..DispatchConfig::default()
        };
        let config = TopicConfig { ack_timeout_ms: ACK_TIMEOUT_MS, max_deliveries: 3, ..TopicConfig::default() };
        let mut world = World {
            dispatch: Dispatch::new(limits, [3; 32]),
            now_ms: 10,
            term: 0,
            group,
            mode,
            config,
            batches: Vec::new(),
            earliest: 0,
            state: Replicated::default(),
            log: VecDeque::new(),
            fetches: Vec::new(),
            dead_letters: Vec::new(),
            replies: BTreeMap::new(),
            settled: BTreeMap::new(),
            model: Model::default(),
            may_reorder: false,
            next_request: 0,
        };
        world.lead();
        world
    }

    pub fn now(&self) -> Now {
        Now { mono_ms: self.now_ms, wall_ms: EPOCH_MS + self.now_ms as i64 }
    }

    pub fn next(&self) -> Offset {
        self.batches.last().map_or(0, RecordBatch::next_offset)
    }

    fn start(&self) -> GroupStart {
        let mut floor = self.state.floor.max(self.earliest);
        while self.state.done.contains(&floor) {
            floor += 1;
        }
        GroupStart {
            group: self.group.clone(),
            life: 1,
            seeks: self.state.seeks,
            mode: self.mode,
            rules: Rules::from(&self.config),
            floor,
            acked: self.state.done.range(floor..).map(|offset| (*offset, offset + 1)).collect(),
            frontier: self.state.frontier.max(floor),
            attempts: self.state.attempts.range(floor..).map(|(o, a)| (*o, *a)).collect(),
            delayed: self.state.delayed.range(floor..).map(|(o, d)| (*o, *d)).collect(),
            moving: self.state.moving.range(floor..).copied().collect(),
            earliest: self.earliest,
            next: self.next(),
        }
    }

    fn lead(&mut self) {
        self.term += 1;
        self.dispatch.on_leader(self.term, self.now(), vec![self.start()]);
        self.drain();
    }

    /// The leader is lost; of what it proposed, the first `applied` entries were committed.
    pub fn crash(&mut self, applied: usize) {
        for _ in 0..applied.min(self.log.len()) {
            if let Some(entry) = self.log.pop_front() {
                self.commit(&entry);
            }
        }
        self.log.clear();
        self.dispatch.on_lost();
        self.drain();
        self.fetches.clear();
        self.dead_letters.clear();
        self.model.leader_lost(&self.state, self.now_ms);
        self.lead();
    }

    /// Stores one batch, a record per key.
    pub fn publish(&mut self, keys: &[&str]) {
        let mut batch = BatchBuilder::new();
        for (index, key) in keys.iter().enumerate() {
            let key = (!key.is_empty()).then(|| Bytes::copy_from_slice(key.as_bytes()));
            self.model.keys.insert(self.next() + index as u64, key.clone());
            batch.push(&Message { key, payload: Bytes::from_static(b"payload"), ..Message::default() }, "id");
        }
        let mut batch = batch.finish(1);
        batch.stamp(self.next(), 1);
        self.batches.push(batch);
        self.dispatch.on_tail(self.group.partition, self.next());
        self.drain();
    }

    pub fn pull(&mut self, consumer: &str, max: usize, wait_ms: u64, stream: Option<u64>) -> u64 {
        self.next_request += 1;
        let pull = Pull {
            group: self.group.clone(),
            consumer: consumer.to_owned(),
            mode: None,
            from: None,
            max,
            max_bytes: 1 << 20,
            wait: Duration::from_millis(wait_ms),
            stream,
        };
        self.model.pulled(self.next_request, consumer, stream, self.now_ms);
        self.dispatch.on_pull(self.next_request, &pull, self.now());
        self.drain();
        self.next_request
    }

    pub fn settle(&mut self, verbs: Vec<(String, Verb)>) -> u64 {
        self.next_request += 1;
        self.model.settling(self.next_request, &verbs, &self.state, self.now_ms, self.term);
        self.dispatch.on_settle(self.next_request, &self.group, &verbs, self.now());
        self.drain();
        self.next_request
    }

    pub fn heartbeat(&mut self, consumer: &str) -> u64 {
        let count = self.dispatch.on_heartbeat(&self.group, consumer, self.now()).unwrap();
        self.model.heartbeat(consumer, count, self.now_ms);
        self.drain();
        count
    }

    pub fn close_stream(&mut self, consumer: &str, stream: u64) {
        self.model.stream_closed(consumer, stream, self.now_ms);
        self.dispatch.on_close_stream(&self.group, consumer, stream, self.now());
        self.drain();
    }

    pub fn cancel(&mut self, request: u64) {
        self.model.answered(request, self.now_ms);
        self.dispatch.cancel_pull(&self.group, request, self.now());
        self.drain();
    }

    /// The caller of a pull that was answered never got the answer.
    pub fn undelivered(&mut self, request: u64) {
        if let Some(Ok(messages)) = self.replies.remove(&request) {
            messages.iter().for_each(|message| self.model.free(message.offset, message.delivery));
            self.dispatch.on_undelivered(&self.group, &messages, self.now());
            self.drain();
        }
    }

    pub fn seek(&mut self, offset: Offset) {
        self.dispatch.freeze(&self.group);
        self.log.push_back(Entry::Seek(offset.clamp(self.earliest, self.next())));
    }

    pub fn trim(&mut self, before: Offset) {
        self.log.push_back(Entry::Trim(before.min(self.next())));
    }

    pub fn set_ordering(&mut self, ordering: Ordering) {
        self.config.ordering = ordering;
        self.model.total = ordering == Ordering::Total;
        self.dispatch.on_rules(self.group.partition, &self.config);
        self.drain();
    }

    pub fn advance(&mut self, ms: u64) {
        self.now_ms += ms;
        self.model.time_passed(self.now_ms);
        self.dispatch.on_tick(self.now());
        self.drain();
    }

    /// Commits and applies the oldest entry.
    pub fn apply_one(&mut self) -> bool {
        let Some(entry) = self.log.pop_front() else { return false };
        self.commit(&entry);
        match entry {
            Entry::Progress(id, _) => self.dispatch.on_applied(id, self.now()),
            Entry::Seek(_) => {
                let start = self.start();
                self.dispatch.on_group(start, self.now());
            }
            Entry::Trim(_) => self.dispatch.on_trim(self.group.partition, self.earliest),
        }
        self.drain();
        true
    }

    /// The newest entry fails, if it is a proposal: what came before it stands.
    pub fn fail_newest(&mut self) {
        if let Some(Entry::Progress(id, progress)) = self.log.pop_back_if(|e| matches!(e, Entry::Progress(..))) {
            self.model.failed(&progress);
            self.dispatch.on_failed(id, Error::internal("lost"), self.now());
            self.drain();
        }
    }

    fn commit(&mut self, entry: &Entry) {
        match entry {
            Entry::Progress(_, progress) => {
                self.state.apply(progress, self.next());
                self.model.committed(progress);
            }
            Entry::Seek(offset) => {
                let offset = &(*offset).max(self.earliest);
                self.state.seeks += 1;
                self.state.floor = *offset;
                self.state.frontier = *offset;
                self.state.done.clear();
                self.state.delayed.clear();
                self.state.attempts = self.state.attempts.split_off(offset);
                self.state.moving = self.state.moving.split_off(offset);
                self.model.moved(&self.state);
            }
            Entry::Trim(before) => {
                self.earliest = self.earliest.max(*before);
                // The newest batch stays, so that the end is known; fetches don't show it.
                let (earliest, next) = (self.earliest, self.next());
                self.batches.retain(|batch| batch.next_offset() > earliest || batch.next_offset() == next);
                for offset in self.state.floor..earliest {
                    self.state.finish(offset);
                }
                self.state.floor = self.state.floor.max(earliest);
                self.state.frontier = self.state.frontier.max(earliest);
            }
        }
    }

    pub fn answer_fetch(&mut self, index: usize, fail: bool) {
        if self.fetches.is_empty() {
            return;
        }
        let (id, from, max_bytes) = self.fetches.swap_remove(index % self.fetches.len());
        let mut left = max_bytes;
        let found = self.batches.iter().filter(|b| b.next_offset() > from.max(self.earliest)).take_while(|batch| {
            let take = left > 0;
            left = left.saturating_sub(batch.len());
            take
        });
        let result = if fail { Err(Error::internal("disk")) } else { Ok(found.cloned().collect()) };
        self.dispatch.on_records(id, result, self.now());
        self.drain();
    }

    pub fn answer_dead_letter(&mut self, index: usize, fail: bool) {
        if self.dead_letters.is_empty() {
            return;
        }
        let offset = self.dead_letters.swap_remove(index % self.dead_letters.len());
        let result = if fail { Err(Error::unavailable("down", 1)) } else { Ok(()) };
        self.dispatch.on_dead_lettered(&self.group, offset, result, self.now());
        self.drain();
    }

    /// Everything under way is done at once.
    pub fn run(&mut self) {
        for _ in 0..10_000 {
            if self.apply_one() {
                continue;
            }
            if !self.fetches.is_empty() {
                self.answer_fetch(0, false);
            } else if !self.dead_letters.is_empty() {
                self.answer_dead_letter(0, false);
            } else {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// Pulls and runs; what came.
    pub fn get(&mut self, consumer: &str, max: usize) -> Vec<Delivered> {
        let request = self.pull(consumer, max, 0, None);
        self.run();
        // After a failure things are tried again a little later.
        for _ in 0..20 {
            if !self.replies.contains_key(&request) {
                self.advance(50);
                self.run();
            }
        }
        self.replies.remove(&request).expect("answered").expect("messages")
    }

    pub fn verb(&mut self, message: &Delivered, verb: Verb) -> Status {
        self.token(message.token.as_str(), verb)
    }

    pub fn token(&mut self, token: &str, verb: Verb) -> Status {
        let request = self.settle(vec![(token.to_owned(), verb)]);
        self.run();
        self.settled.remove(&request).expect("answered").expect("statuses")[0]
    }

    fn drain(&mut self) {
        let mut actions = Vec::new();
        self.dispatch.drain(self.now(), &mut actions);
        for action in actions {
            match action {
                Action::Propose { id, progress } => self.log.push_back(Entry::Progress(id, progress)),
                Action::Fetch { id, from, max_bytes, .. } => self.fetches.push((id, from, max_bytes)),
                Action::Reply { request, result } => {
                    for message in result.iter().flatten() {
                        self.model.delivered(request, message, &self.state, self.mode, self.now_ms, self.term);
                    }
                    self.model.answered(request, self.now_ms);
                    self.replies.insert(request, result);
                }
                Action::Settled { request, result } => {
                    self.model.settled(request, &result, &self.state);
                    self.settled.insert(request, result);
                }
                Action::DeadLetter { offset, batch, index, .. } => {
                    assert_eq!(batch.base_offset() + u64::from(index), offset);
                    assert!(self.state.moving.contains(&offset), "{offset} is published before `moving` is logged");
                    self.dead_letters.push(offset);
                }
            }
        }
        if let Some(at) = self.dispatch.next_deadline() {
            assert!(at > self.now_ms, "the next deadline {at} is not after now {}", self.now_ms);
        }
        let figures = self.dispatch.figures(&self.group).unwrap_or_default();
        let held: u64 = figures.members.iter().map(|member| member.pending).sum();
        assert!(held <= figures.pending, "{figures:?}");
        assert!(figures.pending <= 64);
    }
}
