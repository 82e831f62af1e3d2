//! The mesh as people see it: what `gem mesh` and `/v1/mesh` show, and what they may ask for.

use futures::future::BoxFuture;
use gem_types::{Error, NodeId, Result};
use serde::Serialize;

use super::Gateway;

/// Whether a node answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It answers.
    Alive,
    /// It has not answered of late.
    Suspect,
    /// It is dead or cut off.
    Down,
    /// It has left as planned, and may come back.
    Left,
    /// It answers, and is being emptied.
    Draining,
}

/// A node of the mesh, as the node that was asked sees it.
#[derive(Clone, Debug, Serialize)]
pub struct NodeStatus {
    /// Its id.
    pub node: String,
    /// What people call it; may be empty.
    pub name: String,
    /// Its zone; may be empty.
    pub zone: String,
    /// Whether it answers.
    pub state: NodeState,
    /// Since when it does not, in seconds; `None` where it does.
    pub down_for_s: Option<u64>,
    /// Where clients reach it.
    pub http: String,
    /// Where the mesh reaches it.
    pub mesh: String,
    /// Whether it is the node that was asked.
    pub is_me: bool,
    /// Replicas that it holds.
    pub replicas: u32,
    /// Of those, how many it leads.
    pub leaders: u32,
    /// Busy cores, as a share of what its machine has.
    pub cpu: f64,
    /// Bytes of memory planned with and held.
    pub memory_bytes: u64,
    /// Its limit on memory.
    pub memory_limit: u64,
    /// Bytes that GEM holds on its disk.
    pub disk_bytes: u64,
    /// Bytes that may yet be written before publishes are refused.
    pub disk_free: u64,
    /// Whether its disk refuses publishes.
    pub is_disk_full: bool,
}

/// How a shard stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardHealth {
    /// As many voters as it should have, all of which answer.
    Healthy,
    /// It serves, with fewer voters than it should have.
    UnderReplicated,
    /// It serves, and the loss of one more node would stop it or lose data.
    AtRisk,
    /// It does not serve: no majority of its voters answers.
    Unavailable,
}

/// A replica of a shard.
#[derive(Clone, Debug, Serialize)]
pub struct ReplicaStatus {
    /// Its node.
    pub node: String,
    /// Whether it votes.
    pub voter: bool,
    /// Whether its node answers.
    pub alive: bool,
}

/// A shard.
#[derive(Clone, Debug, Serialize)]
pub struct ShardStatus {
    /// Its prefix, in binary digits.
    pub prefix: String,
    /// Its group's id.
    pub group: String,
    /// Changes with its members and its range.
    pub epoch: u64,
    /// The node that leads it, where that is known.
    pub leader: Option<String>,
    /// The term.
    pub term: u64,
    /// How it stands.
    pub health: ShardHealth,
    /// Its replicas.
    pub replicas: Vec<ReplicaStatus>,
    /// What the mesh is doing about it, where it is not as it should be; may be empty.
    pub doing: String,
}

/// The mesh at a glance.
#[derive(Clone, Debug, Serialize)]
pub struct MeshStatus {
    /// Its id.
    pub mesh: String,
    /// The node that was asked.
    pub node: String,
    /// The replicas that each shard should have.
    pub replicas: u32,
    /// Nodes that answer, and all that are members.
    pub nodes_alive: u32,
    /// See `nodes_alive`.
    pub nodes: u32,
    /// Shards there are, as far as is known.
    pub shards: u32,
    /// How many of them are healthy.
    pub healthy: u32,
    /// … serve with fewer voters than they should have.
    pub under_replicated: u32,
    /// … serve, and the loss of one more node would stop them or lose data.
    pub at_risk: u32,
    /// … do not serve.
    pub unavailable: u32,
    /// One sentence: whether data is at risk.
    pub summary: String,
    /// What the mesh is doing about it, and what a person can do: a sentence each.
    pub advice: Vec<String>,
}

/// What can be asked of the mesh, on any node.
pub trait MeshAdmin: Send + Sync + 'static {
    /// The mesh at a glance.
    fn status(&self) -> MeshStatus;
    /// Its nodes, by id.
    fn nodes(&self) -> Vec<NodeStatus>;
    /// Its shards, in ring order.
    fn shards(&self) -> Vec<ShardStatus>;
    /// The node that `text` names: an id, the beginning of one, or a name. `not_found`, or
    /// `invalid_argument` where more than one fits.
    fn find(&self, text: &str) -> Result<NodeId>;
    /// Empties a node: it gives away leaderships and replicas. Returns once it has begun;
    /// `cancel` ends it.
    fn drain(&self, node: NodeId, cancel: bool) -> BoxFuture<'_, Result<()>>;
    /// Takes a node that is gone out of the mesh: its replicas are replaced at once. `conflict`
    /// where it still answers (drain it first) or where a shard's only voter would be lost and
    /// `accept_data_loss` is not set.
    fn remove(&self, node: NodeId, accept_data_loss: bool) -> BoxFuture<'_, Result<()>>;
}

impl Gateway {
    /// Begins or ends the draining of the node that `text` names, and answers how it stands.
    pub async fn drain_node(&self, text: &str, cancel: bool) -> Result<NodeStatus> {
        let mesh = self.mesh()?;
        let node = mesh.find(text)?;
        self.in_time("the draining", mesh.drain(node, cancel)).await?;
        let id = node.to_string();
        let gone = || Error::not_found(format!("node {id} has left the mesh meanwhile"));
        mesh.nodes().into_iter().find(|status| status.node == id).ok_or_else(gone)
    }

    /// Takes the node that `text` names out of the mesh.
    pub async fn remove_node(&self, text: &str, accept_data_loss: bool) -> Result<()> {
        let mesh = self.mesh()?;
        let node = mesh.find(text)?;
        self.in_time("the removal", mesh.remove(node, accept_data_loss)).await
    }

    async fn in_time(&self, what: &str, work: BoxFuture<'_, Result<()>>) -> Result<()> {
        let late = |_| Error::deadline(format!("{what} was not confirmed in time: see gem mesh nodes, and repeat it"));
        tokio::time::timeout(self.settings.publish_deadline, work).await.map_err(late)?
    }
}
