//! Taking a group over from its replicated state, and the grace after a leader was lost.
//!
//! Leases die with their leader, and so does the knowledge of who held them. What may have been
//! out is what lies unacked below the frontier and below the partition's end at the takeover: it
//! is held for one ack timeout. Meanwhile a member shows what it holds by its token: an ack ends
//! the message, a nack its grace, an extension leases it again. A heartbeat or a pull names no
//! message, so it shows only that the member lives. Thereafter the message is redelivered with
//! one attempt more, whatever the count: the loss of a leader alone makes no dead letter.

use gem_types::{Offset, TopicName};

use super::actions::{GroupStart, Now, Rules};
use super::batches::Batches;
use super::credit::Pulls;
use super::frontier::Frontier;
use super::group::Group;
use super::keys::{Keys, TOTAL};
use super::leases::{Slot, Slots, State};
use super::members::Members;
use super::pipeline::Pipeline;
use super::tokens::TokenKey;
use crate::log::{Mode, Ordering};

impl Group {
    /// Takes a group over; `led_ms` is when its leader began.
    pub fn start(start: GroupStart, tokens: TokenKey, led_ms: u64, now: Now) -> Group {
        let floor = start.floor.max(start.earliest);
        let cursor = floor.max(start.frontier.min(start.next));
        let mut group = Group {
            dead_letters: !TopicName::is_dead_letter(&start.group.topic),
            pipeline: Pipeline::new(start.group.clone()),
            group: start.group,
            seeks: start.seeks,
            mode: start.mode,
            rules: start.rules,
            tokens,
            cursor,
            counted: Default::default(),
            tail: start.next.max(cursor),
            frontier: Frontier::new(start.frontier.max(cursor)),
            slots: Slots::default(),
            keys: Keys::default(),
            unlearned: Vec::new(),
            again: Default::default(),
            ready: Default::default(),
            preparing: 0,
            outgoing: Default::default(),
            publishing: 0,
            leased: 0,
            members: Members::default(),
            pulls: Pulls::default(),
            batches: Batches::default(),
            frozen: 0,
            idle_ms: 0,
        };
        // A floor above the logged frontier (a trim, a seek) was never logged as one: first
        // deliveries above it wait for an entry.
        group.frontier.logged = start.frontier;
        let until = led_ms.saturating_add(group.rules.ack_timeout_ms).max(1);
        let mut from = floor;
        for (acked_from, acked_to) in start.acked.iter().copied().chain([(cursor, cursor)]) {
            for offset in from..acked_from.min(cursor) {
                let mut slot = Slot::new(State::Held, 0, 1);
                slot.grace = true;
                group.slots.insert(offset, slot);
                group.slots.arm(offset, until);
            }
            from = from.max(acked_to);
            // Above the cursor lies only what a seek brought back while it was becoming a dead letter.
            group.counted.extend((acked_from.max(cursor)..acked_to).map(|offset| (offset, 0)));
        }
        for (offset, attempts) in start.attempts {
            match group.slots.get_mut(offset) {
                Some(slot) => slot.attempt = attempts.max(1),
                None if offset >= cursor => {
                    group.counted.insert(offset, attempts.max(1));
                }
                None => {}
            }
        }
        for (offset, due_ms) in start.delayed {
            if let Some(slot) = group.slots.get_mut(offset) {
                slot.state = State::Delayed;
                slot.grace = false;
                let left = u64::try_from(due_ms.saturating_sub(now.wall_ms)).unwrap_or(0);
                group.slots.arm(offset, now.mono_ms.saturating_add(left));
            }
        }
        for offset in start.moving {
            if offset < floor {
                continue;
            }
            let attempt = group.slots.get(offset).map(|slot| slot.attempt).or(group.counted.get(&offset).copied());
            group.slots.insert(offset, Slot::new(State::Moving, 0, attempt.unwrap_or(1)));
            group.outgoing.insert(offset);
            if offset >= cursor {
                group.counted.insert(offset, 0);
            }
        }
        group.enter_all();
        group
    }

    /// Enters every begun message under its key, in order: at once where all count as one, else
    /// as the batches come in (`unlearned`).
    fn enter_all(&mut self) {
        self.keys.clear();
        self.unlearned.clear();
        if self.mode != Mode::Key {
            return;
        }
        let begun = self.slots.select(|_, slot| !slot.state.has_left());
        match self.rules.ordering {
            Ordering::Total => begun.into_iter().for_each(|offset| self.enter(offset, TOTAL)),
            Ordering::Key => {
                self.unlearned = begun;
                self.unlearned.reverse();
            }
        }
    }

    /// Learns the keys of begun messages whose batches are at hand.
    pub fn learn(&mut self) {
        while let Some(offset) = self.unlearned.last().copied() {
            if self.slots.get(offset).is_some_and(|slot| !slot.state.has_left()) {
                let Some(cached) = self.batches.at(offset) else { return };
                let index = offset - cached.batch.base_offset();
                let key = cached.keys.get(index as usize).copied().unwrap_or_default();
                self.enter(offset, key);
            }
            self.unlearned.pop();
        }
    }

    /// Enters a begun message under its key. One that is not out, and not at the head, is parked.
    fn enter(&mut self, offset: Offset, key: u64) {
        let at_head = self.keys.enter(key, offset);
        let Some(slot) = self.slots.get_mut(offset) else { return };
        slot.key = key;
        if !at_head && matches!(slot.state, State::Held | State::Again | State::Preparing | State::Ready) {
            self.unlist(offset);
            if let Some(slot) = self.slots.get_mut(offset) {
                slot.state = State::Parked;
            }
        }
    }

    /// The topic's configuration changed.
    pub fn change_rules(&mut self, rules: Rules) {
        let reordered = self.rules.ordering != rules.ordering;
        self.rules = rules;
        if reordered && self.mode == Mode::Key {
            // Parked messages wait for a line that is no more: all enter anew.
            self.keys.clear();
            for offset in self.slots.select(|_, slot| slot.state == State::Parked) {
                self.promote(offset);
            }
            self.enter_all();
        }
    }
}
