//! Dead letters: messages that leave a group for its dead-letter topic.
//!
//! Two entries, with a publish between them: *moving* takes a message out of dispatch, *moved*
//! makes it done. Whoever leads publishes what is moving, again after a change of leader; the
//! publish is numbered, so it is stored once. While the dead-letter topic is out of reach the
//! message stays moving, and counts in the group's lag.

use gem_types::Offset;

use super::groups::GroupState;

impl GroupState {
    /// Takes the open messages among `offsets` out of dispatch.
    pub(super) fn take_out(&mut self, offsets: &[Offset], next: Offset) {
        for &offset in offsets {
            if self.is_open(offset, next) {
                self.moving.insert(offset);
                self.delayed.remove(&offset);
                self.touch(offset);
            }
        }
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
