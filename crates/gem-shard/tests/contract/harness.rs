//! Nodes for the suite: one shard over a real disk with RocksDB, or over a simulated disk with the
//! model of the index, on one thread under paused time; either as it is, or as another node sees it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use gem_shard::log::{Append, DeadLetter, DeadLetters, Placed, Read, ReadOut, ShardLog};
use gem_shard::raft::transport::Alone;
use gem_shard::remote::RemoteShard;
use gem_shard::{Shard, ShardConfig, ShardDeps};
use gem_store::budget::Budget;
use gem_store::cache::TailCache;
use gem_store::disk::{Disk, OsDisk, SimDisk};
use gem_store::index::model::ModelStores;
use gem_store::index::ordered::OrderedStores;
use gem_store::index::rocks::{RocksConfig, RocksStores};
use gem_store::journal::{Journal, JournalConfig, WriterThread, run_writer, spawn_writer_thread};
use gem_store::objects::{Objects, Origin};
use gem_store::read::{InlineReads, ReadPool, ReadThreads, Reader, Reads};
use gem_types::batch::{BatchBuilder, RecordBatch};
use gem_types::seams::Clock;
use gem_types::{
    GroupId, Incarnation, Message, NodeId, Offset, PartitionId, Prefix, ReplicaId, Result, TimestampMs, TopicName,
};
use tokio::task::JoinSet;

use crate::pipe::BytePipe;

pub const WAIT: Duration = Duration::from_secs(10);
pub const GROUP: GroupId = GroupId([7; 16]);
const EPOCH_MS: i64 = 1_790_000_000_000;

/// Tokio's clock, which the runtime may pause.
pub struct TestClock {
    started: tokio::time::Instant,
}

/// What a volume is once mounted: disk, indexes, read pool and directory.
type Mounted = (Arc<dyn Disk>, Arc<dyn OrderedStores>, Arc<dyn ReadPool>, PathBuf);

impl Clock for TestClock {
    fn wall_ms(&self) -> i64 {
        EPOCH_MS + self.started.elapsed().as_millis() as i64
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

/// What was published to dead-letter topics.
#[derive(Default)]
pub struct Dead(pub Mutex<Vec<(TopicName, Offset, Bytes)>>);

impl DeadLetters for Dead {
    fn publish(&self, letter: DeadLetter) -> BoxFuture<'_, Result<()>> {
        self.0.lock().unwrap().push((letter.topic, letter.offset, letter.record));
        async { Ok(()) }.boxed()
    }
}

enum Volume {
    Real { _dir: tempfile::TempDir, path: PathBuf },
    Sim { disk: SimDisk, stores: ModelStores },
}

enum Writer {
    Thread(WriterThread),
    Task(JoinSet<()>),
}

/// A node with one shard.
pub struct Node {
    volume: Volume,
    pub clock: Arc<TestClock>,
    pub dead: Arc<Dead>,
    pub config: ShardConfig,
    pub journal_config: JournalConfig,
    running: Option<(Arc<Shard>, Writer, Journal)>,
    is_founded: bool,
    /// Whether [`log`](Node::log) goes through messages.
    is_elsewhere: bool,
    log: Option<Arc<dyn ShardLog>>,
}

impl Node {
    pub fn real() -> Node {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        Node::new(Volume::Real { _dir: dir, path })
    }

    pub fn sim() -> Node {
        Node::new(Volume::Sim { disk: SimDisk::new(), stores: ModelStores::new() })
    }

    /// The same node, its shard spoken to as one elsewhere.
    pub fn elsewhere(self) -> Node {
        Node { is_elsewhere: true, ..self }
    }

    fn new(volume: Volume) -> Node {
        let clock = TestClock { started: tokio::time::Instant::now() };
        Node {
            volume,
            clock: Arc::new(clock),
            dead: Arc::default(),
            config: ShardConfig::default(),
            journal_config: JournalConfig { segment_bytes: 4 << 20, disk_reserve: 0, ..JournalConfig::default() },
            running: None,
            is_founded: false,
            is_elsewhere: false,
            log: None,
        }
    }

    pub fn shard(&self) -> &Arc<Shard> {
        &self.running.as_ref().unwrap().0
    }

    pub fn log(&self) -> &dyn ShardLog {
        &**self.log.as_ref().unwrap()
    }

    pub async fn start(&mut self) {
        self.try_start().await.unwrap();
    }

    pub async fn try_start(&mut self) -> std::io::Result<()> {
        let (disk, stores, pool, dir): Mounted = match &self.volume {
            Volume::Real { path, .. } => (
                Arc::new(OsDisk),
                Arc::new(RocksStores::open(path, RocksConfig::default()).unwrap()),
                Arc::new(ReadThreads::new(2, 1024).unwrap()),
                path.clone(),
            ),
            Volume::Sim { disk, stores } => {
                (Arc::new(disk.clone()), Arc::new(stores.clone()), Arc::new(InlineReads), Path::new("/gem").into())
            }
        };
        let config = self.journal_config.clone();
        let (journal, writer) = Journal::open(disk.clone(), &dir, config, self.clock.clone()).unwrap();
        let writer = match &self.volume {
            Volume::Real { .. } => Writer::Thread(spawn_writer_thread(writer).unwrap()),
            Volume::Sim { .. } => {
                let mut tasks = JoinSet::new();
                tasks.spawn(run_writer(writer));
                Writer::Task(tasks)
            }
        };
        let node = NodeId([1; 32]);
        let objects = Objects::open(disk, &dir, Origin { node, group: None }).unwrap();
        let budget = Budget::new(256 << 20, &[]);
        let deps = ShardDeps {
            replica: ReplicaId { node, incarnation: Incarnation(1) },
            journal: journal.clone(),
            stores,
            reader: Reader::new(journal.clone(), objects.clone()),
            objects,
            reads: Reads::new(pool),
            tail_cache: TailCache::new(budget.clone(), 16 << 20),
            budget,
            clock: self.clock.clone(),
            secret: [9; 32],
            dead_letters: self.dead.clone(),
            transport: Arc::new(Alone),
            config: self.config.clone(),
        };
        if !self.is_founded {
            Shard::found(&deps, GROUP, Prefix::ROOT).await?;
            self.is_founded = true;
        }
        let shard = Shard::open(deps, GROUP).await?;
        self.log = Some(if self.is_elsewhere {
            Arc::new(RemoteShard::new(Arc::new(BytePipe::to(shard.clone())), GROUP, Prefix::ROOT, 1))
        } else {
            shard.clone()
        });
        self.running = Some((shard, writer, journal));
        self.shard().serving(WAIT).await.unwrap();
        Ok(())
    }

    /// A planned stop.
    pub async fn stop(&mut self) {
        self.log = None;
        let (shard, writer, journal) = self.running.take().unwrap();
        shard.close().await.unwrap();
        drop(shard);
        self.end(writer, journal).await;
    }

    /// A power cut: what was not flushed is gone. Only of a simulated node.
    pub async fn crash(&mut self, seed: u64) {
        self.log = None;
        let (shard, writer, journal) = self.running.take().unwrap();
        let Volume::Sim { disk, stores } = &self.volume else { panic!("a real disk loses no power here") };
        disk.crash(seed);
        stores.crash();
        // What is left of the process notices, and dies.
        let _ = shard.close().await;
        drop(shard);
        self.end(writer, journal).await;
    }

    async fn end(&self, writer: Writer, journal: Journal) {
        match writer {
            Writer::Thread(thread) => thread.stop(),
            Writer::Task(mut tasks) => {
                journal.close();
                while tasks.join_next().await.is_some() {}
            }
        }
        // Raft's tasks let go of the index a moment after their shutdown.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    /// Up to where the group's log is purged.
    pub fn purged(&self) -> u64 {
        self.running.as_ref().unwrap().2.marks(GROUP).purged.unwrap().index
    }

    /// The index's directory is gone.
    pub fn lose_index(&self) {
        let Volume::Sim { stores, .. } = &self.volume else { panic!("of a simulated node only") };
        stores.remove(GROUP).unwrap();
    }

    /// How often the disk was flushed.
    pub fn syncs(&self) -> u64 {
        let Volume::Sim { disk, .. } = &self.volume else { panic!("of a simulated node only") };
        disk.syncs()
    }

    pub async fn restart(&mut self) {
        self.stop().await;
        self.start().await;
    }
}

pub fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

/// A batch of messages with these payloads; the id of each is its payload.
pub fn batch_of(payloads: &[&str]) -> RecordBatch {
    keyed(&payloads.iter().map(|payload| ("", *payload)).collect::<Vec<_>>())
}

/// A batch of messages with keys, where they are not empty, and payloads.
pub fn keyed(messages: &[(&str, &str)]) -> RecordBatch {
    let mut builder = BatchBuilder::new();
    for (key, payload) in messages {
        let message = Message {
            key: (!key.is_empty()).then(|| Bytes::copy_from_slice(key.as_bytes())),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            ..Message::default()
        };
        builder.push(&message, payload);
    }
    builder.finish(0)
}

pub fn append_of(partition: PartitionId, batch: RecordBatch) -> Append {
    Append { partition, batch, dedup: Vec::new(), producer: None, wait: WAIT }
}

/// Makes a topic; answers its only partition.
pub async fn make(log: &dyn ShardLog, name: &str) -> PartitionId {
    log.create_topic(topic(name), Default::default()).await.unwrap().0.partitions[0].id
}

pub async fn publish(log: &dyn ShardLog, partition: PartitionId, payloads: &[&str]) -> Vec<Placed> {
    log.append(append_of(partition, batch_of(payloads))).await.unwrap()
}

pub async fn read(log: &dyn ShardLog, partition: PartitionId, from: Offset) -> ReadOut {
    log.read(Read { partition, from, max_bytes: 1 << 20, wait: Duration::ZERO }).await.unwrap()
}

/// Every message from `from` on: offset, payload, time.
pub async fn read_all(log: &dyn ShardLog, partition: PartitionId, from: Offset) -> Vec<(Offset, String, TimestampMs)> {
    let mut all = Vec::new();
    let mut at = from;
    loop {
        let out = read(log, partition, at).await;
        if out.batches.is_empty() {
            return all;
        }
        for batch in &out.batches {
            for record in batch.records() {
                let record = record.unwrap();
                if record.offset >= at {
                    let payload = String::from_utf8(record.value.to_vec()).unwrap();
                    all.push((record.offset, payload, record.timestamp_ms));
                }
            }
        }
        at = out.next;
    }
}

pub async fn payloads(log: &dyn ShardLog, partition: PartitionId) -> Vec<String> {
    read_all(log, partition, 0).await.into_iter().map(|(_, payload, _)| payload).collect()
}
