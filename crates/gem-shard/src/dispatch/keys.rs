//! Which message of a key is next: for mode `key`.
//!
//! A key has an entry while any of its messages is begun and not finished. The head is the one
//! that may be out; the others are parked behind it in offset order.

use std::collections::VecDeque;
use std::hash::Hasher;

use gem_types::Offset;
use gem_types::batch::RecordBatch;
use siphasher::sip::SipHasher13;

use super::leases::OffsetMap;

/// The key of messages that wait for none.
pub(super) const NO_KEY: u64 = 0;
/// The one key of all messages under `ordering=total`.
pub(super) const TOTAL: u64 = 1;

#[derive(Debug)]
struct Line {
    head: Offset,
    parked: VecDeque<Offset>,
}

/// The keys of a group's begun messages.
#[derive(Debug, Default)]
pub(super) struct Keys {
    lines: OffsetMap<Line>,
    parked: usize,
}

impl Keys {
    /// Whether a message of that key would have to wait.
    pub fn is_taken(&self, key: u64) -> bool {
        key != NO_KEY && self.lines.contains_key(&key)
    }

    /// Enters a message; whether it is at its key's head. Messages of a key are entered in order.
    pub fn enter(&mut self, key: u64, offset: Offset) -> bool {
        if key == NO_KEY {
            return true;
        }
        match self.lines.entry(key) {
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(Line { head: offset, parked: VecDeque::new() });
                true
            }
            std::collections::hash_map::Entry::Occupied(mut entry) => {
                entry.get_mut().parked.push_back(offset);
                self.parked += 1;
                false
            }
        }
    }

    /// Whether the message is at its key's head.
    pub fn is_head(&self, key: u64, offset: Offset) -> bool {
        key == NO_KEY || self.lines.get(&key).is_none_or(|line| line.head == offset)
    }

    /// The message is finished, or has left dispatch; answers the one that is at the head now, if
    /// that changed.
    pub fn leave(&mut self, key: u64, offset: Offset) -> Option<Offset> {
        let line = self.lines.get_mut(&key)?;
        if line.head != offset {
            let before = line.parked.len();
            line.parked.retain(|parked| *parked != offset);
            self.parked -= before - line.parked.len();
            return None;
        }
        match line.parked.pop_front() {
            Some(next) => {
                line.head = next;
                self.parked -= 1;
                Some(next)
            }
            None => {
                self.lines.remove(&key);
                None
            }
        }
    }

    pub fn clear(&mut self) {
        self.lines.clear();
        self.parked = 0;
    }

    /// What the table holds in memory, about.
    pub fn bytes(&self) -> usize {
        self.lines.capacity() * (size_of::<(u64, Line)>() + 1) + 8 * self.parked
    }
}

/// Hashes keys under a secret, so that nobody makes keys that collide. Keys that collide all the
/// same wait for each other, which is slower and still in order.
#[derive(Clone, Debug)]
pub(super) struct KeyHasher(SipHasher13);

impl KeyHasher {
    pub fn new(key: &[u8; 16]) -> Self {
        KeyHasher(SipHasher13::new_with_key(key))
    }

    fn hash(&self, key: &[u8]) -> u64 {
        let mut hasher = self.0;
        hasher.write(key);
        // 0 and 1 have a meaning of their own.
        hasher.finish().max(2)
    }

    /// The keys of a batch's records. Records that can't be read count as without a key; stored
    /// batches were checked, so there are none.
    pub fn of_batch(&self, batch: &RecordBatch) -> Box<[u64]> {
        let plain = batch.uncompressed().unwrap_or_else(|_| batch.clone());
        let mut keys: Vec<u64> =
            plain.scan().map_while(Result::ok).map(|record| record.key.map_or(NO_KEY, |key| self.hash(key))).collect();
        keys.resize(batch.count() as usize, NO_KEY);
        keys.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_a_key_go_one_by_one() {
        let mut keys = Keys::default();
        assert!(keys.enter(7, 1));
        assert!(!keys.enter(7, 2));
        assert!(!keys.enter(7, 3));
        assert!(keys.enter(8, 4));
        assert!(keys.enter(NO_KEY, 5) && keys.enter(NO_KEY, 6));
        assert_eq!(keys.leave(7, 2), None, "a parked one ends out of turn");
        assert_eq!(keys.leave(7, 1), Some(3));
        assert_eq!(keys.leave(7, 3), None);
        assert!(!keys.is_taken(7) && keys.is_taken(8));
    }
}
