//! One run: several lives of one node, a fault at the end of each, the invariants over all.

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::chance::Chance;
use crate::disk::LifeDisk;
use crate::event::{End, Event};
use crate::faults;
use crate::invariants::Checks;
use crate::node::Node;
use crate::setup::{Planted, Setup};
use crate::workload::{Mesh, OneNode, Workload, audit};
use crate::world::{Totals, Violation, World};

/// A run that takes longer, in virtual time, hangs.
const RUN_MAX: Duration = Duration::from_secs(20_000);
/// After so long without clients nothing changes any more.
const SETTLED: Duration = Duration::from_secs(40);
/// How long to wait for a power cut in the middle of an operation.
const CUT_WAIT_MS: u64 = 2_000;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Hash and length of its trace.
    pub trace: (u64, u64),
    /// Checks made.
    pub checks: Checks,
    /// What was done.
    pub totals: Totals,
    /// The first promise that was not kept.
    pub violation: Option<Violation>,
    /// Its length in virtual time.
    pub virtual_ms: u64,
}

thread_local! {
    /// The last panic on this thread: tasks' panics are caught by their runtime.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Makes panics part of a run's report, instead of printing them.
pub fn note_panics() {
    std::panic::set_hook(Box::new(|info| PANIC.with(|panic| *panic.borrow_mut() = Some(info.to_string()))));
}

/// Runs `seed`.
pub fn run(seed: u64, planted: Planted, is_printed: bool) -> Report {
    let mut chance = Chance::new(seed);
    let setup = Setup::draw(planted, &mut chance);
    within(seed, setup, is_printed, async |world| live(world, &mut chance).await)
}

/// Runs `live` in a world of its own, on this thread alone.
pub fn within(seed: u64, setup: Setup, is_printed: bool, live: impl AsyncFnOnce(&Arc<World>)) -> Report {
    gem_shard::raft::runtime::seed(seed);
    gem_shard::planted::release();
    gem_shard::planted::plant_any_term(setup.planted == Planted::AnyTerm);
    PANIC.with(|panic| panic.borrow_mut().take());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    // A machine without memory for a runtime runs no simulation.
    let runtime = runtime.expect("a runtime without I/O can be made");
    let world = runtime.block_on(async { World::new(setup, is_printed) });
    let lives =
        AssertUnwindSafe(|| runtime.block_on(async { tokio::time::timeout(RUN_MAX, live(&world)).await.is_ok() }));
    let ended = std::panic::catch_unwind(lives);
    let panic = PANIC.with(|panic| panic.borrow_mut().take());
    let at_ms = runtime.block_on(async { world.clock.now_ms() });
    drop(runtime);
    let broken = |what| Some(Violation { invariant: "serves", what, at_ms });
    let violation = match (world.violation(), panic, ended) {
        (Some(violation), ..) => Some(violation),
        (None, Some(panic), _) => broken(format!("something panicked: {panic}")),
        (None, None, Ok(true)) => None,
        (None, None, _) => broken("the run does not come to its end".to_owned()),
    };
    let (hash, lines, checks, totals) = world.results();
    Report { seed, trace: (hash, lines), checks, totals, violation, virtual_ms: at_ms }
}

async fn live(world: &Arc<World>, chance: &mut Chance) {
    let mut workload = Workload::new(world, chance);
    for life in 0..=world.setup.lives {
        let is_last = life == world.setup.lives;
        let end = if is_last { faults::draw_last_end(chance) } else { faults::draw_end(chance) };
        live_once(world, &mut workload, end, is_last, chance).await;
        if world.violation().is_some() {
            return;
        }
    }
    // Nothing was on its way: what was left must read as it did.
    if let Some(node) = start(world, chance).await {
        let mesh = mesh_of(world, &node);
        report_audit(world, audit::digests(&mesh));
        report_audit(world, audit::audit(&mesh).await);
        drop(mesh);
        stop(world, node).await;
    }
}

fn mesh_of(world: &Arc<World>, node: &Node) -> Mesh {
    Mesh { world: world.clone(), door: Arc::new(OneNode(node.shards.clone())) }
}

fn report_audit(world: &World, result: gem_types::Result<()>) {
    if let Err(error) = result {
        world.emit(Event::ShardStopped(format!("an audit failed: {error}")));
    }
}

/// Starts a life; where the power fails while it starts, another, and so on.
async fn start(world: &Arc<World>, chance: &mut Chance) -> Option<Node> {
    for attempt in 0.. {
        let lies = (world.setup.planted == Planted::AckBeforeFlush).then(|| (30, chance.fork()));
        let disk = LifeDisk::new(world.disk.clone(), world.index.clone(), lies);
        let cut = (attempt < 2 && chance.percent(10)).then(|| chance.below(60));
        if let Some(n) = cut {
            world.disk.cut_power_after(n);
        }
        world.emit(Event::Starting);
        let started = Node::start(world, disk.clone(), chance).await;
        match started {
            Ok(node) if !disk.is_dead() => {
                // The power stays: the cut was for the start alone.
                world.disk.cut_power_after(u64::MAX);
                world.emit(Event::Started);
                return Some(node);
            }
            _ if disk.is_dead() && cut.is_some() => {
                if let Ok(node) = started {
                    node.end().await;
                }
                crash(world, &disk, End::PowerCutAfter(cut.unwrap_or(0)), chance);
                world.emit(Event::Ended);
            }
            Ok(node) => {
                node.end().await;
                world.emit(Event::StartFailed("its disk died by itself".into()));
                return None;
            }
            Err(error) => {
                world.emit(Event::StartFailed(error.to_string()));
                return None;
            }
        }
    }
    None
}

/// The power fails, or the process is killed.
fn crash(world: &World, disk: &LifeDisk, end: End, chance: &mut Chance) {
    world.emit(Event::Ending(end));
    disk.die();
    world.index.crash();
    match end {
        End::Killed => world.disk.kill(),
        _ => world.disk.crash(chance.next()),
    }
}

async fn stop(world: &World, node: Node) {
    world.emit(Event::Ending(End::Stopped));
    let was_well = !node.is_dead();
    let trouble = node.end().await;
    if let Some(trouble) = trouble.filter(|_| was_well) {
        world.emit(Event::ShardStopped(trouble));
    }
    world.emit(Event::Ended);
}

async fn live_once(world: &Arc<World>, workload: &mut Workload, end: End, is_last: bool, chance: &mut Chance) {
    let Some(node) = start(world, chance).await else { return };
    let mesh = mesh_of(world, &node);
    report_audit(world, audit::audit(&mesh).await);
    let mut clients = JoinSet::new();
    workload.start(&mesh, &mut clients);
    clients.spawn(faults::disturb(world.clone(), chance.fork()));
    let length_ms = chance.between(50, world.setup.life_ms_max);
    pass(world, &node, length_ms).await;
    if is_last {
        world.set_slow(false);
        clients.shutdown().await;
        report_audit(world, audit::drain(&mesh).await);
        report_audit(world, audit::audit(&mesh).await);
        // Cuts and expiries that are due, and leases, come to their end.
        tokio::time::sleep(SETTLED).await;
        report_audit(world, audit::digests(&mesh));
    }
    if let End::PowerCutAfter(n) = end {
        world.disk.cut_power_after(n);
        pass(world, &node, CUT_WAIT_MS).await;
    }
    let disk = node.disk();
    if end == End::Stopped {
        if chance.percent(50) {
            clients.shutdown().await;
        }
        drop(mesh);
        stop(world, node).await;
        clients.shutdown().await;
    } else {
        crash(world, &disk, end, chance);
        clients.shutdown().await;
        drop(mesh);
        node.end().await;
        world.emit(Event::Ended);
    }
    world.life_is_over();
}

/// Lets time pass, and watches the node meanwhile. Ends early where the power fails, or a promise
/// is broken.
async fn pass(world: &World, node: &Node, ms: u64) {
    let until = world.clock.now_ms() + ms;
    while world.clock.now_ms() < until && !node.is_dead() && world.violation().is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
        if let Some(stopped) = node.stopped_shard().filter(|_| !node.is_dead()) {
            world.emit(Event::ShardStopped(stopped));
        }
    }
}
