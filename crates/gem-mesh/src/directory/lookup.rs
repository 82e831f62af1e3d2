//! One iterative lookup: asks the nearest nodes it knows for nearer ones, a few at a time, until
//! the nearest [`K`] that live have answered (Kademlia, section 2.3).
//!
//! Invariant: ends after at most [`ASKED_MAX`] calls, whatever others answer.

use std::collections::BTreeMap;

use gem_types::NodeId;

use super::buckets::{Contact, K};
use super::key::{Distance, Key};

/// How many calls of a lookup are under way at once.
pub const ALPHA: usize = 3;
/// The most nodes that one lookup asks.
pub const ASKED_MAX: usize = 256;
/// The most nodes that one lookup remembers.
const CANDIDATES_MAX: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    New,
    Asked,
    Answered,
    Failed,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lookup {
    target: Key,
    me: NodeId,
    candidates: BTreeMap<Distance, (Contact, Progress)>,
    asked: usize,
    under_way: usize,
}

impl Lookup {
    pub(super) fn new(target: Key, me: NodeId, start: Vec<Contact>) -> Self {
        let mut lookup = Lookup { target, me, candidates: BTreeMap::new(), asked: 0, under_way: 0 };
        lookup.add(start);
        lookup
    }

    pub(super) fn target(&self) -> Key {
        self.target
    }

    /// Whom to ask now; none while enough are asked, or when it is over.
    pub(super) fn next(&mut self) -> Option<Contact> {
        if self.under_way >= ALPHA || self.asked >= ASKED_MAX {
            return None;
        }
        let living = self.candidates.values_mut().filter(|(_, p)| *p != Progress::Failed).take(K);
        let (contact, progress) = living.into_iter().find(|(_, p)| *p == Progress::New)?;
        *progress = Progress::Asked;
        self.asked += 1;
        self.under_way += 1;
        Some(*contact)
    }

    /// `node` answered, and named `nearer`.
    pub(super) fn answered(&mut self, node: NodeId, nearer: Vec<Contact>) {
        self.ends(node, Progress::Answered);
        self.add(nearer);
    }

    /// `node` did not answer.
    pub(super) fn failed(&mut self, node: NodeId) {
        self.ends(node, Progress::Failed);
    }

    /// Whether there is nothing left to ask, nor to wait for.
    pub(super) fn is_done(&self) -> bool {
        let nearest = self.candidates.values().filter(|(_, p)| *p != Progress::Failed).take(K);
        let is_settled = nearest.into_iter().all(|(_, p)| *p == Progress::Answered);
        is_settled || (self.under_way == 0 && self.asked >= ASKED_MAX)
    }

    /// The nearest that answered, nearest first.
    pub(super) fn closest(&self) -> Vec<Contact> {
        let answered = self.candidates.values().filter(|(_, p)| *p == Progress::Answered);
        answered.take(K).map(|(c, _)| *c).collect()
    }

    fn ends(&mut self, node: NodeId, progress: Progress) {
        let distance = Key::of_node(node).distance(&self.target);
        if let Some((_, asked)) = self.candidates.get_mut(&distance).filter(|(_, p)| *p == Progress::Asked) {
            *asked = progress;
            self.under_way -= 1;
        }
    }

    fn add(&mut self, contacts: Vec<Contact>) {
        for contact in contacts.into_iter().filter(|c| c.node != self.me) {
            let distance = contact.key().distance(&self.target);
            self.candidates.entry(distance).or_insert((contact, Progress::New));
        }
        while self.candidates.len() > CANDIDATES_MAX {
            // The farthest go, but for those whose answers are awaited.
            let Some(mut last) = self.candidates.last_entry() else { break };
            if last.get_mut().1 == Progress::Asked {
                break;
            }
            last.remove();
        }
    }
}
