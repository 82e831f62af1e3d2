//! How clients come in: each call through a node that is drawn, and lost with that node.

use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use gem_node::mesh::routes::{MeshRouter, MeshRoutes};
use gem_node::shards::Shards;
use gem_shard::Shard;
use gem_shard::log::{Router, ShardLog};
use gem_shard::remote::{Call, Carries, Output, serve};
use gem_types::{Error, Position, Result};
use tokio::sync::Semaphore;

use super::watch::Watch;
use crate::chance::Chance;
use crate::workload::Door;

/// A node that takes clients.
#[derive(Clone)]
pub struct Gate {
    /// Its shards.
    pub shards: Shards,
    /// Its routes.
    pub router: Arc<MeshRouter>,
    /// Closed when it ends.
    pub connections: Arc<Semaphore>,
}

/// All nodes that take clients.
pub struct Gates {
    gates: Mutex<Vec<Gate>>,
    chance: Mutex<Chance>,
    watch: Arc<Watch>,
}

impl Gates {
    /// None yet.
    pub fn new(chance: Chance, watch: Arc<Watch>) -> Arc<Gates> {
        Arc::new(Gates { gates: Mutex::default(), chance: Mutex::new(chance), watch })
    }

    /// These are the nodes that run.
    pub fn set(&self, gates: Vec<Gate>) {
        *self.gates.lock().unwrap_or_else(PoisonError::into_inner) = gates;
    }

    fn all(&self) -> Vec<Gate> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner).clone();
        gates.retain(|gate| !gate.connections.is_closed());
        gates
    }

    fn way(&self, to: Position) -> Option<Way> {
        let gates = self.all();
        let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        chance.pick(&gates).map(|gate| Way { gate: gate.clone(), to })
    }
}

impl Door for Gates {
    fn log(&self, position: Position) -> Option<Arc<dyn ShardLog>> {
        self.way(position).map(|way| Arc::new(way) as Arc<dyn ShardLog>)
    }

    fn logs(&self) -> Vec<Arc<dyn ShardLog>> {
        let gates = self.all();
        let Some(gate) = gates.first() else { return Vec::new() };
        let ways = gate.router.prefixes().into_iter().filter_map(|prefix| self.way(prefix.first()));
        ways.map(|way| Arc::new(way) as Arc<dyn ShardLog>).collect()
    }

    fn replicas(&self) -> Vec<Arc<Shard>> {
        self.all().iter().flat_map(|gate| gate.shards.all()).collect()
    }

    fn observe(&self) {
        self.watch.look(&self.replicas());
    }
}

/// The way of one call through one node.
struct Way {
    gate: Gate,
    to: Position,
}

impl Carries for Way {
    fn carry(&self, call: Call) -> BoxFuture<'_, Result<Output>> {
        async move {
            let log = MeshRoutes(self.gate.router.clone()).route(self.to)?;
            tokio::select! {
                biased;
                // Nobody knows what came of it.
                _ = self.gate.connections.acquire() => Err(Error::internal("the node is gone")),
                made = serve::make(&*log, call) => made,
            }
        }
        .boxed()
    }
}
