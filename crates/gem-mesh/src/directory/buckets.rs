//! The nodes that a node knows, many near it and few far away: Kademlia's k-buckets (Maymounkov and
//! Mazières, IPTPS 2002, section 2.2).
//!
//! Invariants: at most [`K`] contacts a bucket; a contact that still answers is never displaced by
//! a new one: nodes that have lived long live longer.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use gem_types::NodeId;
use serde::{Deserialize, Serialize};

use super::key::Key;

/// The size of a bucket, and the number of nodes that hold a record.
pub const K: usize = 20;
/// After so many calls in a row without an answer a contact is given up.
const FAILURES_MAX: u8 = 2;

/// A node and where its control swarm listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Contact {
    /// Its id.
    pub node: NodeId,
    /// Where it listens, as it said or as others said.
    pub control: SocketAddr,
}

impl Contact {
    /// Where it stands.
    pub fn key(&self) -> Key {
        Key::of_node(self.node)
    }
}

#[derive(Debug)]
struct Known {
    contact: Contact,
    key: Key,
    failures: u8,
}

impl Known {
    fn new(contact: Contact) -> Self {
        Known { contact, key: contact.key(), failures: 0 }
    }
}

#[derive(Debug, Default)]
struct Bucket {
    /// The one heard from longest ago first.
    contacts: VecDeque<Known>,
    /// The last that found no room: it enters when the first fails.
    waiting: Option<Contact>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Buckets {
    me: Key,
    buckets: BTreeMap<u8, Bucket>,
}

impl Buckets {
    pub(super) fn new(me: Key) -> Self {
        Buckets { me, buckets: BTreeMap::new() }
    }

    /// Takes note that `contact` lives. Where its bucket is full, returns whom to ping: the one
    /// heard from longest ago.
    pub(super) fn seen(&mut self, contact: Contact) -> Option<Contact> {
        let bucket = self.bucket(contact.node)?;
        let known = bucket.contacts.iter().position(|k| k.contact.node == contact.node);
        if let Some(at) = known {
            bucket.contacts.remove(at);
        } else if bucket.contacts.len() >= K {
            let is_first = bucket.waiting.replace(contact).is_none();
            return bucket.contacts.front().map(|k| k.contact).filter(|_| is_first);
        }
        bucket.contacts.push_back(Known::new(contact));
        // The one that was pinged for the waiting one's sake has answered.
        if known == Some(0) {
            bucket.waiting = None;
        }
        None
    }

    /// Takes note that `node` did not answer.
    pub(super) fn failed(&mut self, node: NodeId) {
        let Some(bucket) = self.bucket(node) else { return };
        let Some(at) = bucket.contacts.iter().position(|k| k.contact.node == node) else { return };
        let Some(known) = bucket.contacts.get_mut(at) else { return };
        known.failures += 1;
        if known.failures >= FAILURES_MAX || bucket.waiting.is_some() {
            self.remove(node);
        }
    }

    /// Gives `node` up; who waited for a place takes it.
    pub(super) fn remove(&mut self, node: NodeId) {
        let Some(bucket) = self.bucket(node) else { return };
        bucket.waiting = bucket.waiting.filter(|c| c.node != node);
        if let Some(at) = bucket.contacts.iter().position(|k| k.contact.node == node) {
            bucket.contacts.remove(at);
            bucket.contacts.extend(bucket.waiting.take().map(Known::new));
        }
        self.buckets.retain(|_, bucket| !bucket.contacts.is_empty());
    }

    /// The `count` known contacts that are nearest to `key`, nearest first.
    pub(super) fn closest(&self, key: &Key, count: usize) -> Vec<Contact> {
        let all = self.buckets.values().flat_map(|b| &b.contacts);
        let mut all: Vec<_> = all.map(|k| (k.key.distance(key), k.contact)).collect();
        all.sort_unstable_by_key(|(distance, _)| *distance);
        all.into_iter().take(count).map(|(_, c)| c).collect()
    }

    /// The index of the nearest bucket that is not empty.
    pub(super) fn deepest(&self) -> Option<u8> {
        self.buckets.keys().next_back().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.buckets.values().map(|b| b.contacts.len()).sum()
    }

    /// The bucket of `node`; none for this node itself.
    fn bucket(&mut self, node: NodeId) -> Option<&mut Bucket> {
        let index = Key::of_node(node).distance(&self.me).bucket()?;
        Some(self.buckets.entry(index).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contact(n: u64) -> Contact {
        let mut node = NodeId::default();
        node.0[..8].copy_from_slice(&n.to_be_bytes());
        Contact { node, control: ([127, 0, 0, 1], 1).into() }
    }

    /// Contacts of the far half, which share one bucket.
    fn far(me: Key, count: usize) -> Vec<Contact> {
        (0..).map(contact).filter(|c| c.key().distance(&me).bucket() == Some(0)).take(count).collect()
    }

    #[test]
    fn a_full_bucket_asks_the_oldest_first() {
        let me = Key([0; 32]);
        let mut buckets = Buckets::new(me);
        let nodes = far(me, K + 2);
        for c in &nodes[..K] {
            assert_eq!(buckets.seen(*c), None);
        }
        assert_eq!(buckets.seen(nodes[K]), Some(nodes[0]), "the oldest is pinged");
        assert_eq!(buckets.seen(nodes[K + 1]), None, "one ping at a time");
        assert_eq!(buckets.seen(nodes[0]), None);
        assert_eq!(buckets.len(), K);
        assert!(!buckets.closest(&me, 100).contains(&nodes[K + 1]), "it answered: it stays");
        assert_eq!(buckets.seen(nodes[K]), Some(nodes[1]), "now that one is the oldest");
        buckets.failed(nodes[1].node);
        let known = buckets.closest(&me, 100);
        assert!(known.contains(&nodes[K]) && !known.contains(&nodes[1]));
    }

    #[test]
    fn one_lost_answer_is_forgiven() {
        let me = Key([0; 32]);
        let mut buckets = Buckets::new(me);
        buckets.seen(contact(1));
        buckets.failed(contact(1).node);
        buckets.seen(contact(1));
        buckets.failed(contact(1).node);
        assert_eq!(buckets.len(), 1);
        buckets.failed(contact(1).node);
        assert_eq!((buckets.len(), buckets.deepest()), (0, None));
    }
}
