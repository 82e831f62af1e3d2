//! Nodes with one shard each, and a network that calls straight into them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use gem_shard::log::{Append, DeadLetter, DeadLetters, Read, ShardLog, TopicConfig};
use gem_shard::raft::transport::{Rpc, Transport, unreachable};
use gem_shard::raft::types::{TypeConfig, Vote};
use gem_shard::snapshot::{Fetch, Fetched};
use gem_shard::{Shard, ShardConfig, ShardDeps, Status};
use gem_store::budget::Budget;
use gem_store::cache::TailCache;
use gem_store::disk::SimDisk;
use gem_store::index::model::ModelStores;
use gem_store::journal::{Journal, JournalConfig, run_writer};
use gem_store::objects::{Objects, Origin};
use gem_store::read::{InlineReads, Reader, Reads};
use gem_types::batch::BatchBuilder;
use gem_types::seams::Clock;
use gem_types::{Error, GroupId, Incarnation, Message, NodeId, PartitionId, Prefix, ReplicaId, Result, TopicName};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, TransferLeaderResponse, VoteRequest,
    VoteResponse,
};
use tokio::task::JoinSet;
use tokio::time::Instant;

const GROUP: GroupId = GroupId([5; 16]);
const WAIT: Duration = Duration::from_secs(20);

struct PausedClock(Instant);

impl Clock for PausedClock {
    fn wall_ms(&self) -> i64 {
        1_700_000_000_000 + self.0.elapsed().as_millis() as i64
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

struct NoLetters;

impl DeadLetters for NoLetters {
    fn publish(&self, _: DeadLetter) -> BoxFuture<'_, Result<()>> {
        async { Ok(()) }.boxed()
    }
}

/// Who can be reached.
#[derive(Default)]
struct Network {
    shards: BTreeMap<NodeId, Arc<Shard>>,
    cut: BTreeSet<NodeId>,
}

/// One node's way to the others.
#[derive(Clone)]
struct Wire {
    me: NodeId,
    network: Arc<Mutex<Network>>,
}

impl Wire {
    fn to(&self, to: ReplicaId) -> Option<Arc<Shard>> {
        let network = self.network.lock().unwrap();
        let is_cut = network.cut.contains(&self.me) || network.cut.contains(&to.node);
        network.shards.get(&to.node).filter(|_| !is_cut).cloned()
    }

    fn call<T: Send + 'static, E: std::fmt::Display>(
        &self,
        to: ReplicaId,
        call: impl FnOnce(Arc<Shard>) -> BoxFuture<'static, std::result::Result<T, E>> + Send + 'static,
    ) -> Rpc<T> {
        let shard = self.to(to);
        async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let shard = shard.ok_or_else(|| unreachable("cut off".into()))?;
            call(shard).await.map_err(|error| unreachable(error.to_string()).into())
        }
        .boxed()
    }
}

impl Transport for Wire {
    fn append(
        &self,
        _: GroupId,
        to: ReplicaId,
        request: AppendEntriesRequest<TypeConfig>,
        _: Duration,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        self.call(to, |shard| async move { shard.on_append(request).await }.boxed())
    }

    fn vote(
        &self,
        _: GroupId,
        to: ReplicaId,
        request: VoteRequest<TypeConfig>,
        pre: bool,
        _: Duration,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        self.call(to, move |shard| async move { shard.on_vote(request, pre).await }.boxed())
    }

    fn transfer(
        &self,
        _: GroupId,
        to: ReplicaId,
        request: TransferLeaderRequest<TypeConfig>,
        _: Duration,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        self.call(to, |shard| async move { shard.on_transfer(request).await }.boxed())
    }

    fn offer(&self, _: GroupId, to: ReplicaId, from: ReplicaId, vote: Vote, _: Duration) -> Rpc<Vote> {
        self.call(to, move |shard| async move { shard.on_offer(from, vote).await }.boxed())
    }

    fn fetch(&self, _: GroupId, from: ReplicaId, request: Fetch) -> BoxFuture<'static, Result<Fetched>> {
        let shard = self.to(from);
        async move {
            let shard = shard.ok_or_else(|| Error::unavailable("cut off", 100))?;
            shard.on_fetch(request).await
        }
        .boxed()
    }
}

struct Node {
    disk: SimDisk,
    stores: ModelStores,
    running: Option<(Arc<Shard>, Journal, JoinSet<()>)>,
}

/// The nodes.
pub struct Mesh {
    clock: Arc<PausedClock>,
    network: Arc<Mutex<Network>>,
    nodes: Vec<Node>,
    partition: Option<PartitionId>,
    published: u64,
}

/// Waits for `is_so`, on paused time.
pub async fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + WAIT;
    while !is_so() {
        assert!(Instant::now() < until, "{what} did not come to be");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Mesh {
    pub fn new(nodes: usize) -> Mesh {
        // `RUST_LOG=openraft=debug` shows what a failing test went through.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().without_time().try_init();
        let node = |_| Node { disk: SimDisk::new(), stores: ModelStores::new(), running: None };
        Mesh {
            clock: Arc::new(PausedClock(Instant::now())),
            network: Arc::default(),
            nodes: (0..nodes).map(node).collect(),
            partition: None,
            published: 0,
        }
    }

    pub fn replica(&self, node: usize) -> ReplicaId {
        ReplicaId { node: NodeId([node as u8 + 1; 32]), incarnation: Incarnation(1) }
    }

    pub fn replicas(&self, nodes: &[usize]) -> BTreeSet<ReplicaId> {
        nodes.iter().map(|node| self.replica(*node)).collect()
    }

    fn open(&mut self, node: usize) -> (ShardDeps, JoinSet<()>) {
        let replica = self.replica(node);
        let this = &self.nodes[node];
        let disk = Arc::new(this.disk.clone());
        let dir = Path::new("/gem");
        let config = JournalConfig { segment_bytes: 1 << 20, disk_reserve: 0, ..JournalConfig::default() };
        let (journal, writer) = Journal::open(disk.clone(), &dir.join("journal"), config, self.clock.clone()).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(run_writer(writer));
        let objects = Objects::open(disk, dir, Origin { node: replica.node, group: None }).unwrap();
        let budget = Budget::new(256 << 20, &[]);
        let mut config = ShardConfig::default();
        // So that a snapshot is needed soon.
        config.group.bytes_kept = 0;
        let deps = ShardDeps {
            replica,
            journal: journal.clone(),
            stores: Arc::new(this.stores.clone()),
            objects: objects.clone(),
            reader: Reader::new(journal, objects),
            reads: Reads::new(Arc::new(InlineReads)),
            tail_cache: TailCache::new(budget.clone(), 1 << 20),
            budget,
            clock: self.clock.clone(),
            secret: [9; 32],
            dead_letters: Arc::new(NoLetters),
            transport: Arc::new(Wire { me: replica.node, network: self.network.clone() }),
            config,
        };
        (deps, tasks)
    }

    async fn run(&mut self, node: usize, deps: ShardDeps, tasks: JoinSet<()>) {
        let (journal, replica) = (deps.journal.clone(), deps.replica);
        let shard = Shard::open(deps, GROUP).await.unwrap();
        self.network.lock().unwrap().shards.insert(replica.node, shard.clone());
        self.nodes[node].running = Some((shard, journal, tasks));
    }

    pub async fn found(&mut self, node: usize) {
        let (deps, tasks) = self.open(node);
        Shard::found(&deps, GROUP, Prefix::ROOT).await.unwrap();
        self.run(node, deps, tasks).await;
        self.shard(node).serving(WAIT).await.unwrap();
        let name = TopicName::new("orders").unwrap();
        let (info, _) = self.shard(node).create_topic(name, TopicConfig::default()).await.unwrap();
        self.partition = Some(info.partitions[0].id);
    }

    pub async fn join(&mut self, node: usize) {
        let (deps, tasks) = self.open(node);
        Shard::make_empty(&deps, GROUP, Prefix::ROOT, Incarnation(1)).await.unwrap();
        self.run(node, deps, tasks).await;
    }

    pub async fn start(&mut self, node: usize) {
        let (deps, tasks) = self.open(node);
        self.run(node, deps, tasks).await;
    }

    pub async fn three_voters(&mut self) {
        self.found(0).await;
        for node in [1, 2] {
            self.join(node).await;
            self.shard(0).add_learner(self.replica(node)).await.unwrap();
        }
        self.shard(0).set_voters(self.replicas(&[0, 1, 2])).await.unwrap();
    }

    /// As kill -9 does: what was flushed stays.
    pub async fn kill(&mut self, node: usize) {
        let replica = self.replica(node);
        self.network.lock().unwrap().shards.remove(&replica.node);
        let (shard, journal, mut tasks) = self.nodes[node].running.take().unwrap();
        self.nodes[node].stores.crash();
        self.nodes[node].disk.kill();
        let _ = shard.close().await;
        journal.close();
        drop(shard);
        tasks.shutdown().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.nodes[node].stores.crash();
    }

    pub fn cut(&self, node: usize, is_cut: bool) {
        let id = self.replica(node).node;
        let mut network = self.network.lock().unwrap();
        if is_cut {
            network.cut.insert(id);
        } else {
            network.cut.remove(&id);
        }
    }

    pub fn shard(&self, node: usize) -> Arc<Shard> {
        self.nodes[node].running.as_ref().unwrap().0.clone()
    }

    fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].running.is_some()).collect()
    }

    pub async fn leader(&self) -> usize {
        let running = self.running();
        self.leader_among(&running).await
    }

    pub async fn leader_among(&self, nodes: &[usize]) -> usize {
        let leads = |node: &usize| matches!(self.shard(*node).status(), Status::Leading { .. });
        wait_for("a leader", || nodes.iter().any(leads)).await;
        nodes.iter().copied().find(|node| leads(node)).unwrap()
    }

    pub async fn publish(&mut self, node: usize, count: u64) {
        for _ in 0..count {
            self.try_publish(node, 1, WAIT).await.unwrap();
            self.published += 1;
        }
    }

    pub async fn try_publish(&self, node: usize, count: u64, wait: Duration) -> Result<()> {
        let mut builder = BatchBuilder::new();
        for n in 0..count {
            let payload = format!("message {} {n} {}", self.published, "x".repeat(500));
            builder.push(&Message { payload: Bytes::from(payload), ..Message::default() }, "");
        }
        let partition = self.partition.unwrap();
        let batch = builder.finish(0);
        let append = Append { partition, batch, dedup: Vec::new(), producer: None, wait };
        self.shard(node).append(append).await.map(drop)
    }

    /// Waits until all that run have applied the same.
    pub async fn caught_up(&self) {
        let running = self.running();
        wait_for("equal replicas", || {
            let views: Vec<_> = running.iter().map(|node| self.shard(*node).view()).collect();

            let last = views.iter().map(|view| view.last).max().unwrap_or(0);
            views.iter().all(|view| view.applied == last && !view.is_changing)
        })
        .await;
    }

    pub fn digests(&self) -> BTreeSet<[u8; 32]> {
        self.running().iter().map(|node| self.shard(*node).digest().unwrap()).collect()
    }

    /// The messages that one replica reads, whoever leads; checks that offsets follow one another.
    pub async fn read_all(&self, node: usize) -> u64 {
        let (mut from, mut found) = (0, 0);
        loop {
            let read = Read { partition: self.partition.unwrap(), from, max_bytes: 10_000, wait: Duration::ZERO };
            let out = self.shard(node).read_here(read).await.unwrap();
            if out.batches.is_empty() {
                return found;
            }
            for batch in &out.batches {
                assert_eq!(batch.base_offset(), from, "no gap");
                found += u64::from(batch.count());
                from = batch.next_offset();
            }
        }
    }
}
