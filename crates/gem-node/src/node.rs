//! The life of a node: what is opened in which order, and closed in the reverse.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use gem_mesh::control::Keeper;
use gem_mesh::membership::{Member, State};
use gem_mesh::runs::RunBook;
use gem_shard::dispatch::DispatchConfig;
use gem_shard::shard::GatheredShards;
use gem_shard::{ProposerConfig, Shard, ShardConfig, ShardDeps};
use gem_store::budget::{Budget, Charge, Class};
use gem_store::cache::TailCache;
use gem_store::disk::{DirLock, Disk, OsDisk};
use gem_store::gather::{GatherConfig, Gatherer};
use gem_store::identity::{Founding, FoundingConfig};
use gem_store::index::rocks::RocksStores;
use gem_store::journal::{Journal, JournalConfig, WriterThread, spawn_writer_thread};
use gem_store::objects::{Objects, Origin};
use gem_store::read::{ReadThreads, Reader, Reads};
use gem_store::{Identity, StoreError};
use gem_types::config::Config;
use gem_types::seams::{Clock, OsRandom, Random, SystemClock};
use gem_types::{GroupId, MeshId, NodeId, Prefix, ring};

use crate::gateway::dead_letters::DeadLetterPublisher;
use crate::gateway::mesh::{MeshAdmin, ShardHealth};
use crate::gateway::{Gateway, Settings};
use crate::gatherer::GatherThread;
use crate::memory::Shares;
use crate::mesh::join::{self, KeptFile, MeshError};
use crate::mesh::place::PlaceSettings;
use crate::mesh::raft::RaftLinks;
use crate::mesh::routes::MeshRoutes;
use crate::mesh::{Mesh, MeshConfig, load};
use crate::metrics::Metrics;
use crate::ready::Ready;
use crate::rest::{self, App};
use crate::serve::{Routers, Server};
use crate::shards::Shards;

/// How long a start waits for its shards to serve before it says which one does not.
const SERVING_WAIT: Duration = Duration::from_secs(60);
/// Of the 15 seconds that a stop may take: for requests at work,
const STOP_SERVER: Duration = Duration::from_secs(3);
/// for the ends of streams,
const STOP_STREAMS: Duration = Duration::from_secs(1);
/// and for the gatherer's step at work. Shards have 8 of their own.
const STOP_HAND_OVER: Duration = Duration::from_secs(2);
/// How long a start waits until it knows who leads every part of the ring. A mesh without a
/// majority is not waited for: readiness says so.
const ROUTED_WAIT: Duration = Duration::from_secs(10);
const STOP_GATHER: Duration = Duration::from_secs(2);
/// The voters of a shard in a mesh of three or more.
const REPLICAS: u32 = 3;
/// Threads that read files, and how many reads may wait for them.
const READ_THREADS: usize = 4;
const READS_WAITING: usize = 1024;
/// The largest entry of a shard's log, where a journal file holds two.
const ENTRY_BYTES_MAX: u64 = 24 << 20;
/// What an entry needs in a journal file beside its batches.
const ENTRY_ROOM: u64 = 64 << 10;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data directory, or what is in it.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The memory is a share of what nobody knows.
    #[error("the operating system does not tell how much memory this machine has: give memory as a size, such as 2GiB")]
    Memory,
    /// The address for clients.
    #[error("cannot listen on {address}: {error}; choose another address with --listen")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the operating system says.
        error: io::Error,
    },
    /// A shard.
    #[error("shard {prefix} cannot be opened: {error}")]
    Shard {
        /// Which.
        prefix: Prefix,
        /// What is wrong.
        error: io::Error,
    },
    /// A replica.
    #[error("the replica of group {group} cannot be opened: {error}")]
    Replica {
        /// Of which group.
        group: GroupId,
        /// What is wrong.
        error: io::Error,
    },
    /// The mesh.
    #[error("{0}")]
    Mesh(#[from] MeshError),
    /// The data directory is older than the one that the node ran on before.
    #[error(
        "node {peer} has met this node on a newer data directory than {}: it was set back, by a copy or a snapshot perhaps, and lacks what the node confirmed since. Start the node on the newest directory there is, or with an empty one as a new node (--join): the mesh replaces its replicas",
        dir.display()
    )]
    SetBack {
        /// Who met it.
        peer: NodeId,
        /// The directory.
        dir: PathBuf,
    },
    /// A shard did not begin to serve.
    #[error("{0}")]
    Serving(gem_types::Error),
}

/// A running node. Dropped without [`shutdown`](Node::shutdown), it stops as after a crash: what
/// was acknowledged is on the disk.
pub struct Node {
    dir: PathBuf,
    identity: Identity,
    server: Server,
    gateway: Arc<Gateway>,
    ready: Arc<Ready>,
    shards: Shards,
    mesh: Mesh,
    gather: GatherThread,
    // In the order in which they must go: the journal after the shards, the lock last.
    writer: WriterThread,
    _index_memory: Charge,
    _lock: DirLock,
}

impl Node {
    /// Starts a node with the operating system's clock, randomness and disk, and returns once it
    /// takes traffic. An empty directory founds a mesh; each step of that may be repeated.
    pub async fn start(config: &Config) -> Result<Node, NodeError> {
        let (clock, random): (Arc<dyn Clock>, Arc<dyn Random>) = (Arc::new(SystemClock::new()), Arc::new(OsRandom));
        let disk: Arc<dyn Disk> = Arc::new(OsDisk);
        let dir: PathBuf = config.data.clone();
        let lock = DirLock::acquire(&dir)?;
        let (identity, founded, members) = identify(config, &*disk, &dir, &random).await?;

        let address = config.listen;
        let starting = Routers { rest: rest::starting(), grpc: crate::grpc::starting() };
        let server = Server::bind(address, starting).await.map_err(|error| NodeError::Listen { address, error })?;
        let shares = Shares::of(config.memory).ok_or(NodeError::Memory)?;
        let budget = shares.budget();
        let rocks = shares.rocks();
        let index_memory = budget.charge_now(Class::Index, rocks.memory_bytes() as u64);
        let (journal, writer) =
            Journal::open(disk.clone(), &dir.join("journal"), journal_config(config, &shares), clock.clone())?;
        let writer = spawn_writer_thread(writer)?;
        let stores = Arc::new(RocksStores::open(&dir, rocks)?);
        let objects = Objects::open(disk.clone(), &dir, Origin { node: identity.node, group: None })?;

        let metrics = Arc::new(Metrics::new(config.metrics_topics as usize));
        let local = Shards::default();
        let keeper = Keeper::new(Box::new(KeptFile { disk: disk.clone(), path: dir.join("mesh-book.json") }));
        let runs = join::begin_run(&disk, &dir, &*random)?;
        let mesh_config = mesh_config(config, &identity, server.address, members, runs);
        let mut mesh = Mesh::start(mesh_config, local.clone(), keeper, clock.clone(), random.clone()).await?;
        let router = Arc::new(MeshRoutes(mesh.router.clone()));
        let gateway = Gateway::new(router, clock.clone(), random, settings(config), metrics.clone(), budget.clone());
        let gateway = Arc::new(gateway);
        let deps = ShardDeps {
            replica: identity.replica(),
            journal: journal.clone(),
            stores,
            objects: objects.clone(),
            reader: Reader::new(journal.clone(), objects.clone()),
            reads: Reads::new(Arc::new(ReadThreads::new(READ_THREADS, READS_WAITING)?)),
            tail_cache: TailCache::new(budget.clone(), shares.tail_cache),
            budget: budget.clone(),
            clock: clock.clone(),
            secret: ring::digest(&[b"gem delivery tokens", identity.secret.as_bytes()]),
            dead_letters: Arc::new(DeadLetterPublisher(gateway.clone())),
            transport: Arc::new(RaftLinks(mesh.calls.clone())),
            config: shard_config(config, &shares),
        };
        let shards = open_shards(&deps, &identity, founded, &*disk, &dir).await?;
        mesh.placer.begin(deps);
        shards.iter().cloned().for_each(|shard| mesh.placer.put(shard));
        // A replica with others waits for their votes; one that is alone must be able to lead.
        let alone = shards.iter().filter(|shard| shard.view().seats.len() == 1);
        let serving = alone.map(|shard| shard.serving(SERVING_WAIT));
        try_join_all(serving).await.map_err(NodeError::Serving)?;
        tokio::select! {
            () = mesh.routed(ROUTED_WAIT) => {}
            peer = mesh.outdated() => return Err(NodeError::SetBack { peer, dir }),
        }
        let all = local.clone();
        let host = Arc::new(GatheredShards::new(Arc::new(move || all.all())));
        let gatherer = Gatherer::new(journal.clone(), objects.clone(), host.clone(), gather_config(config))?;
        let gather = GatherThread::start(gatherer, host, journal.clone())?;
        show(&metrics, &budget, &journal, &objects);
        gateway.set_mesh(Arc::new(mesh.view(identity.mesh)));
        show_mesh(&metrics, &mesh, identity.mesh, &local);
        mesh.spawn(load::tell(
            mesh.agent.clone(),
            load::Gauges {
                shards: local.clone(),
                budget: budget.clone(),
                memory_limit: shares.total,
                journal: journal.clone(),
                objects: objects.clone(),
                clock,
            },
        ));

        let ready = Arc::new(ready(&local, &journal));
        let grpc = crate::grpc::routes(gateway.clone()).await;
        let rest = rest::routes(App { gateway: gateway.clone(), ready: ready.clone() });
        server.serve(Routers { rest, grpc });
        ready.set();
        tracing::info!(node = %identity.node, mesh = %identity.mesh, address = %server.address, "takes traffic");
        Ok(Node {
            dir,
            identity,
            server,
            gateway,
            ready,
            shards: local,
            mesh,
            gather,
            writer,
            _index_memory: index_memory,
            _lock: lock,
        })
    }

    /// The node's id.
    pub fn id(&self) -> NodeId {
        self.identity.node
    }

    /// Where clients reach it.
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// Where the mesh reaches it.
    pub fn mesh_address(&self) -> std::net::SocketAddr {
        self.mesh.address()
    }

    /// Waits until the node can't go on as it is; never, on most days.
    pub async fn failed(&self) -> NodeError {
        NodeError::SetBack { peer: self.mesh.outdated().await, dir: self.dir.clone() }
    }

    /// Stops in order: takes no more work, ends what is at work, flushes, closes. Within 15
    /// seconds.
    pub async fn shutdown(self) {
        self.ready.unset("this node is stopping");
        self.gateway.draining.cancel();
        self.mesh.hand_over(&self.shards, STOP_HAND_OVER).await;
        let server = self.server.stop(STOP_SERVER);
        tokio::join!(server, self.gather.stop(STOP_GATHER));
        self.gateway.tasks.finish(STOP_STREAMS).await;
        let closes = self.shards.all();
        let closes = closes.iter().map(|shard| async move { (shard.prefix(), shard.close().await) });
        for (prefix, closed) in join_all(closes).await {
            if let Err(error) = closed {
                // What is not flushed is applied again at the next start.
                tracing::warn!(%prefix, %error, "a shard was not closed cleanly");
            }
        }
        self.mesh.stop().await;
        // Whoever still holds the list holds no index open by it.
        self.shards.clear();
        self.writer.stop();
    }
}

/// Opens every shard, making those that a founding has not made yet.
async fn open_shards(
    deps: &ShardDeps,
    identity: &Identity,
    founded: Founding,
    disk: &dyn Disk,
    dir: &std::path::Path,
) -> Result<Vec<Arc<Shard>>, NodeError> {
    if founded != Founding::Founded {
        for (prefix, group) in Prefix::tiles(identity.k).map(|p| (p, GroupId::founding(identity.mesh, p))) {
            let made = Shard::found(deps, group, prefix).await;
            made.map_err(|error| NodeError::Shard { prefix, error })?;
        }
        identity.mark_founded(disk, dir)?;
    }
    // What is here is what the journal knows: replicas come and go.
    let opens = Shard::groups_of(&deps.journal).into_iter().map(|group| async move {
        Shard::open(deps.clone(), group).await.map_err(|error| NodeError::Replica { group, error })
    });
    try_join_all(opens).await
}

/// Who the node is: what its directory says, or, with `join`, a node of the mesh that lets it in,
/// or, in an empty directory without, the founder of one.
async fn identify(
    config: &Config,
    disk: &dyn Disk,
    dir: &std::path::Path,
    random: &Arc<dyn Random>,
) -> Result<(Identity, Founding, Vec<Member>), NodeError> {
    let secret = secret(config)?;
    let founding = FoundingConfig { k: config.shards_log2, secret: secret.clone() };
    if config.join.is_empty() || Identity::is_in(disk, dir) {
        let (identity, founded) = Identity::load_or_found(disk, dir, &**random, &founding)?;
        if secret.is_some_and(|secret| secret != identity.secret) {
            return Err(NodeError::Mesh(MeshError::Other(format!(
                "the join secret given is not that of the mesh in {}: leave it out, or start with an empty directory",
                dir.display()
            ))));
        }
        return Ok((identity, founded, Vec::new()));
    }
    let secret = secret.ok_or_else(|| {
        let what = "to join a mesh its secret is needed: give --secret-file FILE or GEM_SECRET; it lies in join-secret in the data directory of the mesh's nodes";
        NodeError::Mesh(MeshError::Other(what.into()))
    })?;
    let key = Identity::draw_key(&**random);
    let joined =
        join::first(&config.join, config.is_given("mesh").then_some(config.mesh), &key, &secret, random.clone())
            .await?;
    let identity = Identity::adopt(disk, dir, &**random, key, joined.mesh, joined.k, secret)?;
    tracing::info!(mesh = %identity.mesh, members = joined.members.len(), "joined a mesh");
    Ok((identity, Founding::Founded, joined.members))
}

/// The join secret that was given: a file goes before the variable.
fn secret(config: &Config) -> Result<Option<String>, NodeError> {
    let given = match &config.secret_file {
        Some(path) => {
            let read = std::fs::read_to_string(path);
            let why = |error| format!("the secret file {} can't be read: {error}", path.display());
            Some(read.map_err(|error| NodeError::Mesh(MeshError::Other(why(error))))?)
        }
        None => std::env::var("GEM_SECRET").ok(),
    };
    Ok(given.map(|secret| secret.trim().to_owned()).filter(|secret| !secret.is_empty()))
}

fn mesh_config(
    config: &Config,
    identity: &Identity,
    http: std::net::SocketAddr,
    members: Vec<Member>,
    runs: Arc<RunBook>,
) -> MeshConfig {
    MeshConfig {
        identity: identity.clone(),
        control: config.mesh,
        bulk: config.mesh_bulk_address(),
        is_flexible: !config.is_given("mesh"),
        http: format!("http://{http}"),
        zone: config.zone.clone().unwrap_or_default(),
        name: config.name.clone().unwrap_or_default(),
        runs,
        place: PlaceSettings { replicas: REPLICAS, replace_after: config.replace_after },
        members,
    }
}

fn settings(config: &Config) -> Settings {
    Settings {
        limits: config.limits(),
        auto_create_topics: config.auto_create_topics,
        publish_deadline: config.request_timeout,
        patience: Settings::default().patience.min(config.request_timeout),
    }
}

fn journal_config(config: &Config, shares: &Shares) -> JournalConfig {
    JournalConfig {
        queue_bytes: JournalConfig::default().queue_bytes.min(shares.total as usize / 16),
        segment_bytes: config.journal_file_size,
        disk_reserve: config.disk_reserve,
        ..JournalConfig::default()
    }
}

fn gather_config(config: &Config) -> GatherConfig {
    GatherConfig { journal_limit: config.journal_limit, ..GatherConfig::default() }
}

fn shard_config(config: &Config, shares: &Shares) -> ShardConfig {
    let default = ShardConfig::default();
    let entry_max = (config.journal_file_size / 2).saturating_sub(ENTRY_ROOM).min(ENTRY_BYTES_MAX) as usize;
    let max_out = config.max_out as usize;
    ShardConfig {
        proposer: ProposerConfig {
            // What is joined into one batch is read as one batch: in little memory, a small one.
            entry_bytes: default.proposer.entry_bytes.min(entry_max).min(shares.total as usize / 128),
            entry_bytes_max: entry_max,
            dedup_bytes: config.dedup_bytes,
            ..default.proposer
        },
        dispatch: DispatchConfig {
            member_timeout_ms: config.member_timeout.as_millis() as u64,
            max_out,
            max_out_member: default.dispatch.max_out_member.min(config.max_out.into()),
            ..default.dispatch
        },
        // What a start applies again lies in journal files that are not recycled yet.
        flush_bytes: default.flush_bytes.min(config.journal_limit / 4),
        ..default
    }
}

/// Ready once told so, and as long as every shard serves and the journal can be written.
fn ready(shards: &Shards, journal: &Journal) -> Ready {
    let (shards, journal) = (shards.clone(), journal.clone());
    Ready::asking("this node is starting", move || match journal.poisoned() {
        Some(error) => Some(format!("the journal cannot be written: {error}; restart the node")),
        None => shards.trouble(),
    })
}

fn show_mesh(metrics: &Metrics, mesh: &Mesh, id: MeshId, shards: &Shards) {
    let agent = mesh.agent.clone();
    let nodes = move || {
        let lives = |state: &State| matches!(state, State::Alive | State::Suspect);
        1 + agent.others().iter().filter(|(_, state)| lives(state)).count() as u64
    };
    metrics.gauge("gem_mesh_nodes", "Nodes of the mesh that answer, this one included", Box::new(nodes));
    let placer = mesh.placer.clone();
    let help = "Times that this node has begun to lead a shard";
    metrics.counter("gem_shard_leader_changes", help, Box::new(move || placer.led()));
    let view = mesh.view(id);
    let under = move || {
        let shards = view.shards();
        shards.iter().filter(|shard| shard.health != ShardHealth::Healthy).count() as u64
    };
    let help = "Shards of the mesh that have fewer voters than they should, as this node sees it";
    metrics.gauge("gem_underreplicated_shards", help, Box::new(under));
    let held = shards.clone();
    let lag = move || held.all().iter().map(|shard| shard.lag_bytes()).max().unwrap_or(0);
    let help = "Bytes of log that the farthest replica of a shard led here lacks, about";
    metrics.gauge("gem_replication_lag_bytes", help, Box::new(lag));
    let agent = mesh.agent.clone();
    let load = move || {
        let me = agent.node();
        let own = agent.loads().into_iter().find(|(node, _)| *node == me);
        own.map_or(0.0, |(_, load)| f64::from(load.cpu_permille) / 1000.0)
    };
    metrics.ratio("gem_node_load", "Busy cores, as a share of what the machine has", Box::new(load));
    let held = shards.clone();
    let mismatches = move || held.all().iter().map(|shard| shard.mismatches()).sum();
    let help = "Batches refused at their application since they did not continue their partition: a fault, if any";
    metrics.counter("gem_shard_mismatches", help, Box::new(mismatches));
    let held = shards.clone();
    metrics.gauge("gem_shards", "Replicas of shards that this node holds", Box::new(move || held.all().len() as u64));
}

fn show(metrics: &Metrics, budget: &Budget, journal: &Journal, objects: &Objects) {
    let held = budget.clone();
    metrics.gauge(
        "gem_memory_budget_bytes",
        "Memory that the node has planned with and holds",
        Box::new(move || held.used()),
    );
    let held = budget.clone();
    let resident = move || crate::memory::resident_bytes().unwrap_or_else(|| held.used());
    metrics.gauge("gem_memory_bytes", "Memory that the process has resident", Box::new(resident));
    let (journal_files, objects) = (journal.clone(), objects.clone());
    let disk = move || journal_files.bytes() + objects.bytes();
    metrics.gauge("gem_disk_bytes", "Bytes of journal files and objects on the disk", Box::new(disk));
    let journal = journal.clone();
    metrics.journal_flushes(Box::new(move || {
        let counters = journal.counters();
        let bounds = gem_store::journal::Counters::FLUSH_SECONDS;
        (counters.flush_seconds(), bounds.into_iter().zip(counters.flush_histogram()).collect())
    }));
}
