//! A libp2p swarm as GEM uses it: TCP, TLS, yamux, and on them identify, ping and GEM's own streams.
//!
//! Invariant: every task that libp2p starts is one of the tracker's: whoever owns that knows when
//! they are all gone.

use std::error::Error as _;
use std::net::SocketAddr;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use futures::StreamExt;
use libp2p::core::transport::TransportError;
use libp2p::swarm::{DialError, NetworkBehaviour, StreamProtocol, SwarmEvent};
use libp2p::{Swarm, SwarmBuilder, identify, ping, tcp, tls, yamux};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::gate::Gate;
use super::identity::{keypair, multiaddr, socket_address};
use super::streams::Streams;

/// How long a connection may take to be made and secured.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// How long a connection without GEM's streams is kept.
const IDLE_WAIT: Duration = Duration::from_secs(10);
/// How often the other end of a connection is pinged, and how long it may take to answer.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_WAIT: Duration = Duration::from_secs(15);
/// How long the operating system may take to give a listening socket.
const LISTEN_WAIT: Duration = Duration::from_secs(5);
/// The most streams of one connection: two of each protocol, and room.
const STREAMS_MAX: usize = 16;

#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    /// First, so that what it refuses reaches no other.
    pub(super) gate: Gate,
    pub(super) streams: Streams,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

/// Why a control plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no listening at the address.
    #[error("the mesh can't listen at {address}: {why}; free the address, or name another with --mesh")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        why: String,
    },
    /// The key does not make a TLS certificate.
    #[error("this node's key does not make a TLS certificate: {0}")]
    Tls(String),
}

/// A swarm that takes in streams of `accepts` and listens nowhere yet.
pub(super) fn build(
    key: &SigningKey,
    accepts: &[StreamProtocol],
    tasks: &TaskTracker,
) -> Result<Swarm<Behaviour>, StartError> {
    let keypair = keypair(key);
    // Nothing is dialled by what identify tells, so it needs no cache of it.
    let identify = identify::Config::new("/gem/1".to_owned(), keypair.public())
        .with_agent_version(concat!("gem/", env!("CARGO_PKG_VERSION")).to_owned())
        .with_cache_size(0);
    let ping = ping::Config::new().with_interval(PING_EVERY).with_timeout(PING_WAIT);
    let behaviour = Behaviour {
        gate: Gate::default(),
        streams: Streams::new(accepts),
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::new(ping),
    };
    let muxer = || {
        let mut config = yamux::Config::default();
        config.set_max_num_streams(STREAMS_MAX);
        config
    };
    let tasks = tasks.clone();
    let executor = move |task| drop(tasks.spawn(task));
    let swarm = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), tls::Config::new, muxer)
        .map_err(|error| StartError::Tls(error.to_string()))?
        .with_behaviour(|_| behaviour)
        .map_err(|error| StartError::Tls(error.to_string()))?
        .with_swarm_config(|_| {
            libp2p::swarm::Config::with_executor(executor)
                .with_idle_connection_timeout(IDLE_WAIT)
                .with_max_negotiating_inbound_streams(STREAMS_MAX / 2)
        })
        .with_connection_timeout(CONNECT_WAIT)
        .build();
    Ok(swarm)
}

/// Begins to listen at `address`, where port 0 stands for any; the address that it is.
pub(super) async fn listen(swarm: &mut Swarm<Behaviour>, address: SocketAddr) -> Result<SocketAddr, StartError> {
    let failed = |why: String| StartError::Listen { address, why };
    probe(address).map_err(|error| failed(error.to_string()))?;
    swarm.listen_on(multiaddr(address)).map_err(|error| failed(transport_reason(&error)))?;
    let listening = async {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::NewListenAddr { address, .. } => return Ok(address),
                SwarmEvent::ListenerClosed { reason, .. } => {
                    return Err(reason.map_or_else(|error| error.to_string(), |()| "the listener closed".to_owned()));
                }
                SwarmEvent::ListenerError { error, .. } => return Err(error.to_string()),
                _ => {}
            }
        }
    };
    let bound = timeout(LISTEN_WAIT, listening).await.unwrap_or_else(|_| Err("no answer in time".to_owned()));
    let bound = bound.map_err(failed)?;
    let port = socket_address(&bound).ok_or_else(|| failed(format!("it became {bound}")))?.port();
    Ok(SocketAddr::new(address.ip(), port))
}

/// Finds out whether another process listens at `address`: libp2p sets SO_REUSEPORT, with which
/// two of one user's nodes would share a port and each get half of the other's connections.
#[expect(clippy::disallowed_methods, reason = "the control plane owns its listening address")]
fn probe(address: SocketAddr) -> std::io::Result<()> {
    if address.port() != 0 {
        drop(std::net::TcpListener::bind(address)?);
    }
    Ok(())
}

/// Why a dial failed, in few words.
pub(super) fn dial_reason(error: &DialError) -> String {
    match error {
        DialError::LocalPeerId { .. } => "it is this node itself".to_owned(),
        DialError::WrongPeerId { obtained, .. } => format!("another node listens there: {obtained}"),
        DialError::Transport(errors) => {
            errors.first().map_or_else(|| "no way there".to_owned(), |(_, error)| transport_reason(error))
        }
        DialError::Denied { cause } => cause.source().map_or_else(|| "denied".to_owned(), ToString::to_string),
        other => other.to_string(),
    }
}

fn transport_reason(error: &TransportError<std::io::Error>) -> String {
    let TransportError::Other(error) = error else { return error.to_string() };
    // libp2p wraps errors in each other; the innermost says what happened.
    let mut inner: &(dyn std::error::Error + 'static) = error;
    loop {
        let wrapped = inner.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref());
        inner = match wrapped {
            Some(error) => error,
            None => match inner.source() {
                Some(error) => error,
                None => return inner.to_string(),
            },
        };
    }
}
