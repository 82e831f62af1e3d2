//! The gateway: the one internal API beneath REST and gRPC.
//!
//! It checks what clients send, finds partitions, and speaks to shards through
//! [`ShardLog`] and [`Router`] alone. It keeps nothing that must survive: a cache of topics, which
//! is a hint, and what is in flight.

pub mod admin;
pub mod admission;
pub mod cursor;
pub mod dead_letters;
pub mod deliver;
pub mod groups;
pub mod ids;
pub mod limits;
pub mod mesh;
pub mod prepare;
pub mod producers;
pub mod publish;
pub mod read;
pub mod start;
pub mod subscribe;
pub mod topics;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use gem_shard::log::{Router, ShardLog};
use gem_store::budget::Budget;
use gem_types::limits::Limits;
use gem_types::seams::{Clock, Random};
use gem_types::{Error, PartitionId, Result, TopicName};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::tasks::Tasks;
use admission::Admission;
use topics::Topics;

/// What a gateway is set to.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// What clients may send.
    pub limits: Limits,
    /// Whether a publish or a pull makes its topic.
    pub auto_create_topics: bool,
    /// How long a publish may take before its outcome counts as unknown.
    pub publish_deadline: Duration,
    /// How long a publisher is slowed, and a shard that cannot serve is asked again, before the
    /// client hears of it.
    pub patience: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            limits: Limits::default(),
            auto_create_topics: true,
            publish_deadline: Duration::from_secs(30),
            patience: Duration::from_secs(5),
        }
    }
}

/// See the module's page. Shared by all connections.
pub struct Gateway {
    pub(crate) router: Arc<dyn Router>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) settings: Settings,
    pub(crate) topics: Topics,
    /// Takes memory for requests.
    pub admission: Admission,
    /// What has been counted.
    pub metrics: Arc<Metrics>,
    /// Ends waits and streams: set when the node drains.
    pub draining: CancellationToken,
    /// Owns the tasks of streams and of their ends; the node waits for it.
    pub tasks: Tasks,
    /// Absent until the node has come up.
    mesh: OnceLock<Arc<dyn mesh::MeshAdmin>>,
}

impl Gateway {
    /// A gateway over `router`.
    pub fn new(
        router: Arc<dyn Router>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        settings: Settings,
        metrics: Arc<Metrics>,
        budget: Budget,
    ) -> Self {
        Gateway {
            router,
            clock,
            random,
            settings,
            topics: Topics::new(metrics.clone()),
            admission: Admission::new(budget, settings.patience),
            metrics,
            draining: CancellationToken::new(),
            tasks: Tasks::new(),
            mesh: OnceLock::new(),
        }
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Gives it the mesh. Only the first call counts; answers whether this was it.
    pub fn set_mesh(&self, mesh: Arc<dyn mesh::MeshAdmin>) -> bool {
        self.mesh.set(mesh).is_ok()
    }

    /// The mesh; `unavailable` while the node starts.
    pub fn mesh(&self) -> Result<Arc<dyn mesh::MeshAdmin>> {
        let starting = || Error::unavailable("this node does not know its mesh yet: retry in a moment", 1000);
        self.mesh.get().cloned().ok_or_else(starting)
    }

    /// The home shard of `topic`.
    pub(crate) fn home(&self, topic: &TopicName) -> Result<Arc<dyn ShardLog>> {
        self.router.route(topic.position())
    }

    /// The shard that holds `partition`.
    pub(crate) fn shard(&self, partition: PartitionId) -> Result<Arc<dyn ShardLog>> {
        self.router.route(partition.position())
    }

    /// Refuses new work once the node drains.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.draining.is_cancelled() {
            return Err(Error::unavailable("this node is stopping: use another one, or retry", 1000));
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod memory_log;
#[cfg(test)]
mod tests;

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("settings", &self.settings).finish_non_exhaustive()
    }
}
