//! A group in one partition: its state on the leader, and the round that moves it on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gem_types::{Error, Offset};

use super::actions::{Action, DispatchConfig, Figures, GroupStart, Now, Rules};
use super::batches::{Batches, Cached, Purpose};
use super::credit::{Pulls, Waiting};
use super::frontier::Frontier;
use super::keys::{KeyHasher, Keys, NO_KEY};
use super::leases::{NO_MEMBER, Slots, State};
use super::members::Members;
use super::pipeline::Pipeline;
use super::tokens::TokenKey;
use crate::log::{GroupRef, Mode, Pull};
use gem_types::batch::RecordBatch;

/// Batches at hand are dropped once nobody has pulled for so long, in milliseconds.
const IDLE_MS: u64 = 2_000;

/// What a group needs of its surroundings for the length of one call.
pub(super) struct Ctx<'a> {
    pub config: &'a DispatchConfig,
    pub hasher: &'a KeyHasher,
    pub now: Now,
    pub term: u64,
    /// The next id of a proposal or fetch.
    pub next_id: &'a mut u64,
    /// The ids given out in this call.
    pub issued: &'a mut Vec<u64>,
    pub out: &'a mut Vec<Action>,
}

impl Ctx<'_> {
    pub fn new_id(&mut self) -> u64 {
        *self.next_id += 1;
        self.issued.push(*self.next_id);
        *self.next_id
    }

    pub fn ms(&self) -> u64 {
        self.now.mono_ms
    }
}

/// A group's share in one partition.
pub(super) struct Group {
    pub group: GroupRef,
    pub seeks: u32,
    pub mode: Mode,
    pub rules: Rules,
    /// Whether failed messages go to a dead-letter topic; those of one have none.
    pub dead_letters: bool,
    pub tokens: TokenKey,
    /// The next first delivery. A message below it without a slot is finished.
    pub cursor: Offset,
    /// At or above the cursor: messages that a seek brought back and that were handed out so
    /// often before; 0: not to be delivered, it is on its way to the dead-letter topic, or there.
    pub counted: BTreeMap<Offset, u32>,
    /// The partition's next offset.
    pub tail: Offset,
    pub frontier: Frontier,
    pub slots: Slots,
    /// In mode `key`.
    pub keys: Keys,
    /// Begun messages whose keys are not known yet, rising, the last first: nothing goes out in
    /// mode `key` before all are.
    pub unlearned: Vec<Offset>,
    /// Messages in `Again`.
    pub again: BTreeSet<Offset>,
    /// Messages in `Ready`.
    pub ready: BTreeSet<Offset>,
    /// How many are in `Preparing`.
    pub preparing: usize,
    /// Messages in `Moving` that are to be published, or published again when due.
    pub outgoing: BTreeSet<Offset>,
    /// How many are with the dead-letter publisher.
    pub publishing: usize,
    /// How many are `Leased` or `Acking`.
    pub leased: u64,
    pub members: Members,
    pub pulls: Pulls,
    pub batches: Batches,
    pub pipeline: Pipeline,
    /// Seeks and deletions that are proposed: nothing more is proposed or delivered until all
    /// have ended.
    pub frozen: u32,
    /// When batches at hand are dropped if nobody pulls.
    pub idle_ms: u64,
}

impl Group {
    /// One round: what is due, what can go out, what is to be proposed or fetched, who is late.
    pub fn round(&mut self, ctx: &mut Ctx<'_>) {
        self.expire(ctx);
        self.learn();
        if self.frozen == 0 {
            // Before deliveries use up the demand, so that a backlog doesn't starve redeliveries.
            self.prepare(ctx);
            self.deliver(ctx);
            self.advance_frontier(ctx);
            self.publish_dead_letters(ctx);
            self.fetch(ctx);
            if let Some((id, progress)) = {
                let now_ms = ctx.ms();
                self.pipeline.next(now_ms, || ctx.new_id())
            } {
                ctx.out.push(Action::Propose { id, progress });
            }
        }
        self.answer_late(ctx);
        self.tidy(ctx);
    }

    /// When the next round is due without an event.
    pub fn next_deadline(&self, now_ms: u64) -> Option<u64> {
        let waits = !self.pulls.is_empty() || !self.outgoing.is_empty();
        [
            self.slots.next_deadline(),
            self.members.next_deadline(),
            self.pulls.next_deadline(),
            self.pipeline.next_deadline(now_ms),
            waits.then(|| self.batches.next_deadline(now_ms)).flatten(),
            (self.batches.bytes() > 0 && !waits).then_some(self.idle_ms),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// A member asks for messages.
    pub fn pull(&mut self, ctx: &mut Ctx<'_>, request: u64, pull: &Pull) -> Result<(), Error> {
        if let Some(mode) = pull.mode.filter(|mode| *mode != self.mode) {
            return Err(Error::conflict(format!(
                "group {} of topic {} is in mode {:?}, not {mode:?}: leave the mode out, or use another group",
                self.group.group, self.group.topic, self.mode
            )));
        }
        let known = self.members.find(&pull.consumer).is_some();
        if self.pulls.len() >= ctx.config.max_waiting || (!known && self.members.len() >= ctx.config.max_members) {
            return Err(Error::throttled(
                format!("group {} of topic {} has too many members waiting", self.group.group, self.group.topic),
                1_000,
            ));
        }
        let member = self.members.seen(&pull.consumer, ctx.now, ctx.config.member_timeout_ms);
        if let Some(stream) = pull.stream {
            self.members.open_stream(member, stream);
        }
        self.members.begin_wait(member);
        self.idle_ms = ctx.ms().saturating_add(IDLE_MS);
        let wait_ms = u64::try_from(pull.wait.as_millis()).unwrap_or(u64::MAX);
        self.pulls.push(Waiting {
            request,
            member,
            stream: pull.stream,
            max: pull.max.max(1),
            max_bytes: pull.max_bytes,
            deadline: ctx.ms().saturating_add(wait_ms),
        });
        Ok(())
    }

    /// How many messages the waiting pulls would take.
    pub fn demand(&self, config: &DispatchConfig) -> usize {
        self.pulls.iter().fold(0, |sum: usize, pull| sum.saturating_add(self.room(pull, config)))
    }

    /// How many messages a pull would take: its credit, within its member's bound.
    pub fn room(&self, pull: &Waiting, config: &DispatchConfig) -> usize {
        let pending = self.members.get(pull.member).map_or(0, |member| member.pending);
        pull.max.min(config.max_out_member.saturating_sub(pending) as usize)
    }

    /// All keys of begun messages are known.
    pub fn is_learned(&self) -> bool {
        self.unlearned.is_empty()
    }

    fn advance_frontier(&mut self, ctx: &mut Ctx<'_>) {
        if self.slots.len() >= ctx.config.max_out {
            return;
        }
        let demand = self.demand(ctx.config) as u64;
        let most = ctx.config.frontier_chunk;
        if let Some(frontier) = self.frontier.advance(self.cursor, self.tail, demand, most, ctx.ms()) {
            self.pipeline.building.frontier = Some(frontier);
        }
    }

    fn fetch(&mut self, ctx: &mut Ctx<'_>) {
        let singles: Vec<_> = self
            .outgoing
            .iter()
            .take(4)
            .chain(self.ready.iter().chain(&self.again).take(if self.pulls.is_empty() || !self.is_learned() {
                0
            } else {
                4
            }))
            .copied()
            .collect();
        for offset in singles {
            if self.batches.want_single(offset, ctx.ms()) {
                let id = ctx.new_id();
                self.batches.begin_single(id, offset);
                self.ask(ctx, id, offset, 1);
            }
        }
        if self.pulls.is_empty() {
            return;
        }
        if let Some(first) = self.unlearned.last().copied() {
            if self.batches.want_single(first, ctx.ms()) {
                let id = ctx.new_id();
                self.batches.begin_single(id, first);
                self.ask(ctx, id, first, ctx.config.fetch_bytes);
            }
            return;
        }
        let full = self.slots.len() >= ctx.config.max_out
            || (self.batches.bytes() > 2 * ctx.config.cache_bytes && self.batches.at(self.cursor).is_some());
        let limit = self.tail.min(self.frontier.proposed);
        let wanted = self.demand(ctx.config) as u64;
        if full || wanted == 0 {
            return;
        }
        if let Some(from) = self.batches.want_ahead(self.cursor, limit, wanted, ctx.ms()) {
            let id = ctx.new_id();
            self.batches.begin_ahead(id, from);
            self.ask(ctx, id, from, ctx.config.fetch_bytes);
        }
    }

    fn ask(&self, ctx: &mut Ctx<'_>, id: u64, from: Offset, max_bytes: usize) {
        ctx.out.push(Action::Fetch { id, partition: self.group.partition, from, max_bytes });
    }

    /// A fetch ended.
    pub fn fetched(&mut self, ctx: &mut Ctx<'_>, id: u64, result: Result<Vec<RecordBatch>, Error>) {
        let Some(purpose) = self.batches.finish(id) else { return };
        let (from, ahead) = match purpose {
            Purpose::Ahead(from) => (from, true),
            Purpose::Single(from) => (from, false),
        };
        let batches = result.unwrap_or_default();
        let Some(first) = batches.first() else {
            self.batches.back_off(ctx.ms());
            return;
        };
        // Reading begins at what is retained: what lies before it is gone.
        if first.base_offset() > from {
            self.gone(from, first.base_offset());
        }
        let mut next = from;
        for batch in batches {
            next = next.max(batch.next_offset());
            let keys = match self.mode {
                Mode::Key => ctx.hasher.of_batch(&batch),
                Mode::Shared => Box::default(),
            };
            self.batches.insert(Cached { batch: Arc::new(batch), keys });
        }
        if ahead {
            self.batches.brought(next);
        }
        self.idle_ms = ctx.ms().saturating_add(IDLE_MS);
    }

    /// The messages `from..to` are no longer in the partition: they are finished, and the floor
    /// may pass them.
    fn gone(&mut self, from: Offset, to: Offset) {
        self.pipeline.ack(from, to);
        for offset in self.begun_in(from, to) {
            self.finish(offset);
        }
        if (from..to).contains(&self.cursor) {
            self.pass(to);
        }
    }

    /// The partition was trimmed.
    pub fn trimmed(&mut self, earliest: Offset) {
        for offset in self.slots.select(|offset, _| offset < earliest) {
            self.finish(offset);
        }
        self.pass(earliest);
        self.tail = self.tail.max(earliest);
        self.unlearned.retain(|offset| *offset >= earliest);
    }

    /// The cursor moves on to `next` at least.
    pub fn pass(&mut self, next: Offset) {
        self.cursor = self.cursor.max(next);
        while self.counted.first_key_value().is_some_and(|(offset, _)| *offset < self.cursor) {
            self.counted.pop_first();
        }
    }

    /// The begun messages of `from..to`, rising.
    pub fn begun_in(&self, from: Offset, to: Offset) -> Vec<Offset> {
        if to.saturating_sub(from) <= self.slots.len() as u64 {
            return (from..to).filter(|offset| self.slots.get(*offset).is_some()).collect();
        }
        self.slots.select(|offset, _| (from..to).contains(&offset))
    }

    /// The message is done with: its slot goes, and the next of its key may go out.
    pub fn finish(&mut self, offset: Offset) {
        let Some(slot) = self.slots.remove(offset) else { return };
        self.leave_list(offset, slot.state, slot.member);
        if !slot.state.has_left() {
            self.release_key(slot.key, offset);
        }
    }

    /// Takes a message out of whatever list its state put it in; its lease ends.
    pub fn unlist(&mut self, offset: Offset) {
        let Some(slot) = self.slots.get_mut(offset) else { return };
        let (state, member) = (slot.state, slot.member);
        if matches!(state, State::Leased | State::Acking) {
            slot.member = NO_MEMBER;
            slot.stream = None;
        }
        self.leave_list(offset, state, member);
    }

    fn leave_list(&mut self, offset: Offset, state: State, member: u32) {
        match state {
            State::Again => {
                self.again.remove(&offset);
            }
            State::Ready => {
                self.ready.remove(&offset);
            }
            State::Preparing => self.preparing -= 1,
            State::Moving => {
                if !self.outgoing.remove(&offset) {
                    self.publishing = self.publishing.saturating_sub(1);
                }
            }
            State::Leased | State::Acking => {
                self.leased -= 1;
                self.members.unlease(member);
            }
            State::Parked | State::Held | State::Nacking | State::Delayed | State::Leaving | State::Left => {}
        }
    }

    /// A message of that key is out no more: the next one may be.
    pub fn release_key(&mut self, key: u64, offset: Offset) {
        if key == NO_KEY {
            return;
        }
        // One that waits out a delay at the head goes on when that is over.
        if let Some(next) = self.keys.leave(key, offset)
            && self.slots.get(next).is_some_and(|slot| slot.state == State::Parked)
        {
            self.promote(next);
        }
    }

    fn answer_late(&mut self, ctx: &mut Ctx<'_>) {
        let working = self.pipeline.is_busy() || self.batches.is_fetching();
        let may_come =
            self.cursor < self.tail || !self.ready.is_empty() || !self.again.is_empty() || self.preparing > 0;
        let linger_ms = if working && may_come && self.frozen == 0 { ctx.config.linger_ms } else { 0 };
        for pull in self.pulls.late(ctx.ms(), linger_ms) {
            self.members.end_wait(pull.member, ctx.now);
            self.idle_ms = ctx.ms().saturating_add(IDLE_MS);
            ctx.out.push(Action::Reply { request: pull.request, result: Ok(Vec::new()) });
        }
    }

    fn tidy(&mut self, ctx: &Ctx<'_>) {
        if self.pulls.is_empty() && self.outgoing.is_empty() && ctx.ms() >= self.idle_ms {
            self.batches.clear();
            return;
        }
        let keep = match self.mode {
            Mode::Shared => 0,
            Mode::Key => ctx.config.cache_bytes,
        };
        let lists = [&self.ready, &self.again, &self.outgoing];
        let needed = |base, next| lists.iter().any(|list| list.range(base..next).next().is_some());
        self.batches.trim(self.cursor, keep, needed);
    }

    /// The group was moved: a fresh start for its messages; members and pulls stay.
    pub fn restart(&mut self, ctx: &mut Ctx<'_>, mut start: GroupStart, tokens: TokenKey) {
        // Nothing is out of what lies ahead: its leases ended with the move.
        start.frontier = start.frontier.min(start.floor);
        for (request, result) in self.pipeline.reset() {
            ctx.out.push(Action::Settled { request, result });
        }
        let mut fresh = Group::start(start, tokens, ctx.now.mono_ms, ctx.now);
        std::mem::swap(&mut fresh.members, &mut self.members);
        std::mem::swap(&mut fresh.pulls, &mut self.pulls);
        fresh.frozen = self.frozen.saturating_sub(1);
        *self = fresh;
        self.members.unlease_all();
    }

    /// For [`GroupInfo`](crate::log::GroupInfo).
    pub fn figures(&self) -> Figures {
        Figures { pending: self.leased, members: self.members.infos() }
    }

    /// What the group holds in memory, about.
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.slots.bytes()
            + self.keys.bytes()
            + self.batches.bytes()
            + self.members.bytes()
            + self.pulls.bytes()
            + 32 * (self.again.len() + self.ready.len() + self.outgoing.len() + self.unlearned.len())
    }
}
