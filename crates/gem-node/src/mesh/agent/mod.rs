//! What this node knows of the mesh, and how it comes to know it: membership, directory and DHT,
//! moved by control messages and time.
//!
//! What it is: one lock around the state machines ([`known`]), held for one call at a time; a task
//! that moves them when a timer is due; and what routers and placement ask.
//!
//! Invariants:
//! - Everything here is a hint: a wrong one costs a detour.
//! - The lock is never held across a wait.

mod known;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use gem_mesh::directory::{Contact, Descriptor};
use gem_mesh::membership::{Load, Member, Settings, State};
use gem_mesh::{Control, Hears};
use gem_shard::watch;
use gem_types::seams::{Clock, Random};
use gem_types::{GroupId, MeshId, NodeId, Position};
use tokio::sync::Notify;

use known::{Known, Out};

/// The agent looks at its timers at least so often.
const TICK_MAX: Duration = Duration::from_millis(500);

/// Tells what the agent learns of members.
pub trait Watches: Send + Sync + 'static {
    /// A member is new, back, or has other addresses.
    fn met(&self, member: &Member);
    /// A member is down.
    fn lost(&self, member: &Member, has_left: bool);
    /// A node that may not be a member yet has this address, as others say.
    fn contact(&self, contact: Contact);
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

impl Agent {
    /// An agent of `me`, which knows nobody yet. Fails where a name, a zone or a URL is too long.
    pub fn new(
        me: Member,
        mesh: MeshId,
        settings: Settings,
        clock: Arc<dyn Clock>,
        random: &dyn Random,
        control: Arc<dyn Control>,
        watches: Arc<dyn Watches>,
    ) -> gem_types::Result<Arc<Agent>> {
        let node = me.node;
        let state = Known::new(me, mesh, settings, || random.u64(), clock.monotonic());
        let state = state
            .ok_or_else(|| gem_types::Error::invalid("name, zone or address of this node is too long for gossip"))?;
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
        // The state machines are whole between calls.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change, and carries out what it calls for.
    fn change<T>(&self, change: impl FnOnce(&mut Known, Duration) -> T) -> T {
        let now = self.clock.monotonic();
        let (result, outs) = {
            let mut known = self.known();
            let result = change(&mut known, now);
            (result, known.outs(now))
        };
        let mut has_learned = false;
        for out in outs {
            match out {
                Out::Send(to, bytes) => self.control.send(to, bytes),
                Out::Contact(contact) => self.watches.contact(contact),
                Out::Met(member) => {
                    tracing::info!(node = %member.node, name = member.name, "a node is up");
                    self.watches.met(&member);
                }
                Out::Lost(member, has_left) => {
                    tracing::warn!(node = %member.node, name = member.name, has_left, "a node is down");
                    self.watches.lost(&member, has_left);
                }
                Out::Learned => has_learned = true,
            }
        }
        self.note(has_learned);
        self.moved.notify_one();
        result
    }

    /// Wakes those who wait for a route, where something was learned.
    fn note(&self, has_learned: bool) {
        if has_learned {
            self.learned.send_modify(|count| *count += 1);
        }
    }

    /// Addresses members that are known from elsewhere.
    pub fn join(&self, seeds: impl IntoIterator<Item = NodeId>) {
        self.change(|known, now| known.swim.join(seeds, now));
    }

    /// Moves the membership's timers for as long as it runs.
    pub async fn run(self: Arc<Self>) {
        loop {
            let now = self.clock.monotonic();
            let due = self.known().next_timer();
            let wait = due.map_or(TICK_MAX, |at| at.saturating_sub(now)).min(TICK_MAX);
            if !wait.is_zero() {
                // What is heard meanwhile may bring a nearer timer.
                let _ = tokio::time::timeout(wait, self.moved.notified()).await;
            }
            let now = self.clock.monotonic();
            if self.known().next_timer().is_some_and(|at| at <= now) {
                self.change(|known, now| known.tick(now));
            }
        }
    }

    /// Says that this node leaves as planned.
    pub fn leave(&self) {
        self.change(|known, now| known.swim.leave(now));
    }

    /// Tells the others of this node's load.
    pub fn tell_load(&self, load: Load) {
        self.change(|known, _| {
            known.load = load.clone();
            known.swim.set_load(load);
        });
    }

    /// Tells the others of a shard that this node leads.
    pub fn tell_shard(&self, descriptor: Descriptor) {
        let is_news = self.change(|known, now| known.swim.publish(descriptor, &mut known.table, now));
        self.note(is_news);
    }

    /// Says for which shards this node stands in the DHT: those that it leads.
    pub fn stand_for(&self, shards: &[Descriptor]) {
        self.change(|known, now| known.kademlia.stand_for(shards, now));
    }

    /// Asks the mesh for the shard of `position`, which is not known, or which nobody known leads.
    /// What is learned shows in [`learned`](Self::learned).
    pub fn ask(&self, position: Position) {
        self.change(|known, now| known.ask(position, now));
    }

    /// Learns of a shard by other ways than gossip: a redirect.
    pub fn learn(&self, descriptor: Descriptor) {
        let is_news = self.change(|known, now| known.routes.learn(descriptor, &mut known.table, now));
        self.note(is_news);
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

    /// The last digest of each node, this one included.
    pub fn loads(&self) -> Vec<(NodeId, Load)> {
        let known = self.known();
        let others = known.swim.loads().filter(|(node, _)| *node != self.me);
        others.map(|(node, load)| (node, load.clone())).chain([(self.me, known.load.clone())]).collect()
    }

    /// The shard that holds `position`, as far as is known.
    pub fn find(&self, position: Position) -> Option<Descriptor> {
        self.known().table.find(position).cloned()
    }

    /// The shard of `group`.
    pub fn of_group(&self, group: GroupId) -> Option<Descriptor> {
        self.known().table.get(group).cloned()
    }

    /// All shards that are known, by group.
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
        self.change(|known, now| known.hear(from, &message, now));
    }
}
