//! What the bulk plane is given: who the node is, and its limits.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use gem_types::{MeshId, NodeId};

use super::frame::DATA_BYTES_MAX;
use crate::runs::RunBook;

/// Who the node is, and where it listens.
#[derive(Clone)]
pub struct BulkConfig {
    /// The node's key; its public half is the node's id.
    pub key: SigningKey,
    /// The mesh that it belongs to: others are refused.
    pub mesh: MeshId,
    /// The join secret: who does not know it is refused.
    pub secret: Vec<u8>,
    /// Where links are taken; port 0 takes a free one.
    pub listen: SocketAddr,
    /// This node's runs, and those of the nodes it met.
    pub runs: Arc<RunBook>,
    /// Bounds.
    pub limits: BulkLimits,
}

impl BulkConfig {
    /// The node's id.
    pub fn node(&self) -> NodeId {
        NodeId(self.key.verifying_key().to_bytes())
    }
}

impl fmt::Debug for BulkConfig {
    /// Without the secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BulkConfig")
            .field("node", &self.node())
            .field("mesh", &self.mesh)
            .field("listen", &self.listen)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Bounds of links. The defaults suit tens of nodes on a fast network.
#[derive(Clone, Debug)]
pub struct BulkLimits {
    /// Links that this node dials to each other one. More use more cores for one pair.
    pub links: usize,
    /// Bytes of parcels that a link takes before it has to grant more: requests until they are
    /// answered, answers until their callers have taken them. One parcel may exceed it.
    pub window_bytes: u64,
    /// Bytes of calls that wait on one link for its window or its connection; beyond, calls are
    /// refused at once.
    pub queue_bytes: u64,
    /// Calls that wait so.
    pub queue_calls: usize,
    /// Bytes of finished answers that wait on one link; answers beyond are dropped, and their
    /// callers told. Larger than what its callers ask for at once.
    pub answer_bytes: u64,
    /// Calls that are open on one link: sent and not answered.
    pub calls: usize,
    /// A parcel is sent in pieces of so many bytes, between which others get their turn.
    pub chunk_bytes: usize,
    /// Within this a connection is there, authenticated, and both have said hello.
    pub hello_wait: Duration,
    /// Who dialled asks for a sign of life so often.
    pub ping_every: Duration,
    /// A link on which nothing came in for so long is dropped; some pings long.
    pub silence_max: Duration,
    /// The wait before a failed dial is repeated: it doubles from the first to the second.
    pub backoff: (Duration, Duration),
    /// A node that no call went to for so long, and that has no link, is forgotten.
    pub forget_after: Duration,
    /// Incoming connections that have not said hello yet; more are closed at once.
    pub handshakes: usize,
    /// Links that one other node may hold to this one.
    pub accepted_each: usize,
    /// Links that all others together may hold.
    pub accepted: usize,
    /// Links to other nodes, there or wanted.
    pub dialled: usize,
}

impl Default for BulkLimits {
    fn default() -> Self {
        BulkLimits {
            links: 2,
            window_bytes: 16 << 20,
            queue_bytes: 128 << 20,
            queue_calls: 65_536,
            answer_bytes: 64 << 20,
            calls: 4096,
            chunk_bytes: 256 << 10,
            hello_wait: Duration::from_secs(5),
            ping_every: Duration::from_secs(2),
            silence_max: Duration::from_secs(6),
            backoff: (Duration::from_millis(50), Duration::from_secs(2)),
            forget_after: Duration::from_secs(60),
            handshakes: 64,
            accepted_each: 16,
            accepted: 4096,
            dialled: 4096,
        }
    }
}

impl BulkLimits {
    /// With values that would never let anything through raised to the least that does.
    pub(super) fn usable(mut self) -> Self {
        self.links = self.links.clamp(1, 64);
        self.window_bytes = self.window_bytes.max(1);
        self.calls = self.calls.clamp(1, u32::MAX as usize);
        self.chunk_bytes = self.chunk_bytes.clamp(1024, DATA_BYTES_MAX);
        self.ping_every = self.ping_every.max(Duration::from_millis(10));
        self.silence_max = self.silence_max.max(2 * self.ping_every);
        self
    }
}
