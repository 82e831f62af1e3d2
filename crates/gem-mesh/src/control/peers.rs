//! When to dial whom, and on which connection to open the one stream to each node.
//!
//! Plain synchronous code: events and the time in, actions out. It knows no socket; what identifies
//! a connection is up to the caller.
//!
//! Invariants:
//! - at most one dial, one opening or one link to a node at a time;
//! - a node that failed is left alone for a pause that doubles from [`PAUSE_MIN`] to
//!   [`PAUSE_MAX`], one that refused or was refused for [`REFUSED_PAUSE`], unless it proves itself
//!   on a stream of its own;
//! - what waits for a node is dropped when it can't be reached, so nothing stale is delivered long
//!   after;
//! - the table holds connected and wanted nodes, and at most [`RESTING_MAX`] others.

use std::collections::HashMap;
use std::time::Duration;

use gem_types::NodeId;
use tokio::time::Instant;

/// The pause after a first failure.
pub(super) const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause after failures.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long a node of another mesh, version or secret is left alone.
pub(super) const REFUSED_PAUSE: Duration = Duration::from_secs(60);
/// The most nodes remembered for their pauses alone.
const RESTING_MAX: usize = 4096;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action<C> {
    /// Connect to the node.
    Dial(NodeId),
    /// Open a stream to it on this connection and say hello.
    Open(NodeId, C),
    /// Drop what waits for it: it can't be reached now.
    Drop(NodeId),
}

/// How a stream to a node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// It worked for a while, or its connection is gone.
    Lost,
    /// The hello failed for a reason that may pass.
    Failed,
    /// Mesh, version or secret differ.
    Refused,
}

/// Every node that this one is connected to, wants, or leaves alone.
#[derive(Debug)]
pub(super) struct Peers<C> {
    table: HashMap<NodeId, Peer<C>>,
    actions: Vec<Action<C>>,
}

#[derive(Debug)]
struct Peer<C> {
    /// Newest last.
    connections: Vec<C>,
    link: Link<C>,
    /// Whether something waits for it.
    is_wanted: bool,
    /// Failures since it last proved itself.
    failures: u32,
    /// When it may be tried again.
    rests_until: Option<Instant>,
    /// Whether it rests because it refused, or was refused.
    is_refused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link<C> {
    Down,
    Dialling,
    Opening(C),
    Up(C),
}

impl<C> Default for Peer<C> {
    fn default() -> Self {
        Peer {
            connections: Vec::new(),
            link: Link::Down,
            is_wanted: false,
            failures: 0,
            rests_until: None,
            is_refused: false,
        }
    }
}

impl<C: Copy + PartialEq> Peers<C> {
    pub(super) fn new() -> Self {
        Peers { table: HashMap::new(), actions: Vec::new() }
    }

    /// What to do now.
    pub(super) fn take_actions(&mut self) -> Vec<Action<C>> {
        std::mem::take(&mut self.actions)
    }

    /// When [`Peers::wake`] is to be called next.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        let waits = |peer: &&Peer<C>| peer.is_wanted && peer.link == Link::Down;
        self.table.values().filter(waits).filter_map(|peer| peer.rests_until).min()
    }

    /// Something waits for `node`.
    pub(super) fn want(&mut self, node: NodeId, now: Instant) {
        self.make_room(now);
        self.table.entry(node).or_default().is_wanted = true;
        self.advance(node, now);
    }

    /// A pause may have ended.
    pub(super) fn wake(&mut self, now: Instant) {
        let due = |peer: &Peer<C>| peer.is_wanted && peer.rests_until.is_some_and(|until| until <= now);
        let nodes: Vec<NodeId> = self.table.iter().filter(|(_, peer)| due(peer)).map(|(node, _)| *node).collect();
        nodes.into_iter().for_each(|node| self.advance(node, now));
    }

    /// A connection is there, whoever dialled.
    pub(super) fn connected(&mut self, node: NodeId, connection: C, now: Instant) {
        let peer = self.table.entry(node).or_default();
        peer.connections.push(connection);
        if peer.link == Link::Dialling {
            peer.link = Link::Down;
        }
        self.advance(node, now);
    }

    /// A connection is gone. A link on it ends by itself, and says so; what was to become one will
    /// not.
    pub(super) fn disconnected(&mut self, node: NodeId, connection: C, jitter: u64, now: Instant) {
        let Some(peer) = self.table.get_mut(&node) else { return };
        peer.connections.retain(|other| *other != connection);
        if peer.link == Link::Opening(connection) {
            self.link_ended(node, connection, Ending::Failed, jitter, now);
        }
        self.prune(node);
    }

    /// A dial failed, or there was no address to dial. `jitter` is any number.
    pub(super) fn dial_failed(&mut self, node: NodeId, jitter: u64, now: Instant) {
        let Some(peer) = self.table.get_mut(&node) else { return };
        if peer.link != Link::Dialling {
            return; // It dialled us meanwhile.
        }
        peer.link = Link::Down;
        peer.fail(jitter, now);
        self.advance(node, now);
        self.drop_waiting(node);
    }

    /// The other side has proved itself, on whichever stream.
    pub(super) fn proved(&mut self, node: NodeId, now: Instant) {
        let Some(peer) = self.table.get_mut(&node) else { return };
        (peer.failures, peer.rests_until, peer.is_refused) = (0, None, false);
        self.advance(node, now);
    }

    /// The stream that was to be opened on `connection` could serve now. Whether it is to: not if
    /// it had been given up.
    pub(super) fn link_up(&mut self, node: NodeId, connection: C, now: Instant) -> bool {
        let Some(peer) = self.table.get_mut(&node) else { return false };
        if peer.link != Link::Opening(connection) {
            return false;
        }
        (peer.link, peer.is_wanted) = (Link::Up(connection), false);
        self.proved(node, now);
        true
    }

    /// The stream on `connection`, opening or up, is no more.
    pub(super) fn link_ended(&mut self, node: NodeId, connection: C, ending: Ending, jitter: u64, now: Instant) {
        let Some(peer) = self.table.get_mut(&node) else { return };
        if peer.link != Link::Opening(connection) && peer.link != Link::Up(connection) {
            return;
        }
        peer.link = Link::Down;
        // A connection that lost a stream is not tried again while there is another.
        peer.connections.sort_by_key(|other| *other != connection);
        match ending {
            Ending::Refused => self.refused(node, now),
            Ending::Lost | Ending::Failed => {
                peer.fail(jitter, now);
                self.advance(node, now);
                self.prune(node);
            }
        }
    }

    /// The node is of another mesh, version or secret: nothing is sent to it for a while. Whether
    /// that is news.
    pub(super) fn refuse(&mut self, node: NodeId, now: Instant) -> bool {
        self.make_room(now);
        let was = self.table.get(&node).is_some_and(|peer| peer.is_refused && peer.is_resting(now));
        self.table.entry(node).or_default();
        self.refused(node, now);
        !was
    }

    fn refused(&mut self, node: NodeId, now: Instant) {
        let Some(peer) = self.table.get_mut(&node) else { return };
        (peer.is_refused, peer.rests_until) = (true, Some(now + REFUSED_PAUSE));
        self.drop_waiting(node);
    }

    /// Takes the next step towards a link to `node`, if one is wanted and may be tried.
    fn advance(&mut self, node: NodeId, now: Instant) {
        let Some(peer) = self.table.get_mut(&node) else { return };
        if !peer.is_wanted || peer.link != Link::Down {
            return;
        }
        if peer.is_resting(now) {
            if peer.is_refused {
                self.drop_waiting(node);
            }
            return;
        }
        match peer.connections.last() {
            Some(connection) => {
                peer.link = Link::Opening(*connection);
                self.actions.push(Action::Open(node, *connection));
            }
            None => {
                peer.link = Link::Dialling;
                self.actions.push(Action::Dial(node));
            }
        }
    }

    fn drop_waiting(&mut self, node: NodeId) {
        if let Some(peer) = self.table.get_mut(&node)
            && peer.link == Link::Down
        {
            peer.is_wanted = false;
            self.actions.push(Action::Drop(node));
        }
    }

    /// Forgets a node of which there is nothing to remember.
    fn prune(&mut self, node: NodeId) {
        if self.table.get(&node).is_some_and(|peer| peer.is_idle() && peer.rests_until.is_none()) {
            self.table.remove(&node);
        }
    }

    /// Forgets pauses that are over, and where there are still too many, those that end first.
    fn make_room(&mut self, now: Instant) {
        if self.table.len() < RESTING_MAX {
            return;
        }
        self.table.retain(|_, peer| !peer.is_idle() || peer.is_resting(now));
        let mut idle: Vec<(Option<Instant>, NodeId)> = self
            .table
            .iter()
            .filter(|(_, peer)| peer.is_idle())
            .map(|(node, peer)| (peer.rests_until, *node))
            .collect();
        if idle.len() >= RESTING_MAX {
            idle.sort_unstable();
            idle.iter().take(RESTING_MAX / 4).for_each(|(_, node)| drop(self.table.remove(node)));
        }
    }
}

impl<C: PartialEq> Peer<C> {
    fn is_idle(&self) -> bool {
        self.connections.is_empty() && self.link == Link::Down && !self.is_wanted
    }

    fn is_resting(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| now < until)
    }

    /// Half of the pause is fixed, half is chance: nodes that failed together don't return together.
    fn fail(&mut self, jitter: u64, now: Instant) {
        let pause = pause_after(self.failures, jitter);
        self.failures = self.failures.saturating_add(1);
        (self.is_refused, self.rests_until) = (false, Some(now + pause));
    }
}

/// The pause after the failure that `before` others preceded.
pub(super) fn pause_after(before: u32, jitter: u64) -> Duration {
    let longest = PAUSE_MIN.saturating_mul(1 << before.min(16)).min(PAUSE_MAX);
    longest / 2 + (longest / 2).mul_f64((jitter % 1024) as f64 / 1023.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: NodeId = NodeId([1; 32]);

    fn start() -> (Peers<u32>, Instant) {
        (Peers::new(), Instant::now())
    }

    #[test]
    fn a_wanted_node_is_dialled_once_opened_once_and_served() {
        let (mut peers, now) = start();
        peers.want(A, now);
        peers.want(A, now);
        assert_eq!(peers.take_actions(), [Action::Dial(A)]);
        peers.connected(A, 7, now);
        peers.connected(A, 8, now);
        assert_eq!(peers.take_actions(), [Action::Open(A, 7)]);
        assert!(peers.link_up(A, 7, now));
        peers.want(A, now);
        assert!(peers.take_actions().is_empty());
        peers.link_ended(A, 7, Ending::Lost, 0, now);
        peers.disconnected(A, 7, 0, now);
        assert!(peers.take_actions().is_empty(), "it pauses");
        let later = now + PAUSE_MIN;
        peers.want(A, later);
        assert_eq!(peers.take_actions(), [Action::Open(A, 8)]);
    }

    #[test]
    fn failures_pause_longer_each_time_and_drop_what_waits() {
        let (mut peers, mut now) = start();
        peers.want(A, now);
        let mut pauses = Vec::new();
        for _ in 0..10 {
            assert_eq!(peers.take_actions(), [Action::Dial(A)]);
            peers.dial_failed(A, 1023, now);
            assert_eq!(peers.take_actions(), [Action::Drop(A)]);
            assert_eq!(peers.next_wake(), None);
            peers.want(A, now);
            assert!(peers.take_actions().is_empty());
            let wake = peers.next_wake().unwrap();
            pauses.push(wake - now);
            now = wake;
            peers.wake(now);
        }
        assert_eq!((pauses[0], pauses[1], pauses[9]), (PAUSE_MIN, PAUSE_MIN * 2, PAUSE_MAX));
    }

    #[test]
    fn a_refused_node_is_left_alone_until_it_proves_itself() {
        let (mut peers, now) = start();
        peers.want(A, now);
        peers.connected(A, 1, now);
        peers.take_actions();
        peers.link_ended(A, 1, Ending::Refused, 0, now);
        assert!(!peers.refuse(A, now), "no news");
        peers.disconnected(A, 1, 0, now);
        peers.want(A, now + REFUSED_PAUSE / 2);
        assert!(peers.take_actions().iter().all(|action| *action == Action::Drop(A)));
        peers.connected(A, 2, now);
        peers.proved(A, now);
        peers.want(A, now);
        assert_eq!(peers.take_actions(), [Action::Open(A, 2)]);
        assert!(peers.refuse(A, now + REFUSED_PAUSE));
    }

    #[test]
    fn refusals_of_any_number_of_nodes_are_bounded() {
        let (mut peers, now) = start();
        for number in 0..3 * RESTING_MAX as u32 {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&number.to_be_bytes());
            peers.refuse(NodeId(id), now + Duration::from_millis(number.into()));
        }
        assert!(peers.table.len() <= RESTING_MAX, "{}", peers.table.len());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Want,
        Connect,
        Disconnect(prop::sample::Index),
        DialFails,
        Up,
        Ends(u8),
        Refuse,
        Wait(u16),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Want),
            2 => Just(Step::Connect),
            2 => any::<prop::sample::Index>().prop_map(Step::Disconnect),
            2 => Just(Step::DialFails),
            2 => Just(Step::Up),
            2 => (0..3u8).prop_map(Step::Ends),
            1 => Just(Step::Refuse),
            4 => any::<u16>().prop_map(Step::Wait),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        /// Whatever happens: never two attempts at a time, and what is wanted is tried or dropped.
        #[test]
        fn one_attempt_at_a_time(steps in steps()) {
            let (mut peers, mut now) = start();
            let (mut open, mut next, mut dialling) = (Vec::new(), 0u32, false);
            let mut stream: Option<(u32, bool)> = None;
            let mut waits = false;
            for step in steps {
                match step {
                    Step::Want => { waits = stream.is_none_or(|(_, up)| !up); peers.want(A, now) }
                    Step::Connect => {
                        next += 1;
                        open.push(next);
                        dialling = false;
                        peers.connected(A, next, now);
                    }
                    Step::Disconnect(which) if !open.is_empty() => {
                        let gone = open.remove(which.index(open.len()));
                        peers.disconnected(A, gone, 0, now);
                        if stream.is_some_and(|(on, _)| on == gone) {
                            stream = None;
                            peers.link_ended(A, gone, Ending::Lost, 0, now);
                        }
                    }
                    Step::DialFails if dialling => { dialling = false; peers.dial_failed(A, 0, now) }
                    Step::Up => if let Some((on, false)) = stream {
                        stream = Some((on, true));
                        waits = false;
                        prop_assert!(peers.link_up(A, on, now));
                    }
                    Step::Ends(how) => if let Some((on, _)) = stream.take() {
                        let ending = [Ending::Lost, Ending::Failed, Ending::Refused][how as usize];
                        peers.link_ended(A, on, ending, 0, now);
                    }
                    Step::Refuse => drop(peers.refuse(A, now)),
                    Step::Wait(ms) => { now += Duration::from_millis(ms.into()); peers.wake(now) }
                    _ => {}
                }
                for action in peers.take_actions() {
                    match action {
                        Action::Dial(_) => {
                            prop_assert!(!dialling && stream.is_none() && open.is_empty());
                            dialling = true;
                        }
                        Action::Open(_, on) => {
                            prop_assert!(!dialling && stream.is_none() && open.contains(&on));
                            stream = Some((on, false));
                        }
                        Action::Drop(_) => waits = false,
                    }
                }
                let is_tried = dialling || stream.is_some() || peers.next_wake().is_some();
                prop_assert!(!waits || is_tried, "what waits is neither tried nor dropped");
            }
        }
    }
}
