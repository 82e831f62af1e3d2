//! The world of one run: time, disk and index under the node, what has happened so far, and what
//! the invariants say to it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gem_shard::log::TopicConfig;
use gem_store::disk::SimDisk;
use gem_store::gather::GatherCounts;
use gem_store::index::model::ModelStores;
use gem_types::{PartitionId, TopicName};

use crate::chance::Chance;
use crate::clock::SimClock;
use crate::event::{Event, OpId, Traced};
use crate::facts::{Facts, Moment};
use crate::invariants::{Checks, Invariants};
use crate::node::Stores;
use crate::setup::{Planted, Setup};
use crate::stores::ApartStores;
use crate::trace::Trace;

/// The world. Shared by all tasks of a run, all on one thread.
pub struct World {
    /// How the run is set up.
    pub setup: Setup,
    /// Time.
    pub clock: Arc<SimClock>,
    /// The disk, over all lives.
    pub disk: SimDisk,
    /// The index, over all lives.
    pub index: ModelStores,
    inner: Mutex<Inner>,
}

struct Inner {
    trace: Trace,
    facts: Facts,
    invariants: Invariants,
    violation: Option<Violation>,
    life: u32,
    next_op: OpId,
    is_slow: bool,
    totals: Totals,
    gathered: GatherCounts,
}

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Whose.
    pub invariant: &'static str,
    /// What happened.
    pub what: String,
    /// When, in virtual milliseconds.
    pub at_ms: u64,
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Messages published and acknowledged.
    pub published: u64,
    /// Messages handed to members.
    pub delivered: u64,
    /// Power cuts, kills, planned stops.
    pub power_cuts: u64,
    /// See `power_cuts`.
    pub kills: u64,
    /// See `power_cuts`.
    pub stops: u64,
    /// Journal files recycled.
    pub recycled: u64,
    /// Entries carried forward.
    pub carried: u64,
    /// Batches gathered into objects.
    pub gathered: u64,
    /// Calls of clients that change something.
    pub calls: u64,
    /// What was done to a mesh, by kind.
    pub faults: BTreeMap<&'static str, u64>,
}

impl World {
    /// A new world, with an empty disk. To be made in a runtime whose time is paused.
    pub fn new(setup: Setup, is_printed: bool) -> Arc<World> {
        let index = ModelStores::new();
        index.flush_every(setup.index_flush_every);
        let inner = Inner {
            trace: Trace::new(is_printed),
            facts: Facts::new(setup.is_mesh),
            invariants: Invariants::all(),
            violation: None,
            life: 0,
            next_op: 0,
            is_slow: false,
            totals: Totals::default(),
            gathered: GatherCounts::default(),
        };
        let (clock, disk) = (Arc::new(SimClock::new()), SimDisk::new());
        Arc::new(World { setup, clock, disk, index, inner: Mutex::new(inner) })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic ends the run, and is reported as what it is.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something happened: it is traced, and every invariant looks at it.
    pub fn emit(&self, event: Event) {
        let at_ms = self.clock.now_ms();
        let mut inner = self.inner();
        let Inner { trace, facts, invariants, violation, life, totals, .. } = &mut *inner;
        trace.add(at_ms, &Traced(&event));
        if matches!(event, Event::Starting | Event::Leads { .. }) {
            *life += 1;
        }
        totals.count(&event);
        if violation.is_some() {
            return;
        }
        let at = Moment { ms: at_ms, life: *life };
        facts.observe(&at, &event);
        if let Err((invariant, what)) = invariants.observe(&at, facts, &event) {
            *violation = Some(Violation { invariant, what, at_ms });
            trace.add(at_ms, violation);
        }
    }

    /// A partition was met: the first time, that is an event.
    pub fn meet(&self, partition: PartitionId, topic: &TopicName, config: &TopicConfig) {
        let is_known = self.inner().facts.partitions.contains_key(&partition);
        if !is_known {
            self.emit(Event::Partition { partition, topic: topic.clone(), config: config.clone() });
        }
    }

    /// Names a call.
    pub fn op(&self) -> OpId {
        let mut inner = self.inner();
        inner.next_op += 1;
        inner.totals.calls += 1;
        inner.next_op
    }

    /// Counts a fault of a mesh.
    pub fn struck(&self, kind: &'static str) {
        *self.inner().totals.faults.entry(kind).or_default() += 1;
    }

    /// What is known of the run.
    pub fn facts<T>(&self, look: impl FnOnce(&Facts) -> T) -> T {
        look(&self.inner().facts)
    }

    /// The first promise that was not kept.
    pub fn violation(&self) -> Option<Violation> {
        self.inner().violation.clone()
    }

    /// Whether flushes are slow now.
    pub fn is_slow(&self) -> bool {
        self.inner().is_slow
    }

    /// Makes flushes slow, or usual again.
    pub fn set_slow(&self, is_slow: bool) {
        self.inner().is_slow = is_slow;
        self.emit(Event::Slow(is_slow));
    }

    /// What the gatherer of this life has done so far.
    pub fn gathered(&self, counts: GatherCounts) {
        self.inner().gathered = counts;
    }

    /// A life is over: its gatherer's work is added up.
    pub fn life_is_over(&self) {
        let mut inner = self.inner();
        let counts = std::mem::take(&mut inner.gathered);
        inner.totals.recycled += counts.files_recycled;
        inner.totals.carried += counts.carried;
        inner.totals.gathered += counts.batches;
    }

    /// The index as a life opens it.
    pub fn stores(&self, chance: &mut Chance) -> Stores {
        match self.setup.planted {
            Planted::AppliedApart => Arc::new(ApartStores::new(self.index.clone(), chance.fork())),
            _ => Arc::new(self.index.clone()),
        }
    }

    /// The trace's hash and length, the checks made, the totals.
    pub fn results(&self) -> (u64, u64, Checks, Totals) {
        let inner = self.inner();
        (inner.trace.hash(), inner.trace.lines(), inner.invariants.checks(), inner.totals.clone())
    }
}

impl Totals {
    fn count(&mut self, event: &Event) {
        use crate::event::{Answer, End};
        match event {
            Event::Published { answer: Answer::Done(placed), .. } => self.published += placed.len() as u64,
            Event::Pulled { messages, .. } => self.delivered += messages.len() as u64,
            Event::Ending(End::PowerCut | End::PowerCutAfter(_)) => self.power_cuts += 1,
            Event::Ending(End::Killed) => self.kills += 1,
            Event::Ending(End::Stopped) => self.stops += 1,
            _ => {}
        }
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Totals) {
        self.published += other.published;
        self.delivered += other.delivered;
        self.power_cuts += other.power_cuts;
        self.kills += other.kills;
        self.stops += other.stops;
        self.recycled += other.recycled;
        self.carried += other.carried;
        self.gathered += other.gathered;
        self.calls += other.calls;
        for (kind, count) in &other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
    }
}
