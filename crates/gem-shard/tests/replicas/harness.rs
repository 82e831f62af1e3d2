//! Nodes with one shard each, and a network that calls straight into them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use gem_shard::log::{Append, DeadLetter, DeadLetters, Delivered, GroupRef, Pull, Read, ShardLog, TopicConfig};
use gem_shard::raft::transport::{Rpc, Transport, unreachable};
use gem_shard::raft::types::{LogId, TypeConfig, Vote};
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
use gem_types::{
    Error, GroupId, GroupName, Incarnation, Message, NodeId, PartitionId, Prefix, ReplicaId, Result, TopicName,
};
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
    /// Single links that are cut, both ways.
    links: BTreeSet<BTreeSet<NodeId>>,
    planted: Option<Bug>,
    /// Requests for payloads of snapshots.
    fetched: u64,
    /// What learners have confirmed, for the bug of that name.
    learned: Option<LogId>,
}

/// Bugs that tests plant in the way between replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// What a learner confirms is taken for a voter's.
    LearnerCounts,
    /// A vote is asked of whatever replica a node has, and counted for the one that is meant.
    LateVote,
    /// A snapshot is told to have no payloads to fetch.
    EmptySnapshot,
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
        let link = BTreeSet::from([self.me, to.node]);
        let is_cut = network.cut.iter().any(|node| link.contains(node)) || network.links.contains(&link);
        network.shards.get(&to.node).filter(|_| !is_cut).cloned()
    }

    /// The replica that is meant, as a node hands calls to it.
    fn meant(&self, to: ReplicaId) -> Option<Arc<Shard>> {
        self.to(to).filter(|shard| shard.replica() == to)
    }

    fn has(&self, bug: Bug) -> bool {
        self.network.lock().unwrap().planted == Some(bug)
    }

    /// Whether `to` has no vote, as this node's replica sees it.
    fn is_learner(&self, to: ReplicaId) -> bool {
        let own = self.network.lock().unwrap().shards.get(&self.me).cloned();
        own.is_some_and(|shard| shard.view().seats.get(&to) == Some(&false))
    }

    fn call<T: Send + 'static, E: std::fmt::Display>(
        &self,
        shard: Option<Arc<Shard>>,
        call: impl FnOnce(Arc<Shard>) -> BoxFuture<'static, std::result::Result<T, E>> + Send + 'static,
    ) -> Rpc<T> {
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
        let last = request.entries.last().map(|entry| entry.log_id);
        let call = self.call(self.meant(to), |shard| async move { shard.on_append(request).await }.boxed());
        if !self.has(Bug::LearnerCounts) {
            return call;
        }
        let (network, is_learner) = (self.network.clone(), self.is_learner(to));
        async move {
            let answer = call.await;
            if is_learner && matches!(answer, Ok(AppendEntriesResponse::Success)) {
                let mut network = network.lock().unwrap();
                network.learned = network.learned.max(last);
            }
            if is_learner || answer.is_ok() {
                return answer;
            }
            // The voter can't be reached; the learner may have it yet.
            for _ in 0..100 {
                if network.lock().unwrap().learned >= last {
                    return Ok(AppendEntriesResponse::Success);
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            answer
        }
        .boxed()
    }

    fn vote(
        &self,
        _: GroupId,
        to: ReplicaId,
        request: VoteRequest<TypeConfig>,
        pre: bool,
        _: Duration,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        let shard = if self.has(Bug::LateVote) { self.to(to) } else { self.meant(to) };
        self.call(shard, move |shard| async move { shard.on_vote(request, pre).await }.boxed())
    }

    fn transfer(
        &self,
        _: GroupId,
        to: ReplicaId,
        request: TransferLeaderRequest<TypeConfig>,
        _: Duration,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        self.call(self.meant(to), |shard| async move { shard.on_transfer(request).await }.boxed())
    }

    fn offer(&self, _: GroupId, to: ReplicaId, from: ReplicaId, vote: Vote, _: Duration) -> Rpc<Vote> {
        self.call(self.meant(to), move |shard| async move { shard.on_offer(from, vote).await }.boxed())
    }

    fn fetch(&self, _: GroupId, from: ReplicaId, request: Fetch) -> BoxFuture<'static, Result<Fetched>> {
        if matches!(request, Fetch::Batches { .. }) {
            self.network.lock().unwrap().fetched += 1;
        }
        let shard = self.meant(from);
        if self.has(Bug::EmptySnapshot) && matches!(request, Fetch::Batches { .. }) {
            return async { Ok(Fetched::Batches { batches: Vec::new() }) }.boxed();
        }
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

    /// A second founding under the group's own id, by a node that ought to have another's.
    pub async fn found_again(&mut self, node: usize) {
        let (deps, tasks) = self.open(node);
        Shard::found(&deps, GROUP, Prefix::ROOT).await.unwrap();
        self.run(node, deps, tasks).await;
        self.shard(node).serving(WAIT).await.unwrap();
        let name = TopicName::new("others").unwrap();
        self.shard(node).create_topic(name, TopicConfig::default()).await.unwrap();
    }

    pub async fn join(&mut self, node: usize) {
        self.join_as(node, Incarnation(1)).await;
    }

    async fn join_as(&mut self, node: usize, incarnation: Incarnation) {
        let (deps, tasks) = self.open(node);
        Shard::make_empty(&deps, GROUP, Prefix::ROOT, incarnation).await.unwrap();
        self.run(node, deps, tasks).await;
    }

    /// The replica of a node is given up, and made again, empty, as another.
    pub async fn make_again(&mut self, node: usize) {
        let id = self.replica(node).node;
        self.network.lock().unwrap().shards.remove(&id);
        let (shard, journal, mut tasks) = self.nodes[node].running.take().unwrap();
        shard.close().await.unwrap();
        shard.give_up().await.unwrap();
        drop(shard);
        journal.close();
        while tasks.join_next().await.is_some() {}
        self.join_as(node, Incarnation(2)).await;
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

    /// Three voters of 250 messages; node 2 is down, and the log begins behind the 50 that it has.
    pub async fn with_one_behind_the_log() -> Mesh {
        let mut mesh = Mesh::new(3);
        mesh.three_voters().await;
        mesh.publish(0, 50).await;
        mesh.caught_up().await;
        mesh.kill(2).await;
        mesh.publish(0, 200).await;
        mesh.purge().await;
        mesh
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

    pub fn cut_link(&self, one: usize, other: usize) {
        let link = BTreeSet::from([self.replica(one).node, self.replica(other).node]);
        self.network.lock().unwrap().links.insert(link);
    }

    /// How often payloads of a snapshot were asked for.
    pub fn fetched(&self) -> u64 {
        self.network.lock().unwrap().fetched
    }

    /// What was flushed is let go of, in the log of every replica that runs.
    pub async fn purge(&self) {
        for node in self.running() {
            self.shard(node).flush_index().await.unwrap();
        }
        // The log is let go of behind that, by the replicas themselves.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }

    pub fn plant(&self, bug: Option<Bug>) {
        self.network.lock().unwrap().planted = bug;
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
        let append = self.append_of(count, wait);
        self.shard(node).append(append).await.map(drop)
    }

    /// One message for a member of the group `g`, through one node.
    pub async fn pull(&self, node: usize, wait: Duration) -> Result<Vec<Delivered>> {
        let topic = TopicName::new("orders").unwrap();
        let group = GroupRef { topic, partition: self.partition.unwrap(), group: GroupName::new("g").unwrap() };
        let pull = Pull {
            group,
            consumer: "c".into(),
            mode: None,
            from: None,
            max: 1,
            max_bytes: 1 << 20,
            wait,
            stream: None,
        };
        self.shard(node).pull(pull).await
    }

    fn append_of(&self, count: u64, wait: Duration) -> Append {
        let mut builder = BatchBuilder::new();
        for n in 0..count {
            let payload = format!("message {} {n} {}", self.published, "x".repeat(500));
            builder.push(&Message { payload: Bytes::from(payload), ..Message::default() }, "");
        }
        let partition = self.partition.unwrap();
        let batch = builder.finish(0);
        Append { partition, batch, dedup: Vec::new(), producer: None, wait }
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

    /// Whether one replica reads `count` messages.
    pub async fn reads_all(&self, node: usize, count: u64) -> bool {
        self.try_read_all(node).await.is_ok_and(|found| found == count)
    }

    /// The messages that one replica reads, whoever leads; checks that offsets follow one another.
    pub async fn read_all(&self, node: usize) -> u64 {
        self.try_read_all(node).await.unwrap()
    }

    async fn try_read_all(&self, node: usize) -> std::result::Result<u64, String> {
        let (mut from, mut found) = (0, 0);
        loop {
            let read = Read { partition: self.partition.unwrap(), from, max_bytes: 10_000, wait: Duration::ZERO };
            let out = self.shard(node).read_here(read).await.map_err(|error| error.to_string())?;
            if out.batches.is_empty() {
                return Ok(found);
            }
            for batch in &out.batches {
                if batch.base_offset() != from {
                    return Err(format!("a gap from {from} to {}", batch.base_offset()));
                }
                found += u64::from(batch.count());
                from = batch.next_offset();
            }
        }
    }
}
