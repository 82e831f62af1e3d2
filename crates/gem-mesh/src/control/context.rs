//! What the plane, its driver and its tasks share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use gem_types::seams::Random;
use gem_types::{MeshId, NodeId};
use tokio_util::sync::CancellationToken;

use super::addresses::Addresses;
use super::handshake::Hello;
use super::joined::Hosts;
use super::outbox::Outboxes;
use super::secret::Secret;
use crate::runs::RunBook;
use crate::seams::Hears;

/// The stream protocol of control messages.
pub(super) const CONTROL: &str = "/gem/control/1";

/// See the module.
pub(super) struct Context {
    pub(super) me: NodeId,
    pub(super) mesh: MeshId,
    pub(super) secret: Secret,
    pub(super) random: Arc<dyn Random>,
    pub(super) addresses: Arc<Addresses>,
    pub(super) runs: Arc<RunBook>,
    pub(super) hears: Arc<dyn Hears>,
    pub(super) hosts: Arc<dyn Hosts>,
    pub(super) outboxes: Outboxes,
    /// Proved streams by node: only the driver changes it, at most two a connection.
    pub(super) proved: Mutex<BTreeMap<NodeId, u32>>,
    pub(super) stop: CancellationToken,
}

impl Context {
    /// What this node brings to a hello on a stream of `protocol`.
    pub(super) fn hello(&self, protocol: &'static str, them: NodeId) -> Hello<'_> {
        let mut nonce = [0; 32];
        self.random.fill(&mut nonce);
        let mesh = (protocol == CONTROL).then_some(self.mesh);
        Hello { protocol, me: self.me, them, mesh, secret: &self.secret, nonce }
    }

    /// A proved stream with `node` began, or ended.
    pub(super) fn count_proved(&self, node: NodeId, change: i32) {
        let mut proved = self.proved.lock().unwrap_or_else(PoisonError::into_inner);
        let count = proved.entry(node).or_default();
        *count = count.saturating_add_signed(change);
        if *count == 0 {
            proved.remove(&node);
        }
    }
}
