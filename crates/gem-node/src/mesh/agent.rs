//! What this node knows of the mesh, and how it comes to know it: the membership and the
//! directory, moved by control messages and time.
//!
//! What it is: one lock around the two state machines, held for one call at a time; a task that
//! moves them when a timer is due; and what routers and placement ask.
//!
//! Invariants:
//! - Everything here is a hint: a wrong one costs a detour.
//! - The lock is never held across a wait.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use gem_mesh::directory::{Descriptor, Table};
use gem_mesh::membership::{Action, Load, Member, Settings, State, Swim};
use gem_mesh::{Control, Hears};
use gem_shard::watch;
use gem_types::seams::{Clock, Random};
use gem_types::{GroupId, NodeId, Position};
use tokio::sync::Notify;

/// The most shards whose descriptors a node keeps.
const DESCRIPTORS_MAX: usize = 65_536;
/// The agent looks at its timers at least so often.
const TICK_MAX: Duration = Duration::from_millis(500);

/// Tells what the agent learns of members.
pub trait Watches: Send + Sync + 'static {
    /// A member is new, back, or has other addresses.
    fn met(&self, member: &Member);
    /// A member is down.
    fn lost(&self, member: &Member, has_left: bool);
}

/// See the module's page.
pub struct Agent {
    me: NodeId,
    clock: Arc<dyn Clock>,
    control: Arc<dyn Control>,
    watches: Arc<dyn Watches>,
    state: Mutex<Known>,
    /// A timer may have changed.
    moved: Notify,
    /// Counts what was learned of shards: those who wait for a route look again.
    learned: watch::Sender<u64>,
}

struct Known {
    swim: Swim,
    table: Table,
}

impl Agent {
    /// An agent of `me`, which knows nobody yet. Fails where a name, a zone or a URL is too long.
    pub fn new(
        me: Member,
        settings: Settings,
        clock: Arc<dyn Clock>,
        random: &dyn Random,
        control: Arc<dyn Control>,
        watches: Arc<dyn Watches>,
    ) -> gem_types::Result<Arc<Agent>> {
        let node = me.node;
        let swim = Swim::new(me, settings, random.u64(), clock.monotonic())
            .map_err(|_| gem_types::Error::invalid("name, zone or address of this node is too long for gossip"))?;
        let state = Known { swim, table: Table::new(node, DESCRIPTORS_MAX) };
        Ok(Arc::new(Agent {
            me: node,
            clock,
            control,
            watches,
            state: Mutex::new(state),
            moved: Notify::new(),
            learned: watch::Sender::new(0),
        }))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Both state machines are whole between calls; a panic inside one ends the node's agent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change, and carries out what it calls for.
    fn change<T>(&self, change: impl FnOnce(&mut Known, Duration) -> T) -> T {
        let now = self.clock.monotonic();
        let (result, actions) = {
            let mut known = self.known();
            let result = change(&mut known, now);
            (result, known.swim.take_actions())
        };
        let mut has_learned = false;
        for action in actions {
            match action {
                Action::Send { to, bytes } => self.control.send(to, bytes),
                Action::Up(member) => {
                    tracing::info!(node = %member.node, name = member.name, "a node is up");
                    self.watches.met(&member);
                }
                Action::Changed(member) => self.watches.met(&member),
                Action::Down { member, has_left } => {
                    tracing::warn!(node = %member.node, name = member.name, has_left, "a node is down");
                    self.watches.lost(&member, has_left);
                }
                Action::Rejoined(_) => tracing::warn!("this node was taken for dead, and goes on"),
                Action::Heard(_) => has_learned = true,
                Action::Load(..) => {}
            }
        }
        if has_learned {
            self.learned.send_modify(|count| *count += 1);
        }
        self.moved.notify_one();
        result
    }

    /// Addresses members that are known from elsewhere.
    pub fn join(&self, seeds: impl IntoIterator<Item = NodeId>) {
        self.change(|known, now| known.swim.join(seeds, now));
    }

    /// Moves the membership's timers for as long as it runs.
    pub async fn run(self: Arc<Self>) {
        loop {
            let now = self.clock.monotonic();
            let due = self.known().swim.next_timer();
            let wait = due.map_or(TICK_MAX, |at| at.saturating_sub(now)).min(TICK_MAX);
            if !wait.is_zero() {
                // What is heard meanwhile may bring a nearer timer.
                let _ = tokio::time::timeout(wait, self.moved.notified()).await;
            }
            let now = self.clock.monotonic();
            if self.known().swim.next_timer().is_some_and(|at| at <= now) {
                self.change(|known, now| known.swim.tick(&known.table, now));
            }
        }
    }

    /// Says that this node leaves as planned.
    pub fn leave(&self) {
        self.change(|known, now| known.swim.leave(now));
    }

    /// Tells the others of this node's load.
    pub fn tell_load(&self, load: Load) {
        self.change(|known, _| known.swim.set_load(load));
    }

    /// Tells the others of a shard that this node leads.
    pub fn tell_shard(&self, descriptor: Descriptor) {
        let is_news = self.change(|known, now| known.swim.publish(descriptor, &mut known.table, now));
        if is_news {
            self.learned.send_modify(|count| *count += 1);
        }
    }

    /// Learns of a shard by other ways than gossip: a redirect.
    pub fn learn(&self, descriptor: Descriptor) -> bool {
        let is_news = self.change(|known, now| known.table.learn(descriptor, now));
        if is_news {
            self.learned.send_modify(|count| *count += 1);
        }
        is_news
    }

    /// Marks this node as being emptied, or not.
    pub fn set_draining(&self, is_draining: bool) {
        self.change(|known, now| {
            let me = Member { is_draining, ..known.swim.me().clone() };
            // Only the flag differs from what was sound before.
            let _ = known.swim.update_me(me, now);
        });
    }

    /// This node.
    pub fn me(&self) -> Member {
        self.known().swim.me().clone()
    }

    /// This node's id.
    pub fn node(&self) -> NodeId {
        self.me
    }

    /// The other members, and how this node stands with them.
    pub fn others(&self) -> Vec<(Member, State)> {
        self.known().swim.members()
    }

    /// The last digest of each node.
    pub fn loads(&self) -> Vec<(NodeId, Load)> {
        self.known().swim.loads().map(|(node, load)| (node, load.clone())).collect()
    }

    /// The shard that holds `position`, as far as is known.
    pub fn find(&self, position: Position) -> Option<Descriptor> {
        self.known().table.find(position).cloned()
    }

    /// The shard of `group`.
    pub fn of_group(&self, group: GroupId) -> Option<Descriptor> {
        self.known().table.get(group).cloned()
    }

    /// All shards that are known, in ring order.
    pub fn shards(&self) -> Vec<Descriptor> {
        self.known().table.all().cloned().collect()
    }

    /// Tells when something was learned of a shard.
    pub fn learned(&self) -> watch::Receiver<u64> {
        self.learned.subscribe()
    }
}

impl Hears for Agent {
    fn hear(&self, from: NodeId, message: Bytes) {
        self.change(|known, now| known.swim.hear(from, &message, &mut known.table, now));
    }
}
