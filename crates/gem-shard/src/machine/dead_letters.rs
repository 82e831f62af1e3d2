//! Dead letters: messages that leave a group for its dead-letter topic.
//!
//! Two entries, with a publish between them: *moving* takes a message out of dispatch, *moved*
//! makes it done. Whoever leads publishes what is moving, again after a change of leader; the
//! publish bears the number of the move under a producer of the group's own, which never expires
//! (see [`is_internal`](super::is_internal)), so it is stored once. While the dead-letter topic is
//! out of reach the message stays moving, and counts in the group's lag.

use gem_types::Offset;

use super::groups::GroupState;

impl GroupState {
    /// Takes the open messages among `offsets` out of dispatch.
    pub(super) fn take_out(&mut self, offsets: &[Offset], next: Offset) {
        for &offset in offsets {
            if self.is_open(offset, next) {
                let number = &mut self.moves;
                self.moving.entry(offset).or_insert_with(|| {
                    *number += 1;
                    *number
                });
                self.delayed.remove(&offset);
                self.touch(offset);
            }
        }
    }

    /// The number of the move of `offset`, and the lowest of those under way: all below it are done.
    /// `None` where the message is not moving.
    pub fn move_of(&self, offset: Offset) -> Option<(u64, u64)> {
        let number = *self.moving.get(&offset)?;
        Some((number, self.moving.values().min().copied().unwrap_or(number)))
    }

    /// Makes the open messages among `offsets` done, as dead letters. One that was acked in the
    /// meantime, or lies below the floor, is not counted.
    pub(super) fn bury(&mut self, offsets: &[Offset], next: Offset) {
        for &offset in offsets {
            if offset < next {
                self.dead_lettered += self.finish(offset..offset + 1);
            }
        }
    }
}
