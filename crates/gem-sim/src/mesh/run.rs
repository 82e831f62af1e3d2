//! One run of a mesh: it is founded and grows, clients work, faults come and go; then it must rest,
//! and everything must be where it was acknowledged, before and after all power fails at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use gem_mesh::directory::Descriptor;
use gem_node::mesh::describe;
use gem_shard::{Status, planted};
use gem_types::{GroupId, NodeId};
use tokio::task::JoinSet;

use super::door::{Gate, Gates};
use super::faults::Faults;
use super::network::Network;
use super::node::{Computer, Origins, REPLICAS, draw_setup};
use super::watch::Watch;
use crate::chance::Chance;
use crate::event::Event;
use crate::run::{Report, within};
use crate::setup::Planted;
use crate::workload::{Mesh, Workload, audit};
use crate::world::World;

/// A mesh without faults comes to rest within so long.
const REST_MAX: Duration = Duration::from_secs(180);
/// Calls that nobody waits for any more have come to their end after so long.
const CALLS_END: Duration = Duration::from_secs(20);
/// After so long without clients nothing changes any more.
const SETTLED: Duration = Duration::from_secs(40);
/// Entries that a replica may be behind while clients are at work.
const BUSY_LAG: u64 = 50;
/// Between two looks at what replicas hold.
const DIGEST_MS: u64 = 700;

/// Runs `seed`.
pub fn run(seed: u64, planted: Planted, is_printed: bool) -> Report {
    // A stream of its own: the seed of one node's run says nothing of a mesh's.
    let mut chance = Chance::new(seed ^ 0x6d65_7368);
    let setup = draw_setup(planted, &mut chance);
    within(seed, setup, is_printed, async |world| Run::new(world, &mut chance).live(chance.fork()).await)
}

/// The mesh of a run.
pub struct Run {
    /// The world.
    pub world: Arc<World>,
    /// The network.
    pub network: Arc<Network>,
    /// All computers, with and without a running node.
    pub computers: Vec<Computer>,
    /// Every node that ever was.
    pub known: Vec<NodeId>,
    gates: Arc<Gates>,
    watch: Arc<Watch>,
    /// Clients are at work: the log grows while it is looked at.
    is_busy: bool,
    chance: Chance,
    digested_ms: u64,
}

impl Run {
    fn new(world: &Arc<World>, chance: &mut Chance) -> Run {
        let watch = Watch::new(world.clone());
        Run {
            world: world.clone(),
            network: Network::new(chance.next()),
            computers: Vec::new(),
            known: Vec::new(),
            gates: Gates::new(chance.fork(), watch.clone()),
            watch,
            is_busy: false,
            chance: chance.fork(),
            digested_ms: 0,
        }
    }

    /// Whether a promise was broken: then the run ends.
    pub fn is_over(&self) -> bool {
        self.world.violation().is_some()
    }

    async fn live(mut self, mut chance: Chance) {
        let mut network = JoinSet::new();
        network.spawn(self.network.clone().run());
        let nodes = if chance.percent(25) { chance.between(4, 6) } else { 3 } as usize;
        self.add().await;
        let mut workload = Workload::new(&self.world, &mut chance);
        let mesh = Mesh { world: self.world.clone(), door: self.gates.clone() };
        let mut clients = JoinSet::new();
        // A mesh may be at work before it is whole.
        let is_early = chance.percent(50);
        if is_early {
            self.is_busy = true;
            workload.start(&mesh, &mut clients);
        }
        for _ in 1..nodes {
            self.pass(chance.below(3_000)).await;
            self.add().await;
        }
        if !is_early {
            self.rest().await;
            self.is_busy = true;
            workload.start(&mesh, &mut clients);
        }
        let mut faults = Faults::new(chance.fork());
        for _ in 0..chance.between(3, 9) {
            self.pass(chance.between(100, 4_000)).await;
            planted::release();
            if self.is_over() {
                return;
            }
            // Just before a fault an entry may be kept from Raft for a while: it is refused then,
            // unless the bug is planted that appends it in whatever term.
            if self.world.setup.planted == Planted::AnyTerm || chance.percent(20) {
                planted::hold_next();
            }
            faults.next(&mut self).await;
        }
        planted::release();
        faults.end(&mut self).await;
        self.pass(chance.between(500, 3_000)).await;
        self.rest().await;
        clients.shutdown().await;
        self.is_busy = false;
        self.pass(CALLS_END.as_millis() as u64).await;
        self.report(audit::drain(&mesh).await);
        self.pass(SETTLED.as_millis() as u64).await;
        self.look_through_all(&mesh).await;
        if self.is_over() {
            return;
        }
        self.say("all power fails");
        for at in 0..self.computers.len() {
            let seed = chance.next();
            self.computers[at].crash(&self.network, Some(seed)).await;
        }
        self.start_all().await;
        self.look_through_all(&mesh).await;
        for at in 0..self.computers.len() {
            self.stop(at).await;
        }
    }

    /// The mesh rests, and everything reads the same through every node.
    async fn look_through_all(&mut self, mesh: &Mesh) {
        self.rest().await;
        if self.is_over() {
            return;
        }
        for at in 0..self.computers.len() {
            self.set_gates(Some(at));
            self.report(audit::audit(mesh).await);
            if let Some(life) = &self.computers[at].life {
                let (node, prefixes) = (life.agent.node(), life.router.prefixes());
                self.world.emit(Event::Tiles { node, prefixes });
            }
        }
        self.set_gates(None);
        self.report(audit::digests(mesh));
        self.watch.digest(&crate::workload::Door::replicas(&*self.gates));
    }

    fn report(&self, result: gem_types::Result<()>) {
        if let Err(error) = result {
            self.world.emit(Event::ShardStopped(format!("an audit failed: {error}")));
        }
    }

    /// Notes what is done to the mesh.
    pub fn say(&self, what: impl Into<String>) {
        self.world.emit(Event::Fault(what.into()));
    }

    /// A new computer, whose node founds the mesh or joins it.
    pub async fn add(&mut self) {
        let computer = Computer::new(self.computers.len(), &self.world);
        self.computers.push(computer);
        self.start(self.computers.len() - 1).await;
    }

    /// Starts the node of a computer on which none runs.
    pub async fn start(&mut self, at: usize) {
        if self.computers[at].life.is_some() {
            return;
        }
        self.say(format!("n{at} starts"));
        let founder = self.computers.iter().find_map(|computer| computer.identity.clone());
        let origins = founder.as_ref().map_or(Origins::Founds, Origins::Joins);
        let (world, network) = (self.world.clone(), self.network.clone());
        let known = self.known.clone();
        let started = self.computers[at].start(&world, &network, origins, &known, &mut self.chance).await;
        if let Err(error) = started {
            self.world.emit(Event::StartFailed(format!("n{at}: {error}")));
        }
        self.known.extend(self.computers[at].node().filter(|node| !self.known.contains(node)));
        self.set_gates(None);
    }

    /// Starts every node that does not run.
    pub async fn start_all(&mut self) {
        for at in 0..self.computers.len() {
            self.start(at).await;
        }
    }

    /// A planned stop of a node.
    pub async fn stop(&mut self, at: usize) {
        self.say(format!("n{at} stops"));
        if let Some(trouble) = self.computers[at].stop(&self.network).await {
            self.world.emit(Event::ShardStopped(format!("n{at}: {trouble}")));
        }
    }

    /// Clients come in through all nodes, or through one alone.
    fn set_gates(&self, only: Option<usize>) {
        let computers = self.computers.iter().filter(|computer| only.is_none_or(|at| computer.number == at));
        let lives = computers.filter_map(|computer| computer.life.as_ref());
        let gate = |life: &super::node::Life| Gate {
            shards: life.shards.clone(),
            router: life.router.clone(),
            connections: life.connections.clone(),
        };
        self.gates.set(lives.map(gate).collect());
    }

    /// Lets time pass, and watches meanwhile.
    pub async fn pass(&mut self, ms: u64) {
        let until = self.world.clock.now_ms() + ms;
        while self.world.clock.now_ms() < until && !self.is_over() {
            tokio::time::sleep(Duration::from_millis(2)).await;
            self.look();
        }
    }

    fn look(&mut self) {
        let replicas = crate::workload::Door::replicas(&*self.gates);
        self.watch.look(&replicas);
        if let Some(trouble) = self.computers.iter().find_map(Computer::trouble) {
            self.world.emit(Event::ShardStopped(trouble));
        }
        let now = self.world.clock.now_ms();
        if now >= self.digested_ms + DIGEST_MS {
            self.digested_ms = now;
            self.watch.digest(&replicas);
        }
    }

    /// Waits until the mesh rests.
    pub async fn rest(&mut self) {
        let begun = self.world.clock.now_ms();
        loop {
            let Some(why) = self.unrest() else {
                self.world.emit(Event::Rested(Ok(self.world.clock.now_ms() - begun)));
                return;
            };
            if self.world.clock.now_ms() - begun > REST_MAX.as_millis() as u64 {
                self.world.emit(Event::Rested(Err(why)));
                return;
            }
            self.pass(20).await;
            if self.is_over() {
                return;
            }
        }
    }

    /// Why the mesh does not rest.
    pub fn unrest(&self) -> Option<String> {
        let lives: Vec<_> = self.computers.iter().filter_map(|computer| computer.life.as_ref()).collect();
        let nodes: BTreeSet<NodeId> = lives.iter().map(|life| life.agent.node()).collect();
        let wanted = nodes.len().min(REPLICAS as usize);
        let mut leaders: Vec<Descriptor> = Vec::new();
        let mut groups: BTreeSet<GroupId> = BTreeSet::new();
        for shard in lives.iter().flat_map(|life| life.shards.all()) {
            groups.insert(shard.id());
            if matches!(shard.status(), Status::Leading { .. }) {
                let view = shard.view();
                let seated = view.seats.iter().filter(|(replica, votes)| **votes && nodes.contains(&replica.node));
                // Two nodes are one voter and a learner.
                let voters = if wanted == 2 { view.seats.len() } else { seated.count() };
                if view.is_changing || voters != wanted || view.seats.len() != wanted {
                    return Some(format!(
                        "shard {} has {:?}, changing: {}",
                        shard.prefix(),
                        view.seats,
                        view.is_changing
                    ));
                }
                for life in lives.iter().filter(|life| view.seats.keys().any(|seat| seat.node == life.agent.node())) {
                    let applied = life.shards.get(shard.id()).map(|other| other.view().applied);
                    let lag = if self.is_busy { BUSY_LAG } else { 0 };
                    if applied.is_none_or(|applied| applied + lag < view.last) {
                        return Some(format!(
                            "shard {}: {} has applied {applied:?} of {}",
                            shard.prefix(),
                            life.agent.node(),
                            view.last
                        ));
                    }
                }
                leaders.push(describe(&shard));
            }
        }
        if leaders.len() != groups.len() || groups.len() != 1 << self.world.setup.shards_log2 {
            return Some(format!("{} shards have {} leaders", groups.len(), leaders.len()));
        }
        for life in &lives {
            if !life.router.is_whole() {
                return Some(format!("{} does not know who leads all of the ring", life.agent.node()));
            }
            for leader in &leaders {
                let known = life.agent.of_group(leader.group);
                if known.as_ref() != Some(leader) {
                    return Some(format!("{} knows {known:?}, not {leader:?}", life.agent.node()));
                }
            }
        }
        None
    }
}
