//! The mesh as protobuf.

use gem_proto::v1;

use crate::gateway::mesh::{MeshStatus, NodeState, NodeStatus, ReplicaStatus, ShardHealth, ShardStatus};

/// The mesh at a glance.
pub fn mesh(status: MeshStatus) -> v1::Mesh {
    v1::Mesh {
        mesh: status.mesh,
        node: status.node,
        replicas: status.replicas,
        nodes_alive: status.nodes_alive,
        nodes: status.nodes,
        shards: status.shards,
        healthy: status.healthy,
        under_replicated: status.under_replicated,
        at_risk: status.at_risk,
        unavailable: status.unavailable,
        summary: status.summary,
        advice: status.advice,
    }
}

/// A node.
pub fn node(status: NodeStatus) -> v1::Node {
    let state = match status.state {
        NodeState::Alive => v1::NodeState::Alive,
        NodeState::Suspect => v1::NodeState::Suspect,
        NodeState::Down => v1::NodeState::Down,
        NodeState::Left => v1::NodeState::Left,
        NodeState::Draining => v1::NodeState::Draining,
    };
    v1::Node {
        node: status.node,
        name: status.name,
        zone: status.zone,
        state: state.into(),
        down_for_s: status.down_for_s,
        http: status.http,
        mesh: status.mesh,
        is_me: status.is_me,
        replicas: status.replicas,
        leaders: status.leaders,
        cpu: status.cpu,
        memory_bytes: status.memory_bytes,
        memory_limit: status.memory_limit,
        disk_bytes: status.disk_bytes,
        disk_free: status.disk_free,
        is_disk_full: status.is_disk_full,
    }
}

/// A shard.
pub fn shard(status: ShardStatus) -> v1::Shard {
    let health = match status.health {
        ShardHealth::Healthy => v1::ShardHealth::Healthy,
        ShardHealth::UnderReplicated => v1::ShardHealth::UnderReplicated,
        ShardHealth::AtRisk => v1::ShardHealth::AtRisk,
        ShardHealth::Unavailable => v1::ShardHealth::Unavailable,
    };
    let replica = |ReplicaStatus { node, voter, alive }| v1::Replica { node, voter, alive };
    v1::Shard {
        prefix: status.prefix,
        group: status.group,
        epoch: status.epoch,
        leader: status.leader,
        term: status.term,
        health: health.into(),
        replicas: status.replicas.into_iter().map(replica).collect(),
        doing: status.doing,
    }
}
