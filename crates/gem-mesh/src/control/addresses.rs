//! Where nodes were last known to listen.
//!
//! What it is not: it proves nothing, TLS does. A wrong address costs a dial.
//!
//! Invariant: at most [`ADDRESSES_MAX`] nodes, whatever the churn; the one learnt of longest ago
//! makes room.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gem_types::NodeId;

use crate::membership::Member;

/// The most nodes whose addresses are kept.
pub const ADDRESSES_MAX: usize = 4096;

/// A node and where it listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Known {
    /// The node.
    pub node: NodeId,
    /// Where its control swarm listens.
    pub control: SocketAddr,
    /// Where its bulk links listen, where that is known.
    pub bulk: Option<SocketAddr>,
}

/// An address book in memory, shared by both planes.
#[derive(Debug, Default)]
pub struct Addresses {
    book: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    nodes: HashMap<NodeId, Entry>,
    learnt: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    known: Known,
    /// Which of all lessons was the last about it.
    learnt: u64,
}

impl Addresses {
    /// `node`'s control swarm listens at `control`; what is known of its bulk links stays.
    pub fn learn(&self, node: NodeId, control: SocketAddr) {
        self.lock().learn(node, control, None);
    }

    /// Both of a member's addresses.
    pub fn learn_member(&self, member: &Member) {
        self.lock().learn(member.node, member.control, Some(member.bulk));
    }

    /// As a book tells it.
    pub fn learn_known(&self, known: Known) {
        self.lock().learn(known.node, known.control, known.bulk);
    }

    /// As [`Addresses::learn`], unless something is known already: for sources that know less than
    /// membership does.
    pub(super) fn learn_if_unknown(&self, node: NodeId, control: SocketAddr) {
        let mut entries = self.lock();
        if !entries.nodes.contains_key(&node) {
            entries.learn(node, control, None);
        }
    }

    /// Nothing is known of `node` any more.
    pub fn forget(&self, node: NodeId) {
        self.lock().nodes.remove(&node);
    }

    /// Where `node`'s control swarm listens.
    pub fn control_address(&self, node: NodeId) -> Option<SocketAddr> {
        self.lock().nodes.get(&node).map(|entry| entry.known.control)
    }

    /// At most `most` nodes, those learnt of last before the others.
    pub fn newest(&self, most: usize) -> Vec<Known> {
        let mut entries: Vec<Entry> = self.lock().nodes.values().copied().collect();
        entries.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.learnt));
        entries.into_iter().take(most).map(|entry| entry.known).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // Every change is whole before the lock opens: a panic elsewhere leaves it usable.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl crate::bulk::Addresses for Addresses {
    fn bulk_address(&self, node: NodeId) -> Option<SocketAddr> {
        self.lock().nodes.get(&node).and_then(|entry| entry.known.bulk)
    }
}

impl Entries {
    fn learn(&mut self, node: NodeId, control: SocketAddr, bulk: Option<SocketAddr>) {
        self.learnt += 1;
        let learnt = self.learnt;
        if let Some(entry) = self.nodes.get_mut(&node) {
            let bulk = bulk.or(entry.known.bulk);
            *entry = Entry { known: Known { node, control, bulk }, learnt };
            return;
        }
        if self.nodes.len() >= ADDRESSES_MAX {
            let oldest = self.nodes.iter().min_by_key(|(_, entry)| entry.learnt).map(|(node, _)| *node);
            oldest.map(|node| self.nodes.remove(&node));
        }
        self.nodes.insert(node, Entry { known: Known { node, control, bulk }, learnt });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bulk::Addresses as _;

    fn node(number: u64) -> NodeId {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.to_be_bytes());
        NodeId(id)
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn what_is_learnt_last_counts_and_bulk_stays() {
        let book = Addresses::default();
        book.learn_known(Known { node: node(1), control: address(1), bulk: Some(address(2)) });
        book.learn(node(1), address(3));
        assert_eq!((book.control_address(node(1)), book.bulk_address(node(1))), (Some(address(3)), Some(address(2))));
        book.learn_if_unknown(node(1), address(4));
        book.learn_if_unknown(node(2), address(5));
        assert_eq!(book.control_address(node(1)), Some(address(3)));
        assert_eq!(book.newest(1), [Known { node: node(2), control: address(5), bulk: None }]);
        book.forget(node(1));
        assert_eq!(book.control_address(node(1)), None);
    }

    #[test]
    fn the_oldest_make_room() {
        let book = Addresses::default();
        let most = ADDRESSES_MAX as u64;
        for number in 0..most {
            book.learn(node(number), address(1));
        }
        book.learn(node(0), address(2));
        for number in most..most + 10 {
            book.learn(node(number), address(1));
        }
        assert_eq!(book.newest(usize::MAX).len(), ADDRESSES_MAX);
        assert!(book.control_address(node(0)).is_some(), "it was learnt again");
        assert!((1..11).all(|number| book.control_address(node(number)).is_none()));
    }
}
