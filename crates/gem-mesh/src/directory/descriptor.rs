//! What a node tells others of a shard.

use gem_types::{GroupId, NodeId, Position, Prefix, ReplicaId};
use serde::{Deserialize, Serialize};

/// A replica of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Seat {
    /// The node and its disk's life.
    pub replica: ReplicaId,
    /// Whether it votes; a learner does not.
    pub is_voter: bool,
}

/// A shard, as one of its replicas saw it. A hint: whoever follows an old one is told a newer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Descriptor {
    /// The part of the ring that it holds.
    pub prefix: Prefix,
    /// Its Raft group, an id that is never used again.
    pub group: GroupId,
    /// The index of the entry of the group's log that set its members and its range: a higher one
    /// is newer.
    pub epoch: u64,
    /// Its replicas, in order.
    pub seats: Vec<Seat>,
    /// Who leads it, where that is known.
    pub leader: Option<NodeId>,
    /// The term in which that was so.
    pub term: u64,
}

impl Descriptor {
    /// Whether this replaces `other`, of the same group.
    pub fn is_newer_than(&self, other: &Descriptor) -> bool {
        let rank = |d: &Descriptor| (d.epoch, d.term, d.leader.is_some());
        rank(self) > rank(other)
    }

    /// Whether it holds `position`.
    pub fn holds(&self, position: Position) -> bool {
        self.prefix.contains(position)
    }
}
