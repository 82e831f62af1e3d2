//! Placement at work: what [`gem_mesh::placement::plan`] says for the shards that this node leads
//! is carried out here, and what leaders elsewhere ask of this node is admitted or refused.
//!
//! Invariants:
//! - A shard has at most one step under way.
//! - The receiver admits: a node that drains, is full, or builds enough already, refuses.
//! - A replica is given up only on the word that committed members do not include it.

pub mod wire;

pub(crate) mod lead;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use gem_mesh::{Calls, Parcel};
use gem_shard::{Shard, ShardDeps, Status};
use gem_types::seams::{Clock, Random};
use gem_types::{Error, GroupId, Incarnation, NodeId, Prefix, Result};
use tokio_util::task::TaskTracker;

use super::agent::Agent;
use super::raft::expect;
use super::{describe, kinds};
use crate::shards::Shards;
use wire::{Answer, Request};

/// How long a node may take to answer a leader's request.
const ASK_WAIT: Duration = Duration::from_secs(15);
/// Replicas that a node builds at once.
const BUILDING_MAX: usize = 4;
/// A replica that was made and that nobody has added is given up after so long.
const UNUSED_FOR: Duration = Duration::from_secs(120);

/// How placement is set.
#[derive(Clone, Copy, Debug)]
pub struct PlaceSettings {
    /// The voters that a shard should have.
    pub replicas: u32,
    /// After how long a dead node's replicas are rebuilt elsewhere.
    pub replace_after: Duration,
}

/// See the module's page.
pub struct Placer {
    settings: PlaceSettings,
    shards: Shards,
    agent: Arc<Agent>,
    calls: Arc<dyn Calls>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    deps: OnceLock<ShardDeps>,
    state: Mutex<State>,
    /// How often this node has begun to lead a shard.
    led: AtomicU64,
    tasks: TaskTracker,
}

#[derive(Default)]
struct State {
    /// Shards with a step under way.
    busy: BTreeSet<GroupId>,
    /// What is being done about which shard, in words.
    doing: BTreeMap<GroupId, String>,
    /// Nodes that a person has taken out of the mesh.
    removed: BTreeSet<NodeId>,
    /// When replicas were made that nobody has added yet.
    made: BTreeMap<GroupId, Duration>,
    /// When the last step for the sake of balance was taken.
    balanced: Option<Duration>,
    /// When a node last came or went.
    changed: Option<Duration>,
    is_draining: bool,
}

impl Placer {
    /// A placer; it opens replicas once [`begin`](Self::begin) has given it what they need.
    pub fn new(
        settings: PlaceSettings,
        shards: Shards,
        agent: Arc<Agent>,
        calls: Arc<dyn Calls>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Arc<Placer> {
        Arc::new(Placer {
            settings,
            shards,
            agent,
            calls,
            clock,
            random,
            deps: OnceLock::new(),
            state: Mutex::default(),
            led: AtomicU64::new(0),
            tasks: TaskTracker::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one call on a collection: a panic leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How placement is set.
    pub fn settings(&self) -> PlaceSettings {
        self.settings
    }

    /// From now on replicas can be opened.
    pub fn begin(&self, deps: ShardDeps) {
        let _ = self.deps.set(deps);
    }

    /// Takes in a shard that is open, and tells the mesh of it whenever this node begins to lead
    /// it.
    pub fn put(self: &Arc<Self>, shard: Arc<Shard>) {
        self.shards.put(shard.clone());
        let placer = self.clone();
        self.tasks.spawn(async move {
            let mut led = None;
            loop {
                match shard.status() {
                    Status::Leading { term } => {
                        if led.replace(term) != Some(term) {
                            placer.led.fetch_add(1, Ordering::Relaxed);
                        }
                        placer.agent.tell_shard(describe(&shard));
                    }
                    Status::Stopped { .. } => return,
                    _ => {}
                }
                shard.changed().await;
            }
        });
    }

    /// Tasks that tell the mesh of shards end with these.
    pub async fn finish(&self, wait: Duration) {
        self.tasks.close();
        let _ = tokio::time::timeout(wait, self.tasks.wait()).await;
    }

    /// What is being done about a shard, in words; empty where nothing is.
    pub fn doing(&self, group: GroupId) -> String {
        self.state().doing.get(&group).cloned().unwrap_or_default()
    }

    /// Nodes that a person has taken out of the mesh.
    pub fn removed(&self) -> BTreeSet<NodeId> {
        self.state().removed.clone()
    }

    /// How often this node has begun to lead a shard.
    pub fn led(&self) -> u64 {
        self.led.load(Ordering::Relaxed)
    }

    /// Whether this node is being emptied.
    pub fn is_draining(&self) -> bool {
        self.state().is_draining
    }

    /// Asks `to`, or this node itself.
    pub async fn ask(self: &Arc<Self>, to: NodeId, request: Request) -> Answer {
        if to == self.agent.node() {
            return self.asked(to, request).await;
        }
        let parcel = Parcel { kind: kinds::PLACE, parts: wire::encode(&request) };
        let answer = self.calls.call(to, 0, parcel, ASK_WAIT).await;
        let parts = expect(kinds::PLACE, answer).map_err(|why| Error::unavailable(why, 1_000))?;
        wire::decode_answer(&parts)
    }

    /// Answers what a node asks of this one.
    pub async fn asked(self: &Arc<Self>, from: NodeId, request: Request) -> Answer {
        tracing::debug!(%from, ?request, "is asked");
        match request {
            Request::Make { group, prefix } => self.make(group, prefix).await,
            Request::Drop { group, replica, epoch } => {
                let Some(shard) = self.shards.get(group).filter(|shard| shard.replica() == replica) else {
                    return Ok(None);
                };
                let view = shard.view();
                if view.epoch > epoch || matches!(shard.status(), Status::Leading { .. }) {
                    return Err(Error::conflict(format!("shard {}: its members changed meanwhile", shard.prefix())));
                }
                self.give_up(group).await.map(|()| None)
            }
            Request::Drain { cancel } => {
                self.state().is_draining = !cancel;
                self.agent.set_draining(!cancel);
                Ok(None)
            }
            Request::Remove { node } => {
                self.state().removed.insert(node);
                Ok(None)
            }
        }
    }

    async fn make(self: &Arc<Self>, group: GroupId, prefix: Prefix) -> Answer {
        let deps = self.deps.get().ok_or_else(|| Error::unavailable("this node is starting", 1_000))?;
        if let Some(shard) = self.shards.get(group) {
            return Ok(Some(shard.replica()));
        }
        {
            let mut state = self.state();
            if state.is_draining {
                return Err(Error::unavailable("this node is being emptied", 10_000));
            }
            if !deps.journal.room().publish_ok {
                return Err(Error::unavailable("this node's disk is full", 10_000));
            }
            if state.made.len() >= BUILDING_MAX {
                return Err(Error::unavailable("this node is building as many replicas as it may", 2_000));
            }
            state.made.insert(group, self.clock.monotonic());
        }
        let made = self.open_empty(deps, group, prefix).await;
        if made.is_err() {
            self.state().made.remove(&group);
        }
        made
    }

    async fn open_empty(self: &Arc<Self>, deps: &ShardDeps, group: GroupId, prefix: Prefix) -> Answer {
        let failed =
            |error: std::io::Error| Error::internal(format!("a replica of shard {prefix} can't be made: {error}"));
        let incarnation = Incarnation(self.random.u64());
        Shard::make_empty(deps, group, prefix, incarnation).await.map_err(failed)?;
        let shard = Shard::open(deps.clone(), group).await.map_err(failed)?;
        let replica = shard.replica();
        tracing::info!(%prefix, %group, "made a replica");
        self.put(shard);
        Ok(Some(replica))
    }

    /// Closes a replica of this node and gives it up.
    async fn give_up(&self, group: GroupId) -> Result<()> {
        let Some(shard) = self.shards.take(group) else { return Ok(()) };
        let prefix = shard.prefix();
        let failed = |error: std::io::Error| {
            Error::internal(format!("the replica of shard {prefix} can't be given up: {error}"))
        };
        self.state().made.remove(&group);
        shard.close().await.map_err(failed)?;
        shard.give_up().await.map_err(failed)?;
        drop(shard);
        if let Some(deps) = self.deps.get() {
            // What is still being read goes when the group comes back, or with the next start.
            let of_group = deps.stores.list().unwrap_or_default().into_iter().filter(|id| id.group == group);
            of_group.for_each(|id| drop(deps.stores.remove_at(id)));
        }
        tracing::info!(%prefix, %group, "gave up a replica");
        Ok(())
    }

    /// Gives up what the mesh has taken from this node without its hearing of it.
    async fn clean(&self) {
        let now = self.clock.monotonic();
        for shard in self.shards.all() {
            let (group, view) = (shard.id(), shard.view());
            let is_new = self.state().made.get(&group).is_some_and(|at| now.saturating_sub(*at) < UNUSED_FOR);
            if is_new || matches!(shard.status(), Status::Leading { .. }) {
                continue;
            }
            let Some(known) = self.agent.of_group(group) else { continue };
            let is_seated = known.seats.iter().any(|seat| seat.replica == shard.replica());
            if known.epoch > view.epoch
                && !is_seated
                && let Err(error) = self.give_up(group).await
            {
                tracing::warn!(%error, "a replica that is not needed stays");
            }
        }
    }

    /// Replicas that have taken in their snapshot are built: others may begin.
    fn note_built(&self) {
        let built = |group: &GroupId| {
            let shard = self.shards.get(*group);
            shard.is_none_or(|shard| {
                let view = shard.view();
                view.applied > 0 && view.seats.contains_key(&shard.replica())
            })
        };
        let made: Vec<GroupId> = self.state().made.keys().copied().collect();
        let done: Vec<GroupId> = made.into_iter().filter(built).collect();
        let mut state = self.state();
        state.made.retain(|group, _| !done.contains(group));
    }

    /// Carries out steps, and cleans up, for as long as it runs.
    pub async fn run(self: Arc<Self>) {
        let mut rounds = 0u32;
        loop {
            // A little chance keeps leaders that read the same digests from acting together.
            let pause = 800 + self.random.u64() % 400;
            tokio::time::sleep(Duration::from_millis(pause)).await;
            self.note_built();
            self.lead();
            rounds = rounds.wrapping_add(1);
            if rounds.is_multiple_of(5) {
                self.clean().await;
            }
        }
    }
}

impl Placer {
    /// A node is there, or there again: its replicas are reached without waiting out a pause.
    pub fn met(self: &Arc<Self>, node: NodeId) {
        self.state().changed = Some(self.clock.monotonic());
        for shard in self.shards.all() {
            let seats = shard.view().seats;
            if let Some(replica) = seats.keys().find(|replica| replica.node == node).copied()
                && matches!(shard.status(), Status::Leading { .. })
            {
                self.tasks.spawn(async move { shard.reached(replica).await });
            }
        }
    }

    /// A node is gone: who followed it need not wait until its lease is over.
    pub fn lost(self: &Arc<Self>, node: NodeId) {
        self.state().changed = Some(self.clock.monotonic());
        for shard in self.shards.all() {
            if matches!(shard.status(), Status::Following { leader, .. } if leader.node == node) {
                let pause = Duration::from_millis(self.random.u64() % 150);
                self.tasks.spawn(async move {
                    tokio::time::sleep(pause).await;
                    // The others grant it or not; one that has stopped says so elsewhere.
                    let _ = shard.stand().await;
                });
            }
        }
    }
}
