//! Handing messages out: redeliveries first, then first deliveries in offset order.

use gem_types::Offset;

use super::actions::Action;
use super::credit::Waiting;
use super::group::{Ctx, Group};
use super::keys::{NO_KEY, TOTAL};
use super::leases::{Slot, State};
use super::tokens::{Token, TokenText};
use crate::log::{Delivered, Mode, Ordering};

/// What one pull gets, as it fills.
struct Hand {
    messages: Vec<Delivered>,
    max: usize,
    bytes_left: usize,
    deadline: u64,
    member: u32,
    stream: Option<u64>,
}

impl Hand {
    fn is_full(&self) -> bool {
        self.messages.len() >= self.max || (self.bytes_left == 0 && !self.messages.is_empty())
    }

    /// How many messages of `each` bytes it still takes.
    fn room(&self, each: usize) -> u64 {
        let by_bytes = self.bytes_left.div_ceil(each.max(1));
        let by_bytes = if self.messages.is_empty() { by_bytes.max(1) } else { by_bytes };
        (self.max - self.messages.len()).min(by_bytes) as u64
    }

    fn slot(&self, key: u64) -> Slot {
        let mut slot = Slot::new(State::Leased, key, 1);
        slot.member = self.member;
        slot.stream = self.stream;
        slot
    }
}

impl Group {
    /// Answers waiting pulls, in order of arrival, with an even share of what can go out.
    pub fn deliver(&mut self, ctx: &mut Ctx<'_>) {
        if !self.is_learned() {
            return;
        }
        let mut index = 0;
        while let Some(pull) = self.pulls.get(index) {
            let room = self.room(pull, ctx.config);
            if room == 0 {
                index += 1;
                continue;
            }
            let available = self.ready.len() + (self.limit().saturating_sub(self.cursor)) as usize;
            if available == 0 {
                return;
            }
            let share = available.div_ceil(self.pulls.len() - index);
            let hand = Hand {
                messages: Vec::with_capacity(room.min(share).min(1024)),
                max: room.min(share),
                bytes_left: pull.max_bytes,
                deadline: ctx.ms().saturating_add(self.rules.ack_timeout_ms.max(1)),
                member: pull.member,
                stream: pull.stream,
            };
            let messages = self.fill(ctx, hand);
            if messages.is_empty() {
                return;
            }
            let Some(Waiting { request, member, .. }) = self.pulls.remove(index) else { return };
            self.members.lease(member, messages.len() as u64);
            self.members.end_wait(member, ctx.now);
            self.leased += messages.len() as u64;
            ctx.out.push(Action::Reply { request, result: Ok(messages) });
        }
    }

    /// First deliveries go out below it.
    fn limit(&self) -> Offset {
        self.tail.min(self.frontier.logged)
    }

    fn fill(&mut self, ctx: &Ctx<'_>, mut hand: Hand) -> Vec<Delivered> {
        if !self.ready.is_empty() {
            self.fill_ready(ctx, &mut hand);
        }
        match (self.mode, self.rules.ordering) {
            (Mode::Shared, _) => self.fill_shared(ctx, &mut hand),
            (Mode::Key, Ordering::Key) => self.fill_keyed(ctx, &mut hand),
            (Mode::Key, Ordering::Total) => self.fill_total(ctx, &mut hand),
        }
        hand.messages
    }

    fn fill_ready(&mut self, ctx: &Ctx<'_>, hand: &mut Hand) {
        let mut after = 0;
        while !hand.is_full() {
            let Some(offset) = self.ready.range(after..).next().copied() else { return };
            after = offset + 1;
            // Its fetch is under way: others need not wait for it.
            let Some(cached) = self.batches.at(offset) else { continue };
            let (batch, Some(index)) = (cached.batch.clone(), cached.batch.index_of(offset)) else { continue };
            self.ready.remove(&offset);
            let Some(slot) = self.slots.get_mut(offset) else { continue };
            slot.state = State::Leased;
            slot.attempt = slot.attempt.saturating_add(1);
            slot.grace = false;
            slot.member = hand.member;
            slot.stream = hand.stream;
            let attempt = slot.attempt;
            self.slots.arm(offset, hand.deadline);
            hand.bytes_left = hand.bytes_left.saturating_sub(batch.len() / batch.count().max(1) as usize);
            let token = self.token(ctx, offset, attempt);
            hand.messages.push(Delivered { batch, index, offset, delivery: attempt, token });
        }
    }

    /// Steps over the messages at the cursor that a seek brought back and that are no first
    /// deliveries; answers how far the cursor may run before the next.
    fn pass_counted(&mut self, limit: Offset) -> Offset {
        while let Some((offset, attempt)) = self.counted.first_key_value().map(|(o, a)| (*o, *a)) {
            if offset > self.cursor || offset >= limit {
                return offset.min(limit);
            }
            let key = self.key_at_cursor();
            self.pass(offset + 1);
            if attempt == 0 {
                continue;
            }
            let state = if self.keys.enter(key, offset) { State::Again } else { State::Parked };
            self.slots.insert(offset, Slot::new(state, key, attempt));
            if state == State::Again {
                self.again.insert(offset);
            }
        }
        limit
    }

    /// The key of the message at the cursor, whose batch is at hand.
    fn key_at_cursor(&self) -> u64 {
        match (self.mode, self.rules.ordering) {
            (Mode::Shared, _) => NO_KEY,
            (Mode::Key, Ordering::Total) => TOTAL,
            (Mode::Key, Ordering::Key) => self.batches.at(self.cursor).map_or(NO_KEY, |cached| {
                let index = self.cursor - cached.batch.base_offset();
                cached.keys.get(index as usize).copied().unwrap_or(NO_KEY)
            }),
        }
    }

    /// Any member gets any message: whole runs at a time.
    fn fill_shared(&mut self, ctx: &Ctx<'_>, hand: &mut Hand) {
        while !hand.is_full() && self.cursor < self.limit() {
            let free = ctx.config.max_out.saturating_sub(self.slots.len()) as u64;
            let Some(cached) = self.batches.at(self.cursor) else { return };
            let batch = cached.batch.clone();
            let each = batch.len() / batch.count().max(1) as usize;
            let end = self.pass_counted(batch.next_offset().min(self.limit()));
            if end <= self.cursor {
                continue;
            }
            let run = free.min(hand.room(each)).min(end - self.cursor);
            if run == 0 {
                return;
            }
            let (from, to) = (self.cursor, self.cursor + run);
            self.slots.insert_run(from, to, hand.slot(0), hand.deadline);
            for offset in from..to {
                let token = self.token(ctx, offset, 1);
                // A batch is dense, and holds all of the run.
                let index = (offset - batch.base_offset()) as u32;
                hand.messages.push(Delivered { batch: batch.clone(), index, offset, delivery: 1, token });
            }
            hand.bytes_left = hand.bytes_left.saturating_sub(each * run as usize);
            self.cursor = to;
        }
    }

    /// Messages whose key is taken are parked, and the next are looked at.
    fn fill_keyed(&mut self, ctx: &Ctx<'_>, hand: &mut Hand) {
        while !hand.is_full() && self.cursor < self.limit() {
            let Some(cached) = self.batches.at(self.cursor) else { return };
            let base = cached.batch.base_offset();
            let end = cached.batch.next_offset().min(self.limit());
            let each = cached.batch.len() / cached.batch.count().max(1) as usize;
            while !hand.is_full() && self.cursor < end && self.slots.len() < ctx.config.max_out {
                if self.pass_counted(end) <= self.cursor {
                    break;
                }
                let offset = self.cursor;
                let Some(cached) = self.batches.at(offset) else { return };
                let index = (offset - base) as u32;
                let key = cached.keys.get(index as usize).copied().unwrap_or_default();
                self.cursor += 1;
                if !self.keys.enter(key, offset) {
                    self.slots.insert(offset, Slot::new(State::Parked, key, 0));
                    continue;
                }
                let batch = cached.batch.clone();
                let token = self.token(ctx, offset, 1);
                self.slots.insert_run(offset, offset + 1, hand.slot(key), hand.deadline);
                hand.bytes_left = hand.bytes_left.saturating_sub(each);
                hand.messages.push(Delivered { batch, index, offset, delivery: 1, token });
            }
            if self.slots.len() >= ctx.config.max_out {
                return;
            }
        }
    }

    /// All messages are one key: the next goes out once no earlier one is begun.
    fn fill_total(&mut self, ctx: &Ctx<'_>, hand: &mut Hand) {
        if hand.is_full() || self.cursor >= self.limit() || self.keys.is_taken(TOTAL) {
            return;
        }
        if self.pass_counted(self.limit()) <= self.cursor || self.keys.is_taken(TOTAL) {
            return;
        }
        let offset = self.cursor;
        let Some(cached) = self.batches.at(offset) else { return };
        let (batch, index) = (cached.batch.clone(), (offset - cached.batch.base_offset()) as u32);
        self.keys.enter(TOTAL, offset);
        self.slots.insert_run(offset, offset + 1, hand.slot(TOTAL), hand.deadline);
        self.cursor += 1;
        let token = self.token(ctx, offset, 1);
        hand.messages.push(Delivered { batch, index, offset, delivery: 1, token });
    }

    fn token(&self, ctx: &Ctx<'_>, offset: Offset, attempt: u32) -> TokenText {
        self.tokens.seal(Token { offset, term: ctx.term, attempt, seeks: self.seeks })
    }
}
