//! One life of the node: the real journal, shards and gatherer over the simulated disk, clock and
//! index, on the one thread of the run.
//!
//! What is a model here and not the real code: the disk ([`SimDisk`]), the index
//! ([`ModelStores`]), reads (inline, in no time), the threads of the journal's writer and of the
//! gatherer (tasks), and the gateway (the workload speaks to the shards' logs itself).
//!
//! [`SimDisk`]: gem_store::disk::SimDisk
//! [`ModelStores`]: gem_store::index::model::ModelStores

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gem_shard::dispatch::DispatchConfig;
use gem_shard::log::ShardLog;
use gem_shard::raft::transport::Alone;
use gem_shard::shard::GatheredShards;
use gem_shard::{ProposerConfig, Shard, ShardConfig, ShardDeps, Status};
use gem_store::Identity;
use gem_store::budget::Budget;
use gem_store::cache::TailCache;
use gem_store::gather::{GatherConfig, Gatherer, Next};
use gem_store::identity::{Founding, FoundingConfig};
use gem_store::index::ordered::OrderedStores;
use gem_store::journal::{Journal, JournalConfig, Writer};
use gem_store::objects::{Objects, Origin};
use gem_store::read::{InlineReads, Reader, Reads};
use gem_types::{GroupId, Prefix};
use tokio::task::JoinSet;

use crate::chance::{Chance, SimRandom};
use crate::dead_letters::DeadLetterPublisher;
use crate::disk::LifeDisk;
use crate::event::Event;
use crate::setup::Setup;
use crate::world::World;

pub(crate) const DIR: &str = "/gem";
/// How long a start may take before it counts as failed.
const SERVING_WAIT: Duration = Duration::from_secs(30);

/// A running node.
pub struct Node {
    /// Its shards, in ring order.
    pub shards: Vec<Arc<Shard>>,
    journal: Journal,
    disk: LifeDisk,
    gatherer: JoinSet<()>,
    writer: JoinSet<()>,
}

impl Node {
    /// Starts a node as `gem start` does: founds a mesh where the disk is empty, recovers what is
    /// there, and returns once every shard serves.
    pub async fn start(world: &Arc<World>, disk: LifeDisk, chance: &mut Chance) -> io::Result<Node> {
        let setup = &world.setup;
        let dir = Path::new(DIR);
        let random = SimRandom::new(chance.fork());
        let founding = FoundingConfig { k: setup.shards_log2, secret: None };
        let (identity, founded) = Identity::load_or_found(&disk, dir, &random, &founding).map_err(io::Error::other)?;
        let shared: Arc<dyn gem_store::disk::Disk> = Arc::new(disk.clone());
        let planted = Arc::new(disk.planted());
        let opened = Journal::open(planted, &dir.join("journal"), journal_config(setup), world.clock.clone());
        let (journal, writer) = opened.map_err(io::Error::other)?;
        let mut writing = JoinSet::new();
        writing.spawn(write(world.clone(), writer, chance.fork()));
        let opened = Objects::open(shared, dir, Origin { node: identity.node, group: None });
        let objects = opened.map_err(io::Error::other)?;
        let budget = Budget::new(64 << 20, &[]);
        let dead_letters = Arc::new(DeadLetterPublisher::new(world.clone()));
        let deps = ShardDeps {
            replica: identity.replica(),
            journal: journal.clone(),
            stores: world.stores(chance),
            objects: objects.clone(),
            reader: Reader::new(journal.clone(), objects.clone()),
            reads: Reads::new(Arc::new(InlineReads)),
            tail_cache: TailCache::new(budget.clone(), setup.tail_cache),
            budget,
            clock: world.clock.clone(),
            secret: [9; 32],
            dead_letters: dead_letters.clone(),
            transport: Arc::new(Alone),
            config: shard_config(setup),
        };
        let mut node =
            Node { shards: Vec::new(), journal: journal.clone(), disk, gatherer: JoinSet::new(), writer: writing };
        match node.open_shards(&deps, &identity, founded).await {
            Ok(()) => {
                let weak: Vec<_> = node.shards.iter().map(Arc::downgrade).collect();
                dead_letters.fill(move |position| {
                    let mut shards = weak.iter().filter_map(std::sync::Weak::upgrade);
                    shards.find(|shard| shard.prefix().contains(position)).map(|shard| shard as Arc<dyn ShardLog>)
                });
                let all = node.shards.clone();
                let host = Arc::new(GatheredShards::new(Arc::new(move || all.clone())));
                let gatherer = Gatherer::new(journal, objects, host, gather_config(setup)).map_err(io::Error::other)?;
                node.gatherer.spawn(gather(world.clone(), node.disk.clone(), gatherer));
                Ok(node)
            }
            Err(error) => {
                node.end().await;
                Err(error)
            }
        }
    }

    async fn open_shards(&mut self, deps: &ShardDeps, identity: &Identity, founded: Founding) -> io::Result<()> {
        let groups: Vec<_> = Prefix::tiles(identity.k).map(|p| (p, GroupId::founding(identity.mesh, p))).collect();
        if founded != Founding::Founded {
            for (prefix, group) in &groups {
                Shard::found(deps, *group, *prefix).await?;
            }
            identity.mark_founded(&self.disk, Path::new(DIR)).map_err(io::Error::other)?;
        }
        for (_, group) in groups {
            self.shards.push(Shard::open(deps.clone(), group).await?);
        }
        for shard in &self.shards {
            shard.serving(SERVING_WAIT).await.map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Its disk.
    pub fn disk(&self) -> LifeDisk {
        self.disk.clone()
    }

    /// Whether the power has failed under it.
    pub fn is_dead(&self) -> bool {
        self.disk.is_dead()
    }

    /// Why a shard has stopped, if one has.
    pub fn stopped_shard(&self) -> Option<String> {
        self.shards.iter().find_map(|shard| match shard.status() {
            Status::Stopped { reason } => Some(format!("{}: {reason}", shard.prefix())),
            _ => None,
        })
    }

    /// Ends this life: as a planned stop does, or, where the disk is gone, as what is left of a
    /// dead process ends. Answers what a planned stop should not have met.
    pub async fn end(mut self) -> Option<String> {
        self.gatherer.shutdown().await;
        let mut trouble = None;
        for shard in &self.shards {
            if let Err(error) = shard.close().await {
                trouble = Some(format!("{} was not closed cleanly: {error}", shard.prefix()));
            }
        }
        self.shards.clear();
        self.journal.close();
        while self.writer.join_next().await.is_some() {}
        // Raft's tasks let go of the index a moment after their shutdown.
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.disk.die();
        trouble
    }
}

/// The journal's writer as a task: as [`run_writer`](gem_store::journal::run_writer), with flushes
/// that take time.
async fn write(world: Arc<World>, mut writer: Writer, mut chance: Chance) {
    while writer.ready().await {
        let took_ms = world.setup.flush_ms(world.is_slow(), &mut chance);
        if took_ms > 0 {
            tokio::time::sleep(Duration::from_millis(took_ms)).await;
        }
        writer.step();
        tokio::task::yield_now().await;
    }
    writer.finish();
}

/// The gatherer's thread as a task: the same pauses as on a node.
async fn gather(world: Arc<World>, disk: LifeDisk, mut gatherer: Gatherer) {
    loop {
        let pause_ms = match gatherer.step() {
            Ok(Next::More) => 1,
            Ok(Next::Wait) => 50,
            Ok(Next::Idle) => 200,
            Err(_) if disk.is_dead() => return,
            Err(error) => {
                world.emit(Event::GatherFailed(error.to_string()));
                1_000
            }
        };
        if pause_ms == 1 {
            world.emit(Event::Gathered(format!("{:?} {:?}", gatherer.stage(), gatherer.counts())));
        }
        world.gathered(gatherer.counts());
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }
}

pub(crate) fn journal_config(setup: &Setup) -> JournalConfig {
    JournalConfig {
        segment_bytes: setup.segment_bytes,
        disk_reserve: 0,
        flush_bytes: setup.segment_bytes as usize / 4,
        ..JournalConfig::default()
    }
}

pub(crate) fn gather_config(setup: &Setup) -> GatherConfig {
    GatherConfig {
        journal_limit: setup.segment_bytes * setup.files_kept,
        object_bytes: setup.segment_bytes,
        files_per_round: 2,
        purge_patience: setup.purge_patience,
        ..GatherConfig::default()
    }
}

pub(crate) fn shard_config(setup: &Setup) -> ShardConfig {
    ShardConfig {
        proposer: ProposerConfig {
            entry_bytes: setup.segment_bytes as usize / 8,
            entry_bytes_max: setup.segment_bytes as usize / 4,
            ..ProposerConfig::default()
        },
        dispatch: DispatchConfig {
            member_timeout_ms: setup.member_timeout_ms,
            frontier_chunk: setup.frontier_chunk,
            ..DispatchConfig::default()
        },
        flush_bytes: setup.index_flush_bytes,
        ..ShardConfig::default()
    }
}

/// The stores of a life.
pub type Stores = Arc<dyn OrderedStores>;
