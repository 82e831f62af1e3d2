//! What a node tells the others of itself.

use std::net::SocketAddr;

use gem_types::{Incarnation, NodeId, ReplicaId};
use serde::{Deserialize, Serialize};

/// A node, as it introduces itself. Changes only with a new `run`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Its id: its public key.
    pub node: NodeId,
    /// The life of its disk.
    pub incarnation: Incarnation,
    /// Rises with every start of its process and with every refutation: a higher one is newer.
    pub run: u64,
    /// Where its control swarm listens.
    pub control: SocketAddr,
    /// Where its bulk links listen.
    pub bulk: SocketAddr,
    /// Where clients reach it: a URL.
    pub http: String,
    /// The zone that it is in; empty where none was given.
    pub zone: String,
    /// What people call it; empty where no name was given.
    pub name: String,
    /// Whether it is being emptied: it takes no new replicas, and gives away what it has.
    pub is_draining: bool,
}

impl Member {
    /// Its replica in every shard.
    pub fn replica(&self) -> ReplicaId {
        ReplicaId { node: self.node, incarnation: self.incarnation }
    }
}

/// How loaded a node is: gossiped with a version, and only ever a hint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Rises with every digest of this run.
    pub version: u64,
    /// Busy cores, in thousandths of what the machine has.
    pub cpu_permille: u16,
    /// Memory planned with and held, and its limit, in bytes.
    pub memory_bytes: u64,
    /// See `memory_bytes`.
    pub memory_limit: u64,
    /// Bytes that GEM holds on the disk.
    pub disk_bytes: u64,
    /// Bytes that may yet be written before publishes are refused.
    pub disk_free: u64,
    /// Replicas that it holds, and how many of them it leads.
    pub replicas: u32,
    /// See `replicas`.
    pub leaders: u32,
    /// Bytes that wait for the journal.
    pub queue_bytes: u64,
    /// Bytes published to the shards that it leads, a second, over the last ten.
    pub publish_rate: u64,
    /// Whether its disk refuses publishes.
    pub is_disk_full: bool,
}
