//! The mesh: its nodes and shards, and what can be asked of it.

use std::time::Duration;

use gem_proto::v1;
use gem_proto::v1::admin_client::AdminClient;
use gem_types::{Error, Result};

use crate::client::{ANSWER_BYTES_MAX, Client, timed};

/// The mesh at a glance, as the node that was asked sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// Its id.
    pub mesh: String,
    /// The node that was asked.
    pub node: String,
    /// The replicas that each shard should have.
    pub replicas: u32,
    /// Nodes that answer.
    pub nodes_alive: u32,
    /// All nodes that are members.
    pub nodes: u32,
    /// Shards there are, as far as is known.
    pub shards: u32,
    /// Of them, with as many voters as they should have.
    pub healthy: u32,
    /// … that serve with fewer voters than they should have.
    pub under_replicated: u32,
    /// … that serve, and that the loss of one more node would stop or make lose data.
    pub at_risk: u32,
    /// … that do not serve.
    pub unavailable: u32,
    /// One sentence: whether data is at risk.
    pub summary: String,
    /// What the mesh is doing about it, and what a person can do: a sentence each.
    pub advice: Vec<String>,
}

/// Whether a node answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// A state that this client does not know.
    Unknown,
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

/// A node of the mesh.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
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
    /// Where clients reach it: a URL.
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
    /// Its limit on memory, in bytes.
    pub memory_limit: u64,
    /// Bytes that GEM holds on its disk.
    pub disk_bytes: u64,
    /// Bytes that may yet be written before publishes are refused.
    pub disk_free: u64,
    /// Whether its disk refuses publishes.
    pub is_disk_full: bool,
}

/// How a shard stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardHealth {
    /// A state that this client does not know.
    Unknown,
    /// As many voters as it should have, all of which answer.
    Healthy,
    /// It serves, with fewer voters than it should have.
    UnderReplicated,
    /// It serves, and the loss of one more node would stop it or lose data.
    AtRisk,
    /// It does not serve.
    Unavailable,
}

/// A replica of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Its node's id.
    pub node: String,
    /// Whether it votes.
    pub voter: bool,
    /// Whether its node answers.
    pub alive: bool,
}

/// A shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Its prefix, in binary digits.
    pub prefix: String,
    /// Its group's id.
    pub group: String,
    /// Changes with its members and its range.
    pub epoch: u64,
    /// The id of the node that leads it, where that is known.
    pub leader: Option<String>,
    /// The term.
    pub term: u64,
    /// How it stands.
    pub health: ShardHealth,
    /// Its replicas.
    pub replicas: Vec<Replica>,
    /// What the mesh is doing about it, where it is not as it should be; may be empty.
    pub doing: String,
}

/// One call: the method's name is the request's.
macro_rules! mesh {
    ($client:expr, $what:expr, $method:ident, $request:expr) => {{
        let request = $request;
        $client
            .call($what, Duration::ZERO, |channel, left| {
                let request = timed(request.clone(), left);
                async move { AdminClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX).$method(request).await }
            })
            .await
    }};
}

impl Client {
    /// The mesh at a glance.
    pub async fn mesh(&self) -> Result<Mesh> {
        let answer = mesh!(self, "show the mesh", get_mesh, v1::GetMeshRequest {})?;
        let mesh = answer.mesh.ok_or_else(|| Error::internal("the node answered without a mesh"))?;
        Ok(Mesh {
            mesh: mesh.mesh,
            node: mesh.node,
            replicas: mesh.replicas,
            nodes_alive: mesh.nodes_alive,
            nodes: mesh.nodes,
            shards: mesh.shards,
            healthy: mesh.healthy,
            under_replicated: mesh.under_replicated,
            at_risk: mesh.at_risk,
            unavailable: mesh.unavailable,
            summary: mesh.summary,
            advice: mesh.advice,
        })
    }

    /// The mesh's nodes, by id.
    pub async fn nodes(&self) -> Result<Vec<Node>> {
        let answer = mesh!(self, "list nodes", list_nodes, v1::ListNodesRequest {})?;
        Ok(answer.nodes.into_iter().map(node_in).collect())
    }

    /// The mesh's shards, in ring order.
    pub async fn shards(&self) -> Result<Vec<Shard>> {
        let answer = mesh!(self, "list shards", list_shards, v1::ListShardsRequest {})?;
        Ok(answer.shards.into_iter().map(shard_in).collect())
    }

    /// Empties the node named by its id, the beginning of one, or its name: it gives away
    /// leaderships and replicas. Returns once that has begun; `cancel` ends it.
    pub async fn drain_node(&self, node: &str, cancel: bool) -> Result<Node> {
        let request = v1::DrainNodeRequest { node: node.to_owned(), cancel };
        let answer = mesh!(self, "drain node", drain_node, request)?;
        answer.node.map(node_in).ok_or_else(|| Error::internal("the node answered without a node"))
    }

    /// Takes a node that is gone out of the mesh: its replicas are replaced at once. `conflict`
    /// where it still answers, or where data would be lost and `accept_data_loss` is not set.
    pub async fn remove_node(&self, node: &str, accept_data_loss: bool) -> Result<()> {
        let request = v1::RemoveNodeRequest { node: node.to_owned(), accept_data_loss };
        mesh!(self, "remove node", remove_node, request).map(drop)
    }
}

fn node_in(node: v1::Node) -> Node {
    let state = match node.state() {
        v1::NodeState::Unspecified => NodeState::Unknown,
        v1::NodeState::Alive => NodeState::Alive,
        v1::NodeState::Suspect => NodeState::Suspect,
        v1::NodeState::Down => NodeState::Down,
        v1::NodeState::Left => NodeState::Left,
        v1::NodeState::Draining => NodeState::Draining,
    };
    Node {
        node: node.node,
        name: node.name,
        zone: node.zone,
        state,
        down_for_s: node.down_for_s,
        http: node.http,
        mesh: node.mesh,
        is_me: node.is_me,
        replicas: node.replicas,
        leaders: node.leaders,
        cpu: node.cpu,
        memory_bytes: node.memory_bytes,
        memory_limit: node.memory_limit,
        disk_bytes: node.disk_bytes,
        disk_free: node.disk_free,
        is_disk_full: node.is_disk_full,
    }
}

fn shard_in(shard: v1::Shard) -> Shard {
    let health = match shard.health() {
        v1::ShardHealth::Unspecified => ShardHealth::Unknown,
        v1::ShardHealth::Healthy => ShardHealth::Healthy,
        v1::ShardHealth::UnderReplicated => ShardHealth::UnderReplicated,
        v1::ShardHealth::AtRisk => ShardHealth::AtRisk,
        v1::ShardHealth::Unavailable => ShardHealth::Unavailable,
    };
    let replica = |v1::Replica { node, voter, alive }| Replica { node, voter, alive };
    Shard {
        prefix: shard.prefix,
        group: shard.group,
        epoch: shard.epoch,
        leader: shard.leader,
        term: shard.term,
        health,
        replicas: shard.replicas.into_iter().map(replica).collect(),
        doing: shard.doing,
    }
}
