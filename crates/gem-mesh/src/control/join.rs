//! Asking to be let into a mesh, by a node that knows addresses of it and its secret.
//!
//! All addresses are asked side by side, each again after a pause, until one answers or the
//! deadline is there: some nodes may be starting only now. While it asks, the node may listen, so
//! that others that were told to join *it* hear that it belongs to no mesh either.
//!
//! Invariants: an address that refused for what asking again won't change is not asked again; when
//! none is left, joining ends at once; nothing is ever founded here.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use futures::StreamExt;
use gem_types::NodeId;
use gem_types::seams::Random;
use libp2p::Swarm;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionId, DialError, Stream, StreamProtocol, SwarmEvent};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::TaskTracker;

use super::handshake::{Hello, HelloError};
use super::hello::Refusal;
use super::identity::{multiaddr, node_at, node_of};
use super::joined::{self, JOIN, Joined};
use super::peers::pause_after;
use super::secret::Secret;
use super::streams::{OpenError, What};
use super::swarm::{self, Behaviour, BehaviourEvent, StartError, dial_reason};

/// The longest pause between two attempts at an address.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// The most others that are answered at a time while this node itself asks.
const ANSWERS_MAX: usize = 32;
/// How long sockets may take to close in the end.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// How to join.
pub struct JoinConfig {
    /// Where nodes of the mesh may listen.
    pub addresses: Vec<SocketAddr>,
    /// Where to tell others that this node belongs to no mesh yet: its own control address, free
    /// again when [`join`] returns. `None`: nowhere.
    pub listen: Option<SocketAddr>,
    /// The node's key.
    pub key: SigningKey,
    /// The join secret.
    pub secret: Secret,
    /// For nonces and for the chance in pauses.
    pub random: Arc<dyn Random>,
    /// How long to keep asking.
    pub deadline: Duration,
}

/// What became of asking at one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The address.
    pub address: SocketAddr,
    /// What happened last.
    pub why: String,
    /// How it refused last, if it ever did.
    pub refusal: Option<Refusal>,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.address, self.why)
    }
}

/// Why a node did not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// There was nobody to ask.
    #[error("no address to join was given: name one of a living node with --join ADDR")]
    NoAddress,
    /// This node's own end did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Nobody answered as a node of a mesh does.
    #[error("no node of a mesh was reached: {}; is one running there, and is it its mesh address?", list(.0))]
    Unreachable(Vec<Attempt>),
    /// An answerer and this node don't know the same secret.
    #[error("the join secret was refused: {}; compare --secret-file or $GEM_SECRET with DIR/join-secret of the founding node", list(.0))]
    Secret(Vec<Attempt>),
    /// An answerer speaks another version.
    #[error("a node of another version answered: {}; run one version of GEM, or versions that follow each other", list(.0))]
    Version(Vec<Attempt>),
    /// Whoever answered was itself waiting to join.
    #[error("nobody has founded a mesh: {}; start exactly one node without --join, it founds one", list(.0))]
    NobodyFounded(Vec<Attempt>),
}

fn list(attempts: &[Attempt]) -> String {
    attempts.iter().map(Attempt::to_string).collect::<Vec<_>>().join("; ")
}

impl JoinError {
    /// The most telling of what the attempts met.
    fn of(attempts: Vec<Attempt>) -> Self {
        let met = |wanted: fn(Refusal) -> bool| attempts.iter().filter_map(|one| one.refusal).any(wanted);
        if met(|refusal| refusal == Refusal::Secret) {
            JoinError::Secret(attempts)
        } else if met(|refusal| matches!(refusal, Refusal::Version(_))) {
            JoinError::Version(attempts)
        } else if met(|refusal| refusal == Refusal::Joining) {
            JoinError::NobodyFounded(attempts)
        } else {
            JoinError::Unreachable(attempts)
        }
    }
}

/// Asks until a node of a mesh has told of it, or there is no more to try.
pub async fn join(config: JoinConfig) -> Result<Joined, JoinError> {
    if config.addresses.is_empty() {
        return Err(JoinError::NoAddress);
    }
    let connections = TaskTracker::new();
    let mut swarm = swarm::build(&config.key, &[StreamProtocol::new(JOIN)], &connections)?;
    if let Some(address) = config.listen {
        swarm::listen(&mut swarm, address).await?;
    }
    let mut joining = Joining::new(swarm, &config);
    let joined = timeout(config.deadline, joining.run()).await.unwrap_or_default();
    let result = joined.ok_or_else(|| JoinError::of(joining.attempts()));
    joining.tasks.shutdown().await;
    drop(joining);
    // So that the address is free again; libp2p's tasks hold nothing that could keep them.
    connections.close();
    let _ = timeout(CLOSE_WAIT, connections.wait()).await;
    result
}

struct Joining {
    swarm: Swarm<Behaviour>,
    asker: Asker,
    targets: Vec<Target>,
    tasks: JoinSet<Done>,
    answers: usize,
}

/// What every hello needs.
#[derive(Clone)]
struct Asker {
    me: NodeId,
    secret: Secret,
    random: Arc<dyn Random>,
}

struct Target {
    address: SocketAddr,
    state: State,
    failures: u32,
    why: String,
    refusal: Option<Refusal>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    RestsUntil(Instant),
    /// On its way to a stream.
    Dialled(ConnectionId),
    /// A task asks: it alone says how that ends, whatever becomes of the connection meanwhile.
    Asked(ConnectionId),
    Over,
}

enum Done {
    Asked(ConnectionId, Result<Joined, HelloError>),
    Answered,
}

impl Joining {
    fn new(swarm: Swarm<Behaviour>, config: &JoinConfig) -> Self {
        let mut addresses = config.addresses.clone();
        addresses.sort_unstable();
        addresses.dedup();
        let target = |address| Target {
            address,
            state: State::RestsUntil(Instant::now()),
            failures: 0,
            why: "it has not answered".to_owned(),
            refusal: None,
        };
        let asker = Asker { me: node_of(&config.key), secret: config.secret.clone(), random: config.random.clone() };
        let targets = addresses.into_iter().map(target).collect();
        Joining { swarm, asker, targets, tasks: JoinSet::new(), answers: 0 }
    }

    /// `None`: no address is left to ask.
    async fn run(&mut self) -> Option<Joined> {
        loop {
            self.dial_rested();
            let rests = self.targets.iter().filter_map(|target| match target.state {
                State::RestsUntil(until) => Some(until),
                _ => None,
            });
            let wake = rests.min();
            if wake.is_none() && self.targets.iter().all(|target| target.state == State::Over) {
                return None;
            }
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_swarm(event),
                Some(done) = self.tasks.join_next() => match done {
                    Ok(Done::Asked(_, Ok(joined))) => return Some(joined),
                    Ok(Done::Asked(connection, Err(error))) => self.on_refused(connection, &error),
                    Ok(Done::Answered) => self.answers -= 1,
                    Err(_) => {}
                },
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
        }
    }

    fn attempts(&self) -> Vec<Attempt> {
        let attempt = |one: &Target| Attempt { address: one.address, why: one.why.clone(), refusal: one.refusal };
        self.targets.iter().map(attempt).collect()
    }

    fn dial_rested(&mut self) {
        let now = Instant::now();
        for target in &mut self.targets {
            if matches!(target.state, State::RestsUntil(until) if until <= now) {
                let address = multiaddr(target.address);
                let dial = DialOpts::unknown_peer_id().address(address).allocate_new_port().build();
                target.state = State::Dialled(dial.connection_id());
                if let Err(error) = self.swarm.dial(dial) {
                    target.fail(dial_reason(&error), self.asker.random.u64());
                }
            }
        }
    }

    fn on_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { connection_id, peer_id, .. }
                if self.target(connection_id).is_some() =>
            {
                self.swarm.behaviour_mut().streams.open(peer_id, connection_id, StreamProtocol::new(JOIN));
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                let is_over = matches!(error, DialError::LocalPeerId { .. });
                self.fail(connection_id, dial_reason(&error), is_over);
            }
            SwarmEvent::ConnectionClosed { connection_id: closed, .. }
                if self.target(closed).is_some_and(|target| target.state == State::Dialled(closed)) =>
            {
                self.fail(closed, "it closed the connection".to_owned(), false);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Streams(event)) => match (event.what, node_at(&event.peer)) {
                (What::Opened(stream), Some(node)) => self.ask(node, event.connection, stream),
                (What::Came(_, stream), Some(node)) => self.answer(node, stream),
                (What::Failed(error), _) => {
                    let is_over = matches!(error, OpenError::Unsupported(_));
                    self.fail(event.connection, error.to_string(), is_over);
                }
                (_, None) => {
                    self.swarm.close_connection(event.connection);
                }
            },
            _ => {}
        }
    }

    fn ask(&mut self, node: NodeId, connection: ConnectionId, mut stream: Stream) {
        let Some(target) = self.target(connection) else { return };
        target.state = State::Asked(connection);
        let asker = self.asker.clone();
        self.tasks.spawn(async move {
            let asked = joined::ask(&asker.hello(node), &mut stream).await;
            Done::Asked(connection, asked)
        });
    }

    fn answer(&mut self, node: NodeId, mut stream: Stream) {
        if self.answers >= ANSWERS_MAX {
            return;
        }
        self.answers += 1;
        let asker = self.asker.clone();
        self.tasks.spawn(async move {
            // It is told why, and asks again: what became of it is its own affair.
            let _ = joined::answer(&asker.hello(node), &mut stream, None).await;
            Done::Answered
        });
    }

    fn on_refused(&mut self, connection: ConnectionId, error: &HelloError) {
        let is_over = error.refusal().is_some_and(Refusal::is_lasting);
        if let Some(target) = self.target(connection) {
            target.refusal = error.refusal().or(target.refusal);
        }
        self.fail(connection, error.to_string(), is_over);
        self.swarm.close_connection(connection);
    }

    fn fail(&mut self, connection: ConnectionId, why: String, is_over: bool) {
        let jitter = self.asker.random.u64();
        if let Some(target) = self.target(connection) {
            target.fail(why, jitter);
            if is_over {
                target.state = State::Over;
            }
        }
    }

    fn target(&mut self, connection: ConnectionId) -> Option<&mut Target> {
        let is_on = |state| state == State::Dialled(connection) || state == State::Asked(connection);
        self.targets.iter_mut().find(|target| is_on(target.state))
    }
}

impl Target {
    fn fail(&mut self, why: String, jitter: u64) {
        let pause = pause_after(self.failures, jitter).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        self.why = why;
        self.state = State::RestsUntil(Instant::now() + pause);
    }
}

impl Asker {
    fn hello(&self, them: NodeId) -> Hello<'_> {
        let mut nonce = [0; 32];
        self.random.fill(&mut nonce);
        Hello { protocol: JOIN, me: self.me, them, mesh: None, secret: &self.secret, nonce }
    }
}
