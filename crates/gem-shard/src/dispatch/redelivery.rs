//! Messages that come back: leases that ended, delays that are over, the grace that passed.
//!
//! A later attempt is counted in the log before it goes out, and that is proposed only once a
//! member waits for it.

use gem_types::Offset;

use super::actions::Action;
use super::group::{Ctx, Group};
use super::leases::{NO_MEMBER, State};

/// The first delay of a message whose deliveries are used up and that has no dead-letter topic;
/// each further one doubles it, in milliseconds.
const BACKOFF_MS: u64 = 1_000;
/// The longest such delay, in milliseconds.
const BACKOFF_MAX_MS: u64 = 300_000;

impl Group {
    /// Frees what is due: ended leases, delays and graces, and all that silent members hold.
    pub fn expire(&mut self, ctx: &mut Ctx<'_>) {
        let now_ms = ctx.ms();
        for member in self.members.silent(now_ms, ctx.config.member_timeout_ms) {
            self.free(ctx, |slot_member, _| slot_member == member);
        }
        while let Some(offset) = self.slots.fired(now_ms) {
            let Some(slot) = self.slots.get(offset).copied() else { continue };
            let end = match slot.state {
                State::Leased => {
                    let extended = self.members.get(slot.member).map_or(0, |member| member.extended_ms);
                    slot.deadline.max(extended)
                }
                State::Held | State::Delayed | State::Moving => slot.deadline,
                _ => continue,
            };
            if end > now_ms {
                self.slots.arm(offset, end);
                continue;
            }
            match slot.state {
                State::Leased => self.fail(ctx, offset),
                State::Moving => {
                    if self.outgoing.insert(offset) {
                        self.publishing = self.publishing.saturating_sub(1);
                    }
                }
                _ => self.promote(offset),
            }
        }
    }

    /// Ends the leases of whose member and stream `wanted` says so.
    pub fn free(&mut self, ctx: &mut Ctx<'_>, wanted: impl Fn(u32, Option<u64>) -> bool) {
        let leased =
            self.slots.select(|_, s| s.state == State::Leased && s.member != NO_MEMBER && wanted(s.member, s.stream));
        for offset in leased {
            self.fail(ctx, offset);
        }
    }

    /// A delivery failed without a word: the lease ended.
    pub fn fail(&mut self, ctx: &mut Ctx<'_>, offset: Offset) {
        self.unlist(offset);
        let Some(slot) = self.slots.get_mut(offset) else { return };
        slot.grace = false;
        if slot.attempt >= self.rules.max_deliveries.max(1) {
            if self.dead_letters {
                slot.state = State::Leaving;
                self.pipeline.building.moving.push(offset);
            } else {
                let delay = backoff_ms(slot.attempt, self.rules.max_deliveries);
                slot.state = State::Delayed;
                self.slots.arm(offset, ctx.ms().saturating_add(delay));
            }
            return;
        }
        slot.state = State::Again;
        self.again.insert(offset);
    }

    /// A lease is given back that never reached its member: the next delivery counts one more,
    /// but this one makes no dead letter.
    pub fn give_back(&mut self, offset: Offset, attempt: u32) {
        if self.slots.get(offset).is_some_and(|slot| slot.state == State::Leased && slot.attempt == attempt) {
            self.unlist(offset);
            if let Some(slot) = self.slots.get_mut(offset) {
                slot.state = State::Again;
                self.again.insert(offset);
            }
        }
    }

    /// A nack: redelivery after a delay, or the dead-letter topic. The message is not leased.
    pub fn nack(&mut self, ctx: &Ctx<'_>, offset: Offset, delay_ms: u64) {
        let Some(slot) = self.slots.get_mut(offset) else { return };
        slot.grace = false;
        let used_up = slot.attempt >= self.rules.max_deliveries.max(1);
        if used_up && self.dead_letters {
            slot.state = State::Leaving;
            self.pipeline.building.moving.push(offset);
            return;
        }
        let least = if used_up { backoff_ms(slot.attempt, self.rules.max_deliveries) } else { 0 };
        let delay_ms = delay_ms.max(least);
        slot.state = State::Nacking;
        slot.deadline = ctx.ms().saturating_add(delay_ms);
        let due_ms = ctx.now.wall_ms.saturating_add_unsigned(delay_ms);
        self.pipeline.building.delayed.push((offset, due_ms));
    }

    /// The message waits for nothing but its key: to `Again` or `Ready` at its key's head, else
    /// parked.
    pub fn promote(&mut self, offset: Offset) {
        let Some(slot) = self.slots.get_mut(offset) else { return };
        if !matches!(slot.state, State::Parked | State::Held | State::Delayed) {
            return;
        }
        if !self.keys.is_head(slot.key, offset) {
            slot.state = State::Parked;
        } else if slot.state == State::Parked && slot.grace {
            // It may be out itself: its own grace counts. One that is over fires at once.
            slot.state = State::Held;
            let deadline = slot.deadline;
            self.slots.arm(offset, deadline);
        } else if slot.attempt == 0 {
            slot.state = State::Ready;
            self.ready.insert(offset);
        } else {
            slot.state = State::Again;
            self.again.insert(offset);
        }
    }

    /// Proposes the next attempts of as many messages as the waiting pulls would take.
    pub fn prepare(&mut self, ctx: &mut Ctx<'_>) {
        if self.again.is_empty() || !self.is_learned() {
            return;
        }
        let demand = self.demand(ctx.config).saturating_sub(self.ready.len() + self.preparing);
        for _ in 0..demand {
            let Some(offset) = self.again.pop_first() else { break };
            let Some(slot) = self.slots.get_mut(offset) else { continue };
            slot.state = State::Preparing;
            self.preparing += 1;
            self.pipeline.building.attempts.push((offset, slot.attempt.saturating_add(1)));
            self.pipeline.building.redelivered += 1;
        }
    }

    /// A proposal is durable: its effects.
    pub fn applied(&mut self, ctx: &mut Ctx<'_>, id: u64) {
        let Some(progress) = self.pipeline.finished(id, None, ctx.ms()) else { return };
        if let Some(frontier) = progress.frontier {
            self.frontier.applied(frontier);
        }
        for (from, to) in progress.acked {
            for offset in self.begun_in(from, to) {
                self.finish(offset);
            }
        }
        for (offset, attempt) in progress.attempts {
            if self.is_next(offset, attempt) && self.take(offset, State::Preparing, State::Ready) {
                self.preparing -= 1;
                self.ready.insert(offset);
            }
        }
        for (offset, _) in progress.delayed {
            if self.take(offset, State::Nacking, State::Delayed) {
                let deadline = self.slots.get(offset).map_or(0, |slot| slot.deadline);
                self.slots.arm(offset, deadline);
            }
        }
        for offset in progress.moving {
            if self.take(offset, State::Leaving, State::Moving) {
                self.outgoing.insert(offset);
                // It has left dispatch: the next of its key need not wait for the dead-letter topic.
                let key = self.slots.get(offset).map_or(0, |slot| slot.key);
                self.release_key(key, offset);
            }
        }
        for offset in progress.moved {
            self.finish(offset);
        }
        self.answer_settled(ctx);
    }

    /// A proposal failed, or may have: everything in it is undone here, and tried again. Every
    /// part of it is idempotent, so it does no harm if it is applied all the same.
    pub fn failed(&mut self, ctx: &mut Ctx<'_>, id: u64, error: gem_types::Error) {
        let Some(progress) = self.pipeline.finished(id, Some(error), ctx.ms()) else { return };
        if progress.frontier.is_some() {
            self.frontier.failed();
        }
        for (from, to) in progress.acked {
            let begun = self.begun_in(from, to);
            if begun.is_empty() {
                // Gone from the partition: nobody else remembers it.
                self.pipeline.ack(from, to);
            }
            for offset in begun {
                if self.take(offset, State::Acking, State::Leased) {
                    let deadline = self.slots.get(offset).map_or(0, |slot| slot.deadline);
                    self.slots.arm(offset, deadline);
                }
            }
        }
        for (offset, attempt) in progress.attempts {
            if self.is_next(offset, attempt) && self.take(offset, State::Preparing, State::Again) {
                self.preparing -= 1;
                self.again.insert(offset);
            }
        }
        for (offset, _) in progress.delayed {
            // The nack was not answered as done, yet the member has given up: redeliver when due.
            if self.take(offset, State::Nacking, State::Delayed) {
                let deadline = self.slots.get(offset).map_or(0, |slot| slot.deadline);
                self.slots.arm(offset, deadline);
            }
        }
        for offset in progress.moving {
            if self.slots.get(offset).is_some_and(|slot| slot.state == State::Leaving) {
                self.pipeline.building.moving.push(offset);
            }
        }
        for offset in progress.moved {
            if self.slots.get(offset).is_some_and(|slot| slot.state == State::Left) {
                self.pipeline.building.moved.push(offset);
            }
        }
        self.answer_settled(ctx);
    }

    fn answer_settled(&mut self, ctx: &mut Ctx<'_>) {
        let mut answers = Vec::new();
        self.pipeline.answers(&mut answers);
        ctx.out.extend(answers.into_iter().map(|(request, result)| Action::Settled { request, result }));
    }

    /// Whether `attempt` is the message's next. A lease that was taken over while its next attempt
    /// was being logged may have led to that attempt by another way.
    fn is_next(&self, offset: Offset, attempt: u32) -> bool {
        self.slots.get(offset).is_some_and(|slot| slot.attempt.saturating_add(1) == attempt)
    }

    /// Moves a message from one state to another, if it is there.
    fn take(&mut self, offset: Offset, from: State, to: State) -> bool {
        match self.slots.get_mut(offset) {
            Some(slot) if slot.state == from => {
                slot.state = to;
                true
            }
            _ => false,
        }
    }
}

/// How long a message waits that failed `attempt` times where no dead-letter topic takes it.
fn backoff_ms(attempt: u32, max_deliveries: u32) -> u64 {
    let doublings = attempt.saturating_sub(max_deliveries).min(20);
    (BACKOFF_MS << doublings).min(BACKOFF_MAX_MS)
}
