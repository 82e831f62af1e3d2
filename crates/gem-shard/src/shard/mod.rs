//! A shard: one Raft group with its state machine, its leader loop and its way to be read.
//!
//! What it is: [`Shard`] opens the pieces, and implements [`ShardLog`] over them: what changes
//! something goes to the leader loop, what only reads goes to machine, tail cache and files.
//!
//! What it is not: it routes nothing and knows no other shard; dead letters for other shards
//! leave through [`DeadLetters`].
//!
//! Invariants:
//! - Nothing is answered as stored before it is flushed, applied and readable.
//! - No verdict is given before the term's own first entry is applied.
//! - The machine's lock is held for one call at a time, and never across a file's read or an
//!   await.

mod delivery;
mod flush;
mod gathering;
mod appends;
mod leader_loop;
mod reads;
mod replica;
pub(crate) mod requests;
mod serve;
pub(crate) mod shared;
pub(crate) mod tails;
mod upkeep;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gem_store::budget::Budget;
use gem_store::cache::TailCache;
use gem_store::index::ordered::{OrderedStores, StoreId};
use gem_store::journal::Journal;
use gem_store::objects::Objects;
use gem_store::read::{Reader, Reads};
use gem_types::seams::Clock;
use gem_types::{GroupId, Incarnation, Prefix, ReplicaId};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

pub use gathering::GatheredShards;
pub use shared::Status;

use crate::dispatch::DispatchConfig;
use crate::leader::proposer::{Proposer, ProposerConfig};
use crate::log::DeadLetters;
use crate::machine::Machine;
use crate::raft::group::{self, Group, GroupConfig, GroupParts};
use crate::raft::mark::Mark;
use crate::raft::transport::Transport;
use crate::snapshot::receive::Staging;
use crate::snapshot::send::Outgoing;
use crate::watch;
use delivery::Delivery;
use leader_loop::{IdsCharge, LeaderLoop, LoopTasks};
use requests::Asks;
use shared::Shared;
use tails::Tails;

/// How a shard behaves.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Its proposals.
    pub proposer: ProposerConfig,
    /// Its deliveries.
    pub dispatch: DispatchConfig,
    /// Its Raft group.
    pub group: GroupConfig,
    /// The index is flushed each time so many bytes were proposed: what a start applies again at
    /// the most, and what holds the journal.
    pub flush_bytes: u64,
}

impl Default for ShardConfig {
    fn default() -> Self {
        ShardConfig {
            proposer: ProposerConfig::default(),
            dispatch: DispatchConfig::default(),
            group: GroupConfig::default(),
            flush_bytes: 64 << 20,
        }
    }
}

/// What a node lends to its shards.
#[derive(Clone)]
pub struct ShardDeps {
    /// This replica: the node and its disk's incarnation.
    pub replica: ReplicaId,
    /// The node's journal.
    pub journal: Journal,
    /// The node's indexes.
    pub stores: Arc<dyn OrderedStores>,
    /// Takes what snapshots bring.
    pub objects: Objects,
    /// Reads journal and objects.
    pub reader: Reader,
    /// Runs what blocks on files.
    pub reads: Reads,
    /// Recent batches.
    pub tail_cache: Arc<TailCache>,
    /// The node's memory.
    pub budget: Budget,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The mesh's secret, from which delivery tokens are made.
    pub secret: [u8; 32],
    /// The way to dead-letter topics.
    pub dead_letters: Arc<dyn DeadLetters>,
    /// The way to other replicas.
    pub transport: Arc<dyn Transport>,
    /// How the shards behave.
    pub config: ShardConfig,
}

/// How long a stop waits for the leader loop.
const CLOSE_WAIT: Duration = Duration::from_secs(8);

/// A shard on this node. Dropped without [`close`](Shard::close), it stops as after a crash.
pub struct Shard {
    shared: Arc<Shared>,
    group: Arc<Group>,
    asks: Asks,
    purge: Arc<Notify>,
    replica: ReplicaId,
    transport: Arc<dyn Transport>,
    appends: appends::Appends,
    /// One snapshot is taken in at a time.
    taking: tokio::sync::Mutex<()>,
    stop: watch::Sender<bool>,
    /// The leader loop: ended by `stop`.
    tasks: Mutex<JoinSet<()>>,
}

impl Shard {
    /// Makes a founding shard, durably. May be repeated until the node notes that it is founded,
    /// and must not be after: a shard whose journal is lost is not made anew.
    pub async fn found(deps: &ShardDeps, group: GroupId, prefix: Prefix) -> io::Result<()> {
        let store = deps.stores.open(group).map_err(io::Error::other)?;
        let machine = Mutex::new(Machine::open(store).map_err(io::Error::other)?);
        group::found(group, prefix, deps.replica, &deps.journal, &machine).await
    }

    /// Makes a replica that holds nothing yet, durably, in a life that no replica of the group here
    /// had before: open it, and let the shard's leader add it. One that is there is left as it is.
    pub async fn make_empty(
        deps: &ShardDeps,
        group: GroupId,
        prefix: Prefix,
        incarnation: Incarnation,
    ) -> io::Result<()> {
        if deps.journal.marks(group).created.is_none() {
            for id in deps.stores.list().map_err(io::Error::other)? {
                if id.group == group {
                    // Of a life that was given up.
                    deps.stores.remove_at(id).map_err(io::Error::other)?;
                }
            }
        }
        group::make_empty(group, prefix, incarnation, &deps.journal).await
    }

    /// The groups that the journal knows here.
    pub fn groups_of(journal: &Journal) -> Vec<GroupId> {
        journal.groups().into_iter().map(|(group, _)| group).collect()
    }

    /// Opens a shard that is here: applies what is committed, and leads it where this is its
    /// only voter. It serves soon after; calls wait for that.
    ///
    /// Fails where index and journal contradict each other: then this replica is damaged.
    pub async fn open(deps: ShardDeps, group: GroupId) -> io::Result<Arc<Shard>> {
        let created = deps.journal.marks(group).created;
        let created = created.ok_or_else(|| io::Error::other(format!("the journal knows no group {group}")))?;
        let mut mark = Mark::decode(&created).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        let replica = ReplicaId { node: deps.replica.node, incarnation: mark.incarnation };
        let current = StoreId { group, generation: mark.generation };
        for id in deps.stores.list().map_err(io::Error::other)? {
            // What a snapshot was being taken into, what it replaced, what was only looked at.
            if id.group == group && id != current {
                deps.stores.remove_at(id).map_err(io::Error::other)?;
            }
        }
        let staging = Arc::new(Staging::default());
        let store = deps.stores.open_at(current).map_err(io::Error::other)?;
        let machine = Machine::open(store).map_err(io::Error::other)?;
        mark.prefix = machine.range().unwrap_or(mark.prefix);
        let mark = Arc::new(Mutex::new(mark));
        let machine = Arc::new(Mutex::new(machine));
        let tails = Arc::new(Tails::default());
        let (began_to, began) = mpsc::unbounded_channel();
        let parts = GroupParts {
            group,
            replica,
            journal: deps.journal.clone(),
            machine: machine.clone(),
            tail_cache: deps.tail_cache.clone(),
            tails: tails.clone(),
            transport: deps.transport.clone(),
            stores: deps.stores.clone(),
            mark: mark.clone(),
            staging: staging.clone(),
            config: deps.config.group,
        };
        let raft = Arc::new(Group::open(parts, began_to).await?);
        let shared = Arc::new(Shared {
            group,
            machine,
            mark,
            outgoing: Outgoing::new(deps.stores.clone(), group, deps.clock.clone()),
            stores: deps.stores,
            objects: deps.objects,
            staging,
            journal: deps.journal,
            reader: deps.reader,
            reads: deps.reads,
            tail_cache: deps.tail_cache,
            tails,
            clock: deps.clock,
            status: watch::Sender::new(Status::Starting),
            flushing: flush::Flushing::default(),
        });
        let (asks, requests) = Asks::new(deps.budget.clone());
        let (ended_to, ended) = mpsc::unbounded_channel();
        let (stop, stopped) = watch::channel(false);
        let purge = Arc::new(Notify::new());
        let changes = raft.changes();
        let leader_loop = LeaderLoop {
            changes,
            shared: shared.clone(),
            group: raft.clone(),
            dead_letters: deps.dead_letters,
            requests,
            began,
            ended_to,
            ended,
            purge: purge.clone(),
            stop: stopped,
            flush_bytes: deps.config.flush_bytes,
            ids: IdsCharge::new(deps.budget),
            proposer: Proposer::new(deps.config.proposer),
            delivery: Delivery::new(deps.config.dispatch, deps.secret),
            tasks: LoopTasks::default(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(leader_loop.run());
        let (appends, queue) = appends::Appends::new();
        tasks.spawn(queue.run(raft.clone()));
        // The log may lie behind what the last stop flushed.
        purge.notify_one();
        Ok(Arc::new(Shard {
            shared,
            group: raft,
            asks,
            purge,
            replica,
            transport: deps.transport,
            appends,
            taking: tokio::sync::Mutex::new(()),
            stop,
            tasks: Mutex::new(tasks),
        }))
    }

    /// The group's id.
    pub fn id(&self) -> GroupId {
        self.shared.group
    }

    /// The shard's prefix.
    pub fn prefix(&self) -> Prefix {
        self.shared.prefix()
    }

    /// Whether it serves.
    pub fn status(&self) -> Status {
        self.shared.status.borrow().clone()
    }

    /// Waits, `wait` at the most, until it serves.
    pub async fn serving(&self, wait: Duration) -> gem_types::Result<()> {
        self.shared.serving(wait).await
    }

    /// A digest of the replicated state as of what is applied: reads all of it.
    pub fn digest(&self) -> gem_types::Result<[u8; 32]> {
        self.shared.machine()?.digest().map_err(|e| self.shared.internal(e))
    }

    /// How many batches were applied here, since the start, that did not continue their partition and so
    /// were refused: any at all is a fault of GEM's, for an entry is appended in the term in which it
    /// was judged.
    pub fn mismatches(&self) -> u64 {
        self.shared.machine().map_or(0, |machine| machine.mismatches())
    }

    /// Flushes the index and then lets go of the log behind it.
    pub async fn flush_index(&self) -> io::Result<()> {
        let flushed = self.shared.clone().flush_index_away(self.group.clone()).await;
        flushed.map_err(io::Error::other)?;
        self.purge.notify_one();
        Ok(())
    }

    /// Stops: takes nothing in, ends what is in flight, stops Raft, flushes the index. The journal
    /// is the node's to close, after all shards.
    pub async fn close(&self) -> io::Result<()> {
        self.stop.send_replace(true);
        self.appends.close();
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        let ended = async { while tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(CLOSE_WAIT, ended).await;
        tasks.shutdown().await;
        self.group.close().await?;
        self.shared.clone().flush_index_away(self.group.clone()).await.map_err(io::Error::other)
    }
}
