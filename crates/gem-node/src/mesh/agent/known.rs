//! The state machines behind one lock: who lives, which shards there are, the DHT, and the
//! questions about positions that are not known. What one of them finds is taught to the others.

use std::time::Duration;

use bytes::Bytes;
use gem_mesh::directory::{Contact, Kademlia, Routes, Table, kademlia, message, routes};
use gem_mesh::membership::{self, Load, Member, State, Swim};
use gem_types::{MeshId, NodeId, Position};

/// The most shards whose descriptors a node keeps.
const DESCRIPTORS_MAX: usize = 65_536;

/// What is to be done outside.
pub enum Out {
    /// Send `bytes` to `to`, if it can be reached.
    Send(NodeId, Bytes),
    /// A node of the DHT has this address, as far as others say.
    Contact(Contact),
    /// A member is new, back, or another than before.
    Met(Member),
    /// A member is down.
    Lost(Member, bool),
    /// Something was learned of a shard.
    Learned,
}

/// See the module's page.
pub struct Known {
    pub swim: Swim,
    pub table: Table,
    pub kademlia: Kademlia,
    pub routes: Routes,
    /// This node's own last digest.
    pub load: Load,
    has_contacts: bool,
}

fn contact(member: &Member) -> Contact {
    Contact { node: member.node, control: member.control }
}

impl Known {
    /// A node that knows nobody. `None` where a text in its introduction is too long.
    pub fn new(
        me: Member,
        mesh: MeshId,
        settings: membership::Settings,
        mut seed: impl FnMut() -> u64,
        now: Duration,
    ) -> Option<Known> {
        let table = Table::new(me.node, DESCRIPTORS_MAX);
        let kademlia = Kademlia::new(contact(&me), mesh, kademlia::Settings::default(), seed(), now);
        let routes = Routes::new(routes::Settings::default(), seed());
        let swim = Swim::new(me, settings, seed(), now).ok()?;
        Some(Known { swim, table, kademlia, routes, load: Load::default(), has_contacts: false })
    }

    fn living(&self) -> Vec<NodeId> {
        let lives = |state: &State| !matches!(state, State::Down { .. });
        self.swim.members().into_iter().filter(|(_, state)| lives(state)).map(|(member, _)| member.node).collect()
    }

    /// A message of `from`: its first byte says for which of them.
    pub fn hear(&mut self, from: NodeId, message: &[u8], now: Duration) {
        match message.first() {
            Some(&message::VERSION) => self.kademlia.hear(from, message, now),
            Some(&routes::VERSION) => self.routes.hear(from, message, &mut self.table, now),
            _ => self.swim.hear(from, message, &mut self.table, now),
        }
    }

    /// When the next of their timers is due.
    pub fn next_timer(&self) -> Option<Duration> {
        let timers = [self.swim.next_timer(), self.kademlia.next_timer(), self.routes.next_timer()];
        timers.into_iter().flatten().min()
    }

    /// Moves those whose timers are due.
    pub fn tick(&mut self, now: Duration) {
        let is_due = |at: Option<Duration>| at.is_some_and(|at| at <= now);
        if is_due(self.swim.next_timer()) {
            self.swim.tick(&self.table, now);
        }
        if is_due(self.kademlia.next_timer()) {
            self.kademlia.tick(now);
        }
        if is_due(self.routes.next_timer()) {
            self.routes.tick(&self.living(), now);
        }
    }

    /// Asks for the shard of a position that is not known, or that nobody known leads.
    pub fn ask(&mut self, position: Position, now: Duration) {
        let living = self.living();
        self.routes.doubt(position, &self.table, &living, now);
    }

    /// What has come up, until nothing more does.
    pub fn outs(&mut self, now: Duration) -> Vec<Out> {
        let mut outs = Vec::new();
        loop {
            let (swim, kademlia, routes) =
                (self.swim.take_actions(), self.kademlia.take_actions(), self.routes.take_actions());
            if swim.is_empty() && kademlia.is_empty() && routes.is_empty() {
                return outs;
            }
            swim.into_iter().for_each(|action| self.of_swim(action, now, &mut outs));
            kademlia.into_iter().for_each(|action| self.of_kademlia(action, now, &mut outs));
            routes.into_iter().for_each(|action| self.of_routes(action, now, &mut outs));
        }
    }

    fn of_swim(&mut self, action: membership::Action, now: Duration, outs: &mut Vec<Out>) {
        use membership::Action;
        match action {
            Action::Send { to, bytes } => outs.push(Out::Send(to, bytes)),
            Action::Up(member) | Action::Changed(member) => {
                self.kademlia.add(contact(&member), now);
                if !std::mem::replace(&mut self.has_contacts, true) {
                    self.kademlia.bootstrap(now);
                }
                outs.push(Out::Met(member));
            }
            Action::Down { member, has_left } => {
                self.kademlia.remove(member.node);
                outs.push(Out::Lost(member, has_left));
            }
            Action::Rejoined(_) => tracing::warn!("this node was taken for dead, and goes on"),
            Action::Heard(descriptor) => {
                // Those who asked for it have it now.
                self.routes.learn(descriptor, &mut self.table, now);
                outs.push(Out::Learned);
            }
            Action::Load(..) => {}
        }
    }

    fn of_kademlia(&mut self, action: kademlia::Action, now: Duration, outs: &mut Vec<Out>) {
        use kademlia::Action;
        match action {
            Action::Send { to, bytes } => {
                outs.push(Out::Contact(to));
                outs.push(Out::Send(to.node, bytes));
            }
            Action::Found(_, _, Some(descriptor)) => {
                if self.routes.learn(descriptor, &mut self.table, now) {
                    outs.push(Out::Learned);
                }
            }
            Action::Found(_, _, None) | Action::Got(..) | Action::Nodes(..) => {}
        }
    }

    fn of_routes(&mut self, action: routes::Action, now: Duration, outs: &mut Vec<Out>) {
        use routes::Action;
        match action {
            Action::Send { to, bytes } => outs.push(Out::Send(to, bytes)),
            Action::Search(position) => drop(self.kademlia.search(position, now)),
            Action::Found(..) => outs.push(Out::Learned),
            Action::Lost(position) => tracing::debug!("nobody knows the shard of position {:016x}", position.0),
        }
    }
}
