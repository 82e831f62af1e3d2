//! What members say of the messages they got: acks, nacks, extensions, heartbeats.
//!
//! A token names one delivery. Under the term that issued it, it ends with its lease. One of an
//! earlier term is good while the message was not handed out again: its leader was lost, and
//! nobody else knows that lease.

use super::actions::Action;
use super::group::{Ctx, Group};
use super::leases::{NO_MEMBER, State};
use super::tokens::Token;
use crate::log::{Status, Verb};

impl Group {
    /// Settles tokens in order; answers once what they changed is durable.
    pub fn settle(&mut self, ctx: &mut Ctx<'_>, request: u64, verbs: &[(String, Verb)]) {
        // A lease that ended before this moment has ended, whether or not its timer was looked at.
        self.expire(ctx);
        let statuses: Vec<_> = verbs.iter().map(|(text, verb)| self.settle_one(ctx, text, *verb)).collect();
        let durable = statuses.iter().any(|status| matches!(status, Status::Acked | Status::Nacked));
        let answer = if durable { self.pipeline.wait(request, statuses) } else { Some((request, Ok(statuses))) };
        if let Some((request, result)) = answer {
            ctx.out.push(Action::Settled { request, result });
        }
    }

    fn settle_one(&mut self, ctx: &mut Ctx<'_>, text: &str, verb: Verb) -> Status {
        let Some(token) = self.tokens.open(text) else { return Status::Unknown };
        if token.seeks != self.seeks {
            return Status::Expired;
        }
        let Some(slot) = self.slots.get_mut(token.offset) else {
            let finished = token.offset < self.cursor && verb == Verb::Ack;
            return if finished { Status::Acked } else { Status::Expired };
        };
        if slot.state == State::Acking {
            // On its way: it is answered once that is durable.
            return if verb == Verb::Ack { Status::Acked } else { Status::Expired };
        }
        // Nearly every token: one look at the table.
        if verb == Verb::Ack && slot.state == State::Leased && slot.attempt == token.attempt {
            slot.state = State::Acking;
            self.members.seen_again(slot.member, ctx.now);
            self.pipeline.ack(token.offset, token.offset + 1);
            return Status::Acked;
        }
        if !self.is_good(token) {
            return Status::Expired;
        }
        self.apply_verb(ctx, token, verb)
    }

    /// Whether the token's lease stands, or may stand under an earlier leader.
    fn is_good(&self, token: Token) -> bool {
        let Some(slot) = self.slots.get(token.offset).filter(|slot| slot.attempt == token.attempt) else {
            return false;
        };
        match slot.state {
            State::Leased => true,
            State::Held | State::Parked | State::Again | State::Preparing | State::Ready => slot.grace,
            _ => false,
        }
    }

    fn apply_verb(&mut self, ctx: &mut Ctx<'_>, token: Token, verb: Verb) -> Status {
        let offset = token.offset;
        if let Some(member) = self.slots.get(offset).map(|slot| slot.member).filter(|member| *member != NO_MEMBER) {
            self.members.seen_again(member, ctx.now);
        }
        match verb {
            Verb::Ack => {
                self.adopt(offset);
                if let Some(slot) = self.slots.get_mut(offset) {
                    slot.state = State::Acking;
                }
                self.pipeline.ack(offset, offset + 1);
                Status::Acked
            }
            Verb::Nack { delay_ms } => {
                self.unlist(offset);
                self.nack(ctx, offset, delay_ms);
                Status::Nacked
            }
            Verb::Extend { by_ms } => {
                self.adopt(offset);
                let until = ctx.ms().saturating_add(by_ms);
                let ends = self.slots.get(offset).map_or(0, |slot| slot.deadline);
                self.slots.arm(offset, until.max(ends));
                Status::Extended
            }
        }
    }

    /// Takes over a lease that an earlier leader gave: nobody's by name, but a lease.
    fn adopt(&mut self, offset: u64) {
        if self.slots.get(offset).is_none_or(|slot| slot.state == State::Leased) {
            return;
        }
        self.unlist(offset);
        if let Some(slot) = self.slots.get_mut(offset) {
            slot.state = State::Leased;
            slot.grace = false;
            self.leased += 1;
        }
    }

    /// Extends all that the member holds by the ack timeout from now; answers how many.
    pub fn heartbeat(&mut self, ctx: &mut Ctx<'_>, consumer: &str) -> u64 {
        self.expire(ctx);
        if self.members.find(consumer).is_none() && self.members.len() >= ctx.config.max_members {
            return 0;
        }
        let index = self.members.seen(consumer, ctx.now, ctx.config.member_timeout_ms);
        let until = ctx.ms().saturating_add(self.rules.ack_timeout_ms);
        self.members.get_mut(index).map_or(0, |member| {
            member.extended_ms = until;
            member.pending
        })
    }

    /// A stream ended: what was handed out under it is free at once.
    pub fn close_stream(&mut self, ctx: &mut Ctx<'_>, consumer: &str, stream: u64) {
        let Some(index) = self.members.find(consumer) else { return };
        self.members.close_stream(index, stream);
        self.members.seen(consumer, ctx.now, ctx.config.member_timeout_ms);
        self.free(ctx, |member, of| member == index && of == Some(stream));
    }
}
