//! News on its way to all members: each is sent a few times, to members drawn at random, and then
//! dropped (Demers et al., *Epidemic algorithms for replicated database maintenance*, 1987).
//!
//! The SWIM library can carry broadcasts itself; its queue has no bound and takes linear time, so
//! they travel beside its packets instead.
//!
//! Invariants: one rumour a subject, the newest; at most [`RUMOURS_MAX`]. Whoever missed one hears
//! of it by the exchange of tables, or by the next digest.

use std::collections::{BTreeMap, BTreeSet};

use gem_types::{GroupId, NodeId};

use super::wire::Rumour;

/// The most rumours in the queue; beyond, the one that was sent most often is dropped.
pub const RUMOURS_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Left(NodeId),
    Shard(GroupId),
    Load(NodeId),
}

#[derive(Debug)]
struct Waiting {
    rumour: Rumour,
    size: usize,
    turn: (u32, u64),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Rumours {
    waiting: BTreeMap<Subject, Waiting>,
    /// Those sent least often first; among them, in the order in which they came.
    turns: BTreeMap<(u32, u64), Subject>,
    next: u64,
}

impl Rumours {
    /// Queues `rumour` in place of an older one of the same subject.
    pub(super) fn add(&mut self, rumour: Rumour) {
        let subject = match &rumour {
            Rumour::Left { node, .. } => Subject::Left(*node),
            Rumour::Shard(descriptor) => Subject::Shard(descriptor.group),
            Rumour::Load { node, .. } => Subject::Load(*node),
        };
        if let Some(old) = self.waiting.remove(&subject) {
            self.turns.remove(&old.turn);
        } else if self.waiting.len() >= RUMOURS_MAX
            && let Some((_, subject)) = self.turns.pop_last()
        {
            self.waiting.remove(&subject);
        }
        let turn = (0, self.next);
        self.next += 1;
        self.turns.insert(turn, subject);
        self.waiting.insert(subject, Waiting { size: rumour.size(), rumour, turn });
    }

    /// Takes what fits into `room` bytes for one message; drops what has then been sent `times`
    /// times.
    pub(super) fn take(&mut self, mut room: usize, times: u32) -> Vec<Rumour> {
        let mut out = Vec::new();
        let mut seen = BTreeSet::new();
        while let Some((&turn, &subject)) = self.turns.iter().find(|(_, s)| !seen.contains(*s)) {
            let Some(waiting) = self.waiting.get_mut(&subject).filter(|w| w.size <= room) else { break };
            room -= waiting.size;
            out.push(waiting.rumour.clone());
            seen.insert(subject);
            self.turns.remove(&turn);
            if turn.0 + 1 >= times {
                self.waiting.remove(&subject);
            } else {
                waiting.turn = (turn.0 + 1, turn.1);
                self.turns.insert(waiting.turn, subject);
            }
        }
        out
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::Load;

    fn load(n: u64, version: u64) -> Rumour {
        let mut node = NodeId::default();
        node.0[..8].copy_from_slice(&n.to_be_bytes());
        Rumour::Load { node, run: 1, load: Load { version, ..Load::default() } }
    }

    #[test]
    fn each_is_sent_so_often_and_a_newer_one_replaces_it() {
        let mut rumours = Rumours::default();
        rumours.add(load(1, 1));
        rumours.add(load(2, 1));
        rumours.add(load(1, 2));
        assert_eq!(rumours.take(1000, 2), [load(2, 1), load(1, 2)]);
        assert_eq!(rumours.take(load(2, 1).size(), 2), [load(2, 1)]);
        assert_eq!(rumours.take(1000, 2), [load(1, 2)]);
        assert!(rumours.is_empty() && rumours.turns.is_empty());
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut rumours = Rumours::default();
        for n in 0..2 * RUMOURS_MAX as u64 {
            rumours.add(load(n, 1));
            if n == 10 {
                rumours.take(1 << 20, 5);
            }
        }
        assert_eq!((rumours.waiting.len(), rumours.turns.len()), (RUMOURS_MAX, RUMOURS_MAX));
    }
}
