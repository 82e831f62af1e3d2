//! One computer of a run, with its disk, index and clock, and the lives of the node on it: the real
//! parts of a node over the simulated ones, started as `gem start` does.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gem_mesh::control::Addresses;
use gem_mesh::membership::Member;
use gem_node::mesh::agent::Agent;
use gem_node::mesh::assemble::{Links, Parts};
use gem_node::mesh::place::{PlaceSettings, Placer};
use gem_node::mesh::raft::RaftLinks;
use gem_node::mesh::routes::{MeshRouter, MeshRoutes};
use gem_node::shards::Shards;
use gem_shard::log::{Router, ShardLog};
use gem_shard::shard::GatheredShards;
use gem_shard::{Shard, ShardDeps};
use gem_store::Identity;
use gem_store::budget::Budget;
use gem_store::cache::TailCache;
use gem_store::disk::SimDisk;
use gem_store::gather::{Gatherer, Next};
use gem_store::identity::{Founding, FoundingConfig};
use gem_store::index::model::ModelStores;
use gem_store::journal::{Journal, Writer};
use gem_store::objects::{Objects, Origin};
use gem_store::read::{InlineReads, Reader, Reads};
use gem_types::{GroupId, NodeId, Position, Prefix};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::clock::NodeClock;
use super::network::Network;
use super::planted;
use crate::chance::{Chance, SimRandom};
use crate::dead_letters::DeadLetterPublisher;
use crate::disk::LifeDisk;
use crate::event::Event;
use crate::node::{DIR, gather_config, journal_config, shard_config};
use crate::setup::{Planted, Setup};
use crate::world::World;

/// The voters of a shard where there are so many nodes.
pub const REPLICAS: u32 = 3;
/// After how long a dead node's replicas are rebuilt elsewhere.
pub const REPLACE_AFTER: Duration = Duration::from_secs(6);
/// What is left of a dead process lets go of the index after so long.
const REMAINS: Duration = Duration::from_millis(50);

/// A computer.
pub struct Computer {
    /// Its number in the run.
    pub number: usize,
    /// Its clock.
    pub clock: Arc<NodeClock>,
    disk: SimDisk,
    index: ModelStores,
    /// Flushes stand still.
    is_paused: Arc<AtomicBool>,
    /// The node that is on its disk.
    pub identity: Option<Identity>,
    /// The life of its node, while it runs.
    pub life: Option<Life>,
}

/// What runs of a node.
pub struct Life {
    /// Its shards.
    pub shards: Shards,
    /// What it knows of the others.
    pub agent: Arc<Agent>,
    /// Its routes.
    pub router: Arc<MeshRouter>,
    /// Closed when it ends: clients lose their connections.
    pub connections: Arc<Semaphore>,
    placer: Arc<Placer>,
    journal: Journal,
    disk: LifeDisk,
    tasks: JoinSet<()>,
    writer: JoinSet<()>,
}

/// How a node comes by its identity where its disk is empty.
pub enum Origins<'a> {
    /// It founds the mesh.
    Founds,
    /// It joins that of another.
    Joins(&'a Identity),
}

impl Computer {
    /// A computer with an empty disk.
    pub fn new(number: usize, world: &World) -> Computer {
        let index = ModelStores::new();
        index.flush_every(world.setup.index_flush_every);
        Computer {
            number,
            clock: Arc::new(NodeClock::new(world.clock.clone())),
            disk: SimDisk::new(),
            index,
            is_paused: Arc::default(),
            identity: None,
            life: None,
        }
    }

    /// The node on its disk.
    pub fn node(&self) -> Option<NodeId> {
        self.identity.as_ref().map(|identity| identity.node)
    }

    /// Starts its node, which knows of `others` from joining or from its address book.
    pub async fn start(
        &mut self,
        world: &Arc<World>,
        network: &Arc<Network>,
        origins: Origins<'_>,
        others: &[NodeId],
        chance: &mut Chance,
    ) -> io::Result<()> {
        let setup = &world.setup;
        let lies = (setup.planted == Planted::AckBeforeFlush).then(|| (30, chance.fork()));
        let disk = LifeDisk::new(self.disk.clone(), self.index.clone(), lies);
        let dir = Path::new(DIR);
        let random = Arc::new(SimRandom::new(chance.fork()));
        let founding = FoundingConfig { k: setup.shards_log2, secret: None };
        let (identity, founded) = match origins {
            Origins::Joins(other) if !Identity::is_in(&disk, dir) => {
                let key = Identity::draw_key(&*random);
                let adopted = Identity::adopt(&disk, dir, &*random, key, other.mesh, other.k, other.secret.clone());
                // Planted: who joins founds the groups too, under the ids that they have.
                let founded = match setup.planted {
                    Planted::GroupIdAgain => Founding::Resumed,
                    _ => Founding::Founded,
                };
                (adopted.map_err(io::Error::other)?, founded)
            }
            _ => Identity::load_or_found(&disk, dir, &*random, &founding).map_err(io::Error::other)?,
        };
        self.identity = Some(identity.clone());
        let journal_disk = Arc::new(disk.planted());
        let opened = Journal::open(journal_disk, &dir.join("journal"), journal_config(setup), self.clock.clone());
        let (journal, writer) = opened.map_err(io::Error::other)?;
        let mut writing = JoinSet::new();
        writing.spawn(write(world.clone(), self.is_paused.clone(), writer, chance.fork()));
        let opened = Objects::open(Arc::new(disk.clone()), dir, Origin { node: identity.node, group: None });
        let objects = opened.map_err(io::Error::other)?;
        let budget = Budget::new(64 << 20, &[]);

        let shards = Shards::default();
        let socket = network.socket(identity.node);
        let address = ([127, 0, 0, 1], 7400 + self.number as u16).into();
        let me = Member {
            node: identity.node,
            incarnation: identity.incarnation,
            run: u64::try_from(gem_types::seams::Clock::wall_ms(&*world.clock)).unwrap_or(0),
            control: address,
            bulk: address,
            http: String::new(),
            zone: String::new(),
            name: format!("n{}", self.number),
            is_draining: false,
        };
        let place = PlaceSettings { replicas: REPLICAS, replace_after: REPLACE_AFTER };
        let links = Links { control: socket.clone(), calls: socket.clone(), addresses: Arc::new(Addresses::default()) };
        let parts = Parts::assemble(me, identity.mesh, place, shards.clone(), links, self.clock.clone(), random);
        let Parts { agent, placer, router, calls, inbound } = parts.map_err(io::Error::other)?;
        network.listen(&socket, agent.clone(), Arc::new(inbound));
        agent.join(others.iter().copied().filter(|other| *other != identity.node));
        let mut tasks = JoinSet::new();
        tasks.spawn(agent.clone().run());
        tasks.spawn(placer.clone().run());
        let dead_letters = Arc::new(DeadLetterPublisher::new(world.clone()));
        let way = Arc::downgrade(&router);
        dead_letters.fill(move |position: Position| -> Option<Arc<dyn ShardLog>> {
            MeshRoutes(way.upgrade()?).route(position).ok()
        });
        let mut config = shard_config(setup);
        // Little, so that a replica that lags needs a snapshot; and journal files are small here:
        // as much as on a node would be hundreds of them.
        config.group.bytes_kept = setup.segment_bytes * (setup.files_kept % 3);
        let deps = ShardDeps {
            replica: identity.replica(),
            journal: journal.clone(),
            stores: Arc::new(self.index.clone()),
            objects: objects.clone(),
            reader: Reader::new(journal.clone(), objects.clone()),
            reads: Reads::new(Arc::new(InlineReads)),
            tail_cache: TailCache::new(budget.clone(), setup.tail_cache),
            budget,
            clock: self.clock.clone(),
            secret: [9; 32],
            dead_letters,
            transport: Arc::new(RaftLinks(planted::calls(setup.planted, calls))),
            config,
        };
        let mut life = Life {
            shards: shards.clone(),
            agent,
            router,
            connections: Arc::new(Semaphore::new(0)),
            placer: placer.clone(),
            journal: journal.clone(),
            disk,
            tasks,
            writer: writing,
        };
        let opened = open_shards(&deps, &identity, founded, &life.disk).await;
        placer.begin(deps);
        let opened = opened.map(|opened| opened.into_iter().for_each(|shard| placer.put(shard)));
        let all = shards.clone();
        let host = Arc::new(GatheredShards::new(Arc::new(move || all.all())));
        let gatherer = Gatherer::new(journal, objects, host, gather_config(setup)).map_err(io::Error::other)?;
        life.tasks.spawn(gather(world.clone(), life.disk.clone(), gatherer));
        self.life = Some(life);
        opened
    }

    /// The node is gone at once: killed, or, where the power fails, with what was not flushed.
    pub async fn crash(&mut self, network: &Network, power: Option<u64>) {
        let Some(life) = self.life.take() else { return };
        life.connections.close();
        if let Some(node) = self.node() {
            network.end(node);
        }
        life.disk.die();
        self.index.crash();
        match power {
            Some(seed) => self.disk.crash(seed),
            None => self.disk.kill(),
        }
        self.resume(network);
        // What is left of it touches nothing that the next one finds.
        life.end().await;
    }

    /// A planned stop: hands over what it leads, flushes, closes.
    pub async fn stop(&mut self, network: &Network) -> Option<String> {
        let life = self.life.take()?;
        // A paused process hears of its stop once it goes on.
        self.resume(network);
        life.connections.close();
        hand_over(&life.shards).await;
        life.agent.leave();
        let disk = life.disk.clone();
        let trouble = life.end().await;
        if let Some(node) = self.node() {
            network.end(node);
        }
        disk.die();
        // What the process did not close ends with it.
        self.index.crash();
        tokio::time::sleep(REMAINS).await;
        trouble
    }

    /// Another disk, an empty one. What ran on it must have crashed.
    pub fn wipe(&mut self, world: &World) {
        *self = Computer { clock: self.clock.clone(), ..Computer::new(self.number, world) };
    }

    /// What it sends and gets, and its flushes, stand still.
    pub fn pause(&self, network: &Network) {
        if let Some(node) = self.node() {
            self.is_paused.store(true, Ordering::Relaxed);
            network.pause(node, true);
        }
    }

    /// It goes on.
    pub fn resume(&self, network: &Network) {
        if let Some(node) = self.node() {
            self.is_paused.store(false, Ordering::Relaxed);
            network.pause(node, false);
        }
    }

    /// Why a shard has stopped by itself, if one has.
    pub fn trouble(&self) -> Option<String> {
        let life = self.life.as_ref()?;
        life.shards.all().iter().find_map(|shard| match shard.status() {
            gem_shard::Status::Stopped { reason } => {
                Some(format!("n{}, shard {}: {reason}", self.number, shard.prefix()))
            }
            _ if shard.mismatches() > 0 => {
                Some(format!("n{}, shard {}: applied what was judged of another state", self.number, shard.prefix()))
            }
            _ => None,
        })
    }
}

impl Life {
    async fn end(mut self) -> Option<String> {
        self.tasks.shutdown().await;
        let mut trouble = None;
        for shard in self.shards.all() {
            if let Err(error) = shard.close().await {
                trouble = Some(format!("{} was not closed cleanly: {error}", shard.prefix()));
            }
            self.shards.take(shard.id());
        }
        self.placer.finish(Duration::from_secs(1)).await;
        self.journal.close();
        while self.writer.join_next().await.is_some() {}
        tokio::time::sleep(REMAINS).await;
        trouble
    }
}

async fn hand_over(shards: &Shards) {
    for shard in shards.all() {
        if !matches!(shard.status(), gem_shard::Status::Leading { .. }) {
            continue;
        }
        let view = shard.view();
        let others = view.seats.iter().filter(|(replica, votes)| **votes && **replica != shard.replica());
        let best = others.max_by_key(|(replica, _)| view.progress.get(replica).copied().unwrap_or(0));
        if let Some((to, _)) = best {
            // Where it stays, the others elect.
            let _ = shard.hand_over(*to, Duration::from_secs(2)).await;
        }
    }
}

async fn open_shards(
    deps: &ShardDeps,
    identity: &Identity,
    founded: Founding,
    disk: &LifeDisk,
) -> io::Result<Vec<Arc<Shard>>> {
    if founded != Founding::Founded {
        for prefix in Prefix::tiles(identity.k) {
            Shard::found(deps, GroupId::founding(identity.mesh, prefix), prefix).await?;
        }
        identity.mark_founded(disk, Path::new(DIR)).map_err(io::Error::other)?;
    }
    let mut opened = Vec::new();
    for group in Shard::groups_of(&deps.journal) {
        opened.push(Shard::open(deps.clone(), group).await?);
    }
    Ok(opened)
}

/// The journal's writer as a task, with flushes that take time, and none while the node is paused.
async fn write(world: Arc<World>, is_paused: Arc<AtomicBool>, mut writer: Writer, mut chance: Chance) {
    while writer.ready().await {
        let took_ms = world.setup.flush_ms(world.is_slow(), &mut chance);
        if took_ms > 0 {
            tokio::time::sleep(Duration::from_millis(took_ms)).await;
        }
        while is_paused.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        writer.step();
        tokio::task::yield_now().await;
    }
    writer.finish();
}

/// How long a replica may take to be made, or to be given up: meanwhile its files are left alone.
const IN_BETWEEN: u32 = 30;

async fn gather(world: Arc<World>, disk: LifeDisk, mut gatherer: Gatherer) {
    let mut refused = 0;
    loop {
        let pause_ms = match gatherer.step() {
            Ok(Next::More) => 1,
            Ok(Next::Wait) => 50,
            Ok(Next::Idle) => 200,
            Err(_) if disk.is_dead() => return,
            Err(gem_store::StoreError::Refused(_)) if refused < IN_BETWEEN => {
                refused += 1;
                1_000
            }
            Err(error) => {
                world.emit(Event::GatherFailed(error.to_string()));
                1_000
            }
        };
        if pause_ms < 1_000 {
            refused = 0;
        }
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }
}

/// The longest time that ids are remembered, in milliseconds: less than a mesh is left alone at its end.
const DEDUP_WINDOW_MS_MAX: u64 = 35_000;

/// The setup of a mesh's run.
pub fn draw_setup(planted: Planted, chance: &mut Chance) -> Setup {
    let mut setup = Setup::draw(planted, chance);
    setup.is_mesh = true;
    setup.shards_log2 = chance.below(3) as u8;
    // What is remembered of ids is gone before a mesh is looked at, and looked at again.
    for topic in &mut setup.topics {
        topic.config.dedup_window_ms = topic.config.dedup_window_ms.min(DEDUP_WINDOW_MS_MAX);
    }
    setup
}
