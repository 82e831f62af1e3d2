//! The control plane of a node of a mesh, as its owner sees it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use gem_types::seams::Random;
use gem_types::{MeshId, NodeId};
use libp2p::swarm::StreamProtocol;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::addresses::Addresses;
use super::context::{CONTROL, Context};
use super::driver::Driver;
use super::identity::node_of;
use super::joined::{Hosts, JOIN};
use super::outbox::Outboxes;
use super::secret::Secret;
use super::swarm::{self, StartError};
use crate::runs::RunBook;
use crate::seams::{Control, Hears};

/// What a control plane is started with.
pub struct Config {
    /// Where it listens; port 0 stands for any.
    pub listen: SocketAddr,
    /// The node's key: its id is the public half.
    pub key: SigningKey,
    /// The mesh: nodes of another are refused.
    pub mesh: MeshId,
    /// The join secret: nodes that don't prove it are refused.
    pub secret: Secret,
    /// Where to dial the others; proved nodes of which it knows nothing are added.
    pub addresses: Arc<Addresses>,
    /// This node's runs, and those of the nodes it met.
    pub runs: Arc<RunBook>,
    /// For nonces and for the chance in pauses.
    pub random: Arc<dyn Random>,
}

/// A running control swarm. Dropped, it ends at once; [`ControlPlane::stop`] lets it send first.
pub struct ControlPlane {
    context: Arc<Context>,
    address: SocketAddr,
    /// The driver, and nothing else.
    driver: Mutex<JoinSet<()>>,
    /// libp2p's own tasks: they end when the driver has dropped its swarm.
    connections: TaskTracker,
}

impl ControlPlane {
    /// Listens, and begins to take in members: `hears` gets what they send, `hosts` answers nodes
    /// that want to join.
    pub async fn start(
        config: Config,
        hears: Arc<dyn Hears>,
        hosts: Arc<dyn Hosts>,
    ) -> Result<ControlPlane, StartError> {
        let connections = TaskTracker::new();
        let accepts = [StreamProtocol::new(CONTROL), StreamProtocol::new(JOIN)];
        let mut swarm = swarm::build(&config.key, &accepts, &connections)?;
        let address = swarm::listen(&mut swarm, config.listen).await?;
        let context = Arc::new(Context {
            me: node_of(&config.key),
            mesh: config.mesh,
            secret: config.secret,
            random: config.random,
            addresses: config.addresses,
            runs: config.runs,
            hears,
            hosts,
            outboxes: Outboxes::default(),
            proved: Mutex::new(BTreeMap::new()),
            stop: CancellationToken::new(),
        });
        let mut driver = JoinSet::new();
        driver.spawn(Driver::new(swarm, context.clone()).run());
        Ok(ControlPlane { context, address, driver: Mutex::new(driver), connections })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.context.me
    }

    /// Learns where these nodes listen, and connects to them, each once; whom it doesn't reach it
    /// tries again when something is to be sent.
    pub fn connect_known(&self, nodes: &[(NodeId, SocketAddr)]) {
        for (node, address) in nodes.iter().filter(|(node, _)| *node != self.context.me) {
            self.context.addresses.learn(*node, *address);
            self.context.outboxes.want(*node);
        }
    }

    /// Nodes that are connected and have proved themselves, by id.
    pub fn peers(&self) -> Vec<NodeId> {
        self.context.proved.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Messages dropped so far: a queue was full, or its node out of reach.
    pub fn dropped(&self) -> u64 {
        self.context.outboxes.dropped()
    }

    /// Sends what waits for connected nodes, then ends, freeing the address; by force at the
    /// deadline. A second call finds nothing to do.
    pub async fn stop(&self, deadline: Duration) {
        self.context.stop.cancel();
        let mut driver = std::mem::take(&mut *self.driver.lock().unwrap_or_else(PoisonError::into_inner));
        self.connections.close();
        let ending = async {
            while driver.join_next().await.is_some() {}
            self.connections.wait().await;
        };
        if timeout(deadline, ending).await.is_err() {
            warn!("the control plane did not end within {deadline:?}: what it still had to send is lost");
            driver.shutdown().await;
        }
    }
}

impl Control for ControlPlane {
    fn send(&self, to: NodeId, message: Bytes) {
        if to == self.context.me {
            self.context.outboxes.count_dropped(1);
        } else {
            self.context.outboxes.push(to, message);
        }
    }
}
