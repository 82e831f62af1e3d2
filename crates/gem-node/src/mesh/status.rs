//! The mesh for people: see [`MeshAdmin`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use gem_mesh::directory::Descriptor;
use gem_mesh::membership::{Load, Member, State};
use gem_types::{Error, MeshId, NodeId, Result};

use super::agent::Agent;
use super::place::Placer;
use super::place::wire::Request;
use super::routes::MeshRouter;
use crate::gateway::mesh::{MeshAdmin, MeshStatus, NodeState, NodeStatus, ReplicaStatus, ShardHealth, ShardStatus};

/// What this node can say of the mesh.
pub struct View {
    /// The mesh's id.
    pub mesh: MeshId,
    /// What is known of the others.
    pub agent: Arc<Agent>,
    /// Makes and moves replicas.
    pub placer: Arc<Placer>,
    /// Knows all prefixes.
    pub router: Arc<MeshRouter>,
}

impl View {
    fn members(&self) -> Vec<(Member, State)> {
        let mut all = self.agent.others();
        all.push((self.agent.me(), State::Alive));
        let removed = self.placer.removed();
        all.retain(|(member, _)| !removed.contains(&member.node));
        all.sort_by_key(|(member, _)| member.node);
        all
    }

    fn known(&self) -> Vec<Descriptor> {
        let mut known = Vec::new();
        for prefix in self.router.prefixes() {
            let here = self.router.shards.holding(prefix.first()).map(|shard| super::describe(&shard));
            let told = self.agent.find(prefix.first());
            let newest = match (here, told) {
                (Some(here), Some(told)) if told.group == here.group && told.is_newer_than(&here) => Some(told),
                (here, told) => here.or(told),
            };
            known.extend(newest);
        }
        known
    }

    fn shard(&self, shard: &Descriptor, living: &BTreeMap<NodeId, bool>, full: &BTreeSet<NodeId>) -> ShardStatus {
        let lives = |node: &NodeId| living.get(node).copied().unwrap_or(false);
        let replicas: Vec<ReplicaStatus> = shard
            .seats
            .iter()
            .map(|seat| ReplicaStatus {
                node: seat.replica.node.to_string(),
                voter: seat.is_voter,
                alive: lives(&seat.replica.node),
            })
            .collect();
        let voters = replicas.iter().filter(|one| one.voter).count();
        let alive = replicas.iter().filter(|one| one.voter && one.alive).count();
        let not_storing = shard.seats.iter().filter(|seat| seat.is_voter && full.contains(&seat.replica.node)).count();
        // One that takes no more is there, but holds nothing of what is published now.
        let storing = if voters > 1 { alive.saturating_sub(not_storing) } else { alive };
        let wanted = (self.placer.settings().replicas as usize).min(living.len()).max(1);
        let health = if alive * 2 <= voters {
            ShardHealth::Unavailable
        } else if self.placer.settings().replicas > 1 && storing.saturating_sub(1) * 2 <= voters && voters > 1
            || voters < 2 && wanted > 1
        {
            ShardHealth::AtRisk
        } else if storing < wanted {
            ShardHealth::UnderReplicated
        } else {
            ShardHealth::Healthy
        };
        ShardStatus {
            prefix: shard.prefix.to_string(),
            group: shard.group.to_string(),
            epoch: shard.epoch,
            leader: shard.leader.map(|leader| leader.to_string()),
            term: shard.term,
            health,
            replicas,
            doing: self.placer.doing(shard.group),
        }
    }

    /// Nodes that take no more messages.
    fn full(&self) -> BTreeSet<NodeId> {
        self.agent.loads().into_iter().filter(|(_, load)| load.is_disk_full).map(|(node, _)| node).collect()
    }

    fn living(&self) -> BTreeMap<NodeId, bool> {
        let lives = |state: &State| matches!(state, State::Alive | State::Suspect);
        self.members().iter().map(|(member, state)| (member.node, lives(state))).collect()
    }
}

fn state_of(member: &Member, state: &State) -> NodeState {
    match state {
        State::Alive if member.is_draining => NodeState::Draining,
        State::Alive => NodeState::Alive,
        State::Suspect => NodeState::Suspect,
        State::Down { has_left: true, .. } => NodeState::Left,
        State::Down { .. } => NodeState::Down,
    }
}

impl MeshAdmin for View {
    fn status(&self) -> MeshStatus {
        let living = self.living();
        let shards = self.shards();
        let count = |health| shards.iter().filter(|shard| shard.health == health).count() as u32;
        let (alive, nodes) = (living.values().filter(|lives| **lives).count() as u32, living.len() as u32);
        let [healthy, under_replicated, at_risk, unavailable] =
            [ShardHealth::Healthy, ShardHealth::UnderReplicated, ShardHealth::AtRisk, ShardHealth::Unavailable]
                .map(count);
        let all = self.nodes();
        let full: Vec<&NodeStatus> = all.iter().filter(|node| node.is_disk_full).collect();
        let of_state = |state| all.iter().filter(move |node| node.state == state);
        let summary = if unavailable > 0 {
            format!("{unavailable} of {} shards do not serve: no majority of their replicas answers", shards.len())
        } else if at_risk > 0 && nodes < 3 {
            format!("all shards serve; a mesh of {nodes} survives power cuts, not the loss of a disk")
        } else if at_risk > 0 {
            format!("all shards serve; {at_risk} would stop with the loss of one more node")
        } else if under_replicated > 0 {
            format!("all shards serve; {under_replicated} have fewer replicas than they should")
        } else if !full.is_empty() {
            "all shards are replicated as they should be, but a disk is full".to_owned()
        } else if nodes < 2 {
            "all shards serve; a mesh of one survives power cuts, not the loss of its disk".to_owned()
        } else {
            "all shards are replicated as they should be".to_owned()
        };
        let mut advice = Vec::new();
        let wait = self.placer.settings().replace_after.as_secs();
        for node in of_state(NodeState::Down) {
            let others = alive >= self.placer.settings().replicas;
            advice.push(match others {
                true => format!(
                    "node {} is down for {} s: its replicas are rebuilt on others after {wait} s; start it again, or `gem mesh remove {}` if it is gone for good",
                    label(node),
                    node.down_for_s.unwrap_or(0),
                    label(node)
                ),
                false => format!(
                    "node {} is down for {} s: no other node can take its replicas; start it again, or add a node",
                    label(node),
                    node.down_for_s.unwrap_or(0)
                ),
            });
        }
        for node in of_state(NodeState::Draining) {
            advice.push(match node.replicas {
                0 => format!("node {} is empty: it can be stopped and removed", label(node)),
                left => format!("node {} is being emptied: {left} replicas are left", label(node)),
            });
        }
        for node in full {
            advice.push(format!(
                "the disk of node {} is full: publishes to the shards it leads are refused; free space, shorten retention, or add a node",
                label(node)
            ));
        }
        advice.extend(
            shards
                .iter()
                .filter(|shard| !shard.doing.is_empty())
                .take(5)
                .map(|shard| format!("shard {} {}", shard.prefix, shard.doing)),
        );
        MeshStatus {
            mesh: self.mesh.to_string(),
            node: self.agent.node().to_string(),
            replicas: self.placer.settings().replicas,
            nodes_alive: alive,
            nodes,
            shards: shards.len() as u32,
            healthy,
            under_replicated,
            at_risk,
            unavailable,
            summary,
            advice,
        }
    }

    fn nodes(&self) -> Vec<NodeStatus> {
        let loads: BTreeMap<NodeId, Load> = self.agent.loads().into_iter().collect();
        let sights = self.placer.sights();
        let node = |(member, state): (Member, State)| {
            let load = loads.get(&member.node).cloned().unwrap_or_default();
            let sight = sights.get(&member.node);
            NodeStatus {
                state: state_of(&member, &state),
                down_for_s: sight.and_then(|sight| sight.down_for).map(|down_for| down_for.as_secs()),
                is_me: member.node == self.agent.node(),
                replicas: sight.map_or(0, |sight| sight.replicas),
                leaders: sight.map_or(0, |sight| sight.leaders),
                cpu: f64::from(load.cpu_permille) / 1000.0,
                memory_bytes: load.memory_bytes,
                memory_limit: load.memory_limit,
                disk_bytes: load.disk_bytes,
                disk_free: load.disk_free,
                is_disk_full: load.is_disk_full,
                node: member.node.to_string(),
                mesh: member.control.to_string(),
                name: member.name,
                zone: member.zone,
                http: member.http,
            }
        };
        self.members().into_iter().map(node).collect()
    }

    fn shards(&self) -> Vec<ShardStatus> {
        let (living, full) = (self.living(), self.full());
        self.known().iter().map(|shard| self.shard(shard, &living, &full)).collect()
    }

    fn find(&self, text: &str) -> Result<NodeId> {
        let members = self.members();
        let fits = |member: &Member| member.name == text || member.node.to_string().starts_with(text);
        let found: Vec<&Member> =
            members.iter().map(|(member, _)| member).filter(|member| !text.is_empty() && fits(member)).collect();
        match found.as_slice() {
            [one] => Ok(one.node),
            [] => Err(Error::not_found(format!("no node of this mesh is called {text}: `gem mesh nodes` lists them"))),
            _ => Err(Error::invalid(format!("{text} fits {} nodes: give more of the id", found.len()))),
        }
    }

    fn drain(&self, node: NodeId, cancel: bool) -> BoxFuture<'_, Result<()>> {
        async move { self.placer.ask(node, Request::Drain { cancel }).await.map(drop) }.boxed()
    }

    fn remove(&self, node: NodeId, accept_data_loss: bool) -> BoxFuture<'_, Result<()>> {
        async move {
            let living = self.living();
            let others = living.iter().filter(|(other, lives)| **other != node && **lives);
            let others: Vec<NodeId> = others.map(|(other, _)| *other).collect();
            let holds = self.known().into_iter().filter(|shard| {
                let voters: Vec<NodeId> =
                    shard.seats.iter().filter(|seat| seat.is_voter).map(|seat| seat.replica.node).collect();
                voters == [node]
            });
            let alone: Vec<String> = holds.map(|shard| shard.prefix.to_string()).collect();
            if living.get(&node) == Some(&true) && self.placer.sights().get(&node).is_some_and(|sight| sight.replicas > 0)
            {
                return Err(Error::conflict(format!(
                    "node {node} still answers and holds replicas: drain it first, and stop it"
                )));
            }
            if !alone.is_empty() && !accept_data_loss {
                return Err(Error::conflict(format!(
                    "node {node} is the only voter of the shards {}: what they hold would be lost; start it again, or repeat with --accept-data-loss",
                    alone.join(", ")
                )));
            }
            for other in others {
                // One that does not hear it now keeps its own patience with the node.
                if let Err(error) = self.placer.ask(other, Request::Remove { node }).await {
                    tracing::warn!(%other, %error, "was not told that a node is removed");
                }
            }
            Ok(())
        }
        .boxed()
    }
}

fn label(node: &NodeStatus) -> String {
    if node.name.is_empty() { node.node.clone() } else { node.name.clone() }
}
