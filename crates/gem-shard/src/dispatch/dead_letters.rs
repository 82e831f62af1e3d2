//! Dead letters: `moving` is logged, then the message is published to the group's dead-letter
//! topic, then `moved` is logged. While that topic is out of reach it stays `moving`, and shows.

use gem_types::{Error, Offset};

use super::actions::Action;
use super::group::{Ctx, Group};
use super::leases::State;

/// The most messages of a group that are with the publisher at once.
const PUBLISHING_MAX: usize = 16;
/// How long a publish that failed waits before the next try, in milliseconds.
const RETRY_MS: u64 = 1_000;

impl Group {
    /// Hands messages that have left dispatch to the publisher.
    pub fn publish_dead_letters(&mut self, ctx: &mut Ctx<'_>) {
        let mut after = 0;
        while self.publishing < PUBLISHING_MAX {
            let Some(offset) = self.outgoing.range(after..).next().copied() else { return };
            after = offset + 1;
            let Some(slot) = self.slots.get(offset) else { continue };
            let Some(cached) = self.batches.at(offset) else { continue };
            let Some(index) = cached.batch.index_of(offset) else { continue };
            ctx.out.push(Action::DeadLetter {
                group: self.group.clone(),
                offset,
                deliveries: slot.attempt,
                batch: cached.batch.clone(),
                index,
            });
            self.outgoing.remove(&offset);
            self.publishing += 1;
        }
    }

    /// The publisher is done with a message, or failed.
    pub fn dead_lettered(&mut self, ctx: &Ctx<'_>, offset: Offset, result: Result<(), Error>) {
        let Some(slot) = self.slots.get_mut(offset) else { return };
        if slot.state != State::Moving || self.outgoing.contains(&offset) {
            return;
        }
        match result {
            Ok(()) => {
                self.publishing = self.publishing.saturating_sub(1);
                slot.state = State::Left;
                self.pipeline.building.moved.push(offset);
            }
            // Its timer returns it to `outgoing`.
            Err(_) => self.slots.arm(offset, ctx.ms().saturating_add(RETRY_MS)),
        }
    }
}
