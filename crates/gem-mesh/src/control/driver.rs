//! The one task that owns the swarm: carries events to `peers.rs` and its decisions out again.
//!
//! Invariants: every task of a stream belongs to the driver's set and ends with it; a connection
//! carries at most one control stream and one join in from the other side; a connection whose other
//! end has not proved itself in [`STRANGER_WAIT`] is closed.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use gem_types::NodeId;
use libp2p::core::ConnectedPoint;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, Stream, StreamProtocol, SwarmEvent};
use libp2p::{Swarm, identify, ping};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error, warn};

use super::context::{CONTROL, Context};
use super::handshake::{HelloError, refuse_busy};
use super::hello::Refusal;
use super::identity::{multiaddr, node_at, peer_of, socket_address};
use super::joined::{self, JOIN};
use super::link::{self, SendEnd};
use super::meeting;
use super::peers::{Action, Ending, Peers};
use super::streams::{self, OpenError, What};
use super::swarm::{Behaviour, BehaviourEvent, dial_reason};

/// How long a connection may last without a proof.
const STRANGER_WAIT: Duration = Duration::from_secs(15);
/// How often connections are looked through for strangers.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

pub(super) struct Driver {
    swarm: Swarm<Behaviour>,
    context: Arc<Context>,
    peers: Peers<ConnectionId>,
    connections: HashMap<ConnectionId, Connection>,
    /// Bounded by the connections, and their streams.
    tasks: JoinSet<Done>,
    /// Tasks that send.
    links: usize,
}

struct Connection {
    node: NodeId,
    remote: Option<SocketAddr>,
    since: Instant,
    is_proved: bool,
    /// Whether a control stream of the other side is served, or says hello.
    is_heard: bool,
    /// Whether a join of the other side is answered.
    is_joining: bool,
    /// Where the other side says that it listens.
    listens_at: Option<SocketAddr>,
}

/// A task of a stream ended.
struct Done {
    node: NodeId,
    connection: ConnectionId,
    what: Ended,
}

enum Ended {
    Asked(Result<Stream, HelloError>),
    Sent(SendEnd),
    Answered(Result<Stream, HelloError>),
    Heard(std::io::Result<()>),
    Joined(Result<(), HelloError>),
    TurnedAway,
}

impl Driver {
    pub(super) fn new(swarm: Swarm<Behaviour>, context: Arc<Context>) -> Self {
        Driver { swarm, context, peers: Peers::new(), connections: HashMap::new(), tasks: JoinSet::new(), links: 0 }
    }

    /// Runs until the context's stop is called and every link has sent what waited for it.
    pub(super) async fn run(mut self) {
        let context = self.context.clone();
        let mut sweep = Instant::now() + SWEEP_EVERY;
        let mut is_stopping = false;
        while !is_stopping || self.links > 0 {
            let wake = self.peers.next_wake().map_or(sweep, |wake| wake.min(sweep));
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_swarm(event),
                Some(done) = self.tasks.join_next() => match done {
                    Ok(done) => self.on_done(done),
                    Err(error) => error!("a task of the control plane ended badly: {error}"),
                },
                () = context.outboxes.wake.notified(), if !is_stopping => {
                    let now = Instant::now();
                    context.outboxes.take_wanted().into_iter().for_each(|node| self.peers.want(node, now));
                }
                () = sleep_until(wake) => {
                    let now = Instant::now();
                    self.peers.wake(now);
                    if now >= sweep {
                        sweep = now + SWEEP_EVERY;
                        self.close_strangers(now);
                    }
                }
                () = context.stop.cancelled(), if !is_stopping => is_stopping = true,
            }
            self.act();
        }
        self.tasks.shutdown().await;
    }

    fn act(&mut self) {
        loop {
            let actions = self.peers.take_actions();
            if actions.is_empty() {
                return;
            }
            for action in actions {
                match action {
                    Action::Dial(node) => self.dial(node),
                    Action::Open(node, connection) => match peer_of(node) {
                        Some(peer) => {
                            let protocol = StreamProtocol::new(CONTROL);
                            self.swarm.behaviour_mut().streams.open(peer, connection, protocol);
                        }
                        None => self.link_ended(node, connection, Ending::Failed),
                    },
                    Action::Drop(node) => self.context.outboxes.clear(node),
                }
            }
        }
    }

    fn dial(&mut self, node: NodeId) {
        let address = self.context.addresses.control_address(node);
        let failed = match (peer_of(node), address) {
            (Some(peer), Some(address)) => {
                // Dialling from the listening port would meet the remains of an earlier connection
                // between the same two ports.
                let dial = DialOpts::peer_id(peer)
                    .condition(PeerCondition::Always)
                    .addresses(vec![multiaddr(address)])
                    .allocate_new_port();
                self.swarm.dial(dial.build()).err().map(|error| dial_reason(&error))
            }
            _ => Some("no address of it is known".to_owned()),
        };
        if let Some(why) = failed {
            debug!(%node, ?address, "can't be dialled: {why}");
            self.peers.dial_failed(node, self.context.random.u64(), Instant::now());
        }
    }

    fn on_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => match node_at(&peer_id) {
                Some(node) => self.on_connected(node, connection_id, &endpoint),
                None => {
                    self.swarm.close_connection(connection_id);
                }
            },
            SwarmEvent::ConnectionClosed { connection_id, cause, .. } => {
                if let Some(Connection { node, remote, .. }) = self.connections.remove(&connection_id) {
                    debug!(%node, ?remote, ?cause, "a control connection closed");
                    self.peers.disconnected(node, connection_id, self.context.random.u64(), Instant::now());
                }
            }
            SwarmEvent::OutgoingConnectionError { peer_id, error, .. } => {
                if let Some(node) = peer_id.as_ref().and_then(node_at) {
                    debug!(%node, "dialling failed: {}", dial_reason(&error));
                    self.peers.dial_failed(node, self.context.random.u64(), Instant::now());
                }
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                debug!(from = %send_back_addr, "an incoming connection failed: {error}");
            }
            SwarmEvent::ListenerError { error, .. } => warn!("the control plane's listener: {error}"),
            SwarmEvent::ListenerClosed { reason, .. } => {
                error!(?reason, "the control plane listens no more: nodes can't reach this one until it restarts");
            }
            SwarmEvent::Behaviour(BehaviourEvent::Streams(event)) => self.on_stream(event),
            SwarmEvent::Behaviour(BehaviourEvent::Identify(event)) => self.on_identify(event),
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event { connection, result: Err(error), .. })) => {
                debug!(%connection, "closed, for its ping failed: {error}");
                self.swarm.close_connection(connection);
            }
            _ => {}
        }
    }

    fn on_connected(&mut self, node: NodeId, connection: ConnectionId, endpoint: &ConnectedPoint) {
        let (remote, since) = (socket_address(endpoint.get_remote_address()), Instant::now());
        debug!(%node, ?remote, "a control connection");
        let state =
            Connection { node, remote, since, is_proved: false, is_heard: false, is_joining: false, listens_at: None };
        self.connections.insert(connection, state);
        self.peers.connected(node, connection, since);
    }

    /// A hint of an address, from a node that is not heard otherwise: kept until it has proved
    /// itself. Only the host that it connects from is believed.
    fn on_identify(&mut self, event: identify::Event) {
        let identify::Event::Received { connection_id, info, .. } = event else { return };
        let Some(connection) = self.connections.get_mut(&connection_id) else { return };
        let host = connection.remote.map(|remote| remote.ip());
        let listens_at = info.listen_addrs.iter().take(16).filter_map(socket_address);
        connection.listens_at = listens_at.into_iter().find(|address| Some(address.ip()) == host);
        if let (true, Some(address)) = (connection.is_proved, connection.listens_at) {
            self.context.addresses.learn_if_unknown(connection.node, address);
        }
    }

    fn on_stream(&mut self, streams::Event { connection, what, .. }: streams::Event) {
        let Some(state) = self.connections.get_mut(&connection) else { return };
        let node = state.node;
        match what {
            What::Opened(mut stream) => self.run_task(node, connection, move |context| async move {
                let asked = async {
                    context.hello(CONTROL, node).ask(&mut stream).await?;
                    meeting::ask(&mut stream, node, &context.runs).await
                };
                Ended::Asked(asked.await.map(|()| stream))
            }),
            What::Failed(error) => {
                let ending = match error {
                    OpenError::Unsupported(_) => Ending::Refused,
                    OpenError::Other(_) => Ending::Failed,
                };
                let remote = state.remote;
                if ending == Ending::Refused && self.peers.refuse(node, Instant::now()) {
                    warn!(%node, address = ?remote, "no control link: {error}");
                }
                self.link_ended(node, connection, ending);
            }
            What::Came(protocol, mut stream) => {
                let is_control = protocol == StreamProtocol::new(CONTROL);
                let is_taken = if is_control { &mut state.is_heard } else { &mut state.is_joining };
                if std::mem::replace(is_taken, true) {
                    self.run_task(node, connection, move |_| async move {
                        refuse_busy(&mut stream).await;
                        Ended::TurnedAway
                    });
                } else if is_control {
                    self.run_task(node, connection, move |context| async move {
                        let answered = async {
                            context.hello(CONTROL, node).answer(&mut stream, Ok(())).await?;
                            meeting::answer(&mut stream, node, &context.runs).await
                        };
                        Ended::Answered(answered.await.map(|()| stream))
                    });
                } else {
                    self.run_task(node, connection, move |context| async move {
                        let hello = context.hello(JOIN, node);
                        Ended::Joined(joined::answer(&hello, &mut stream, Some(&*context.hosts)).await)
                    });
                }
            }
        }
    }

    fn run_task<F, T>(&mut self, node: NodeId, connection: ConnectionId, task: F)
    where
        F: FnOnce(Arc<Context>) -> T,
        T: Future<Output = Ended> + Send + 'static,
    {
        let task = task(self.context.clone());
        self.tasks.spawn(async move { Done { node, connection, what: task.await } });
    }

    fn on_done(&mut self, Done { node, connection, what }: Done) {
        match what {
            Ended::Asked(Ok(stream)) => {
                self.on_proved(node, connection);
                if self.peers.link_up(node, connection, Instant::now()) {
                    self.links += 1;
                    self.context.count_proved(node, 1);
                    let pushed = self.context.outboxes.attach(node);
                    self.run_task(node, connection, move |context| async move {
                        Ended::Sent(link::send(stream, node, &context.outboxes, &pushed, &context.stop).await)
                    });
                }
            }
            Ended::Asked(Err(error)) => {
                let ending = match self.note_failure(node, connection, &error) {
                    true => Ending::Refused,
                    false => Ending::Failed,
                };
                self.link_ended(node, connection, ending);
                if error.refusal() != Some(Refusal::Busy) {
                    self.swarm.close_connection(connection);
                }
            }
            Ended::Sent(end) => {
                debug!(%node, "a control link ended: {end}");
                self.links -= 1;
                self.context.count_proved(node, -1);
                self.context.outboxes.detach(node);
                if matches!(end, SendEnd::Stuck) {
                    self.swarm.close_connection(connection);
                }
                self.link_ended(node, connection, Ending::Lost);
            }
            Ended::Answered(Ok(stream)) => {
                self.on_proved(node, connection);
                self.context.count_proved(node, 1);
                self.run_task(node, connection, move |context| async move {
                    Ended::Heard(link::hear(stream, node, &*context.hears).await)
                });
            }
            Ended::Heard(end) => {
                debug!(%node, ?end, "nothing more is heard on a control stream");
                self.context.count_proved(node, -1);
                self.free(connection, |state| &mut state.is_heard);
            }
            Ended::Answered(Err(error)) => {
                self.note_failure(node, connection, &error);
                self.free(connection, |state| &mut state.is_heard);
                self.close_unproved(connection);
            }
            Ended::Joined(result) => {
                self.free(connection, |state| &mut state.is_joining);
                match result {
                    // It knows the secret: it may stay for as long as it takes it to go on.
                    Ok(()) => self.mark_proved(connection),
                    Err(error) => {
                        self.note_failure(node, connection, &error);
                        self.close_unproved(connection);
                    }
                }
            }
            Ended::TurnedAway => {}
        }
    }

    /// Says why a hello failed: aloud where a person has to do something, and only once. Whether it
    /// will fail again.
    fn note_failure(&mut self, node: NodeId, connection: ConnectionId, error: &HelloError) -> bool {
        let address = self.connections.get(&connection).and_then(|state| state.remote);
        let is_lasting = error.refusal().is_some_and(Refusal::is_lasting);
        if is_lasting && self.peers.refuse(node, Instant::now()) {
            warn!(%node, ?address, "no control link: {error}");
        } else {
            debug!(%node, ?address, "no control link: {error}");
        }
        is_lasting
    }

    fn on_proved(&mut self, node: NodeId, connection: ConnectionId) {
        self.mark_proved(connection);
        self.peers.proved(node, Instant::now());
        if let Some(address) = self.connections.get(&connection).and_then(|state| state.listens_at) {
            self.context.addresses.learn_if_unknown(node, address);
        }
    }

    fn mark_proved(&mut self, connection: ConnectionId) {
        self.swarm.behaviour_mut().gate.proved(connection);
        if let Some(state) = self.connections.get_mut(&connection) {
            state.is_proved = true;
        }
    }

    fn free(&mut self, connection: ConnectionId, flag: impl FnOnce(&mut Connection) -> &mut bool) {
        if let Some(state) = self.connections.get_mut(&connection) {
            *flag(state) = false;
        }
    }

    fn close_unproved(&mut self, connection: ConnectionId) {
        if self.connections.get(&connection).is_some_and(|state| !state.is_proved) {
            self.swarm.close_connection(connection);
        }
    }

    fn close_strangers(&mut self, now: Instant) {
        let is_stranger = |state: &Connection| !state.is_proved && now - state.since >= STRANGER_WAIT;
        let strangers = self.connections.iter().filter(|(_, state)| is_stranger(state)).map(|(id, _)| *id);
        for id in strangers.collect::<Vec<_>>() {
            self.swarm.close_connection(id);
        }
    }

    fn link_ended(&mut self, node: NodeId, connection: ConnectionId, ending: Ending) {
        self.peers.link_ended(node, connection, ending, self.context.random.u64(), Instant::now());
    }
}
