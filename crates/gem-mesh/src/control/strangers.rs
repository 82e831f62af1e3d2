//! What a peer meets that has a key but not the secret, and does not keep to the protocol.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use gem_types::seams::OsRandom;
use gem_types::{MeshId, NodeId};
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionId, Stream, StreamProtocol, SwarmEvent};
use libp2p::{PeerId, Swarm};
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::context::CONTROL;
use super::handshake::HELLO_WAIT;
use super::identity::multiaddr;
use super::joined::JOIN;
use super::streams::What;
use super::swarm::{Behaviour, BehaviourEvent, build};
use super::{Addresses, Config, ControlPlane, Hosts, Joined, Secret, frame};
use crate::seams::Hears;

const WAIT: Duration = Duration::from_secs(20);
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

#[derive(Default)]
struct Counts(AtomicUsize);

impl Hears for Counts {
    fn hear(&self, _: NodeId, _: Bytes) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

struct TellsNobody;

impl Hosts for TellsNobody {
    fn joined(&self) -> Joined {
        panic!("a stranger is told of no mesh")
    }
}

async fn plane() -> (ControlPlane, Arc<Counts>) {
    let heard = Arc::new(Counts::default());
    let config = Config {
        listen: ANY,
        key: SigningKey::from_bytes(&[1; 32]),
        mesh: MeshId([1; 16]),
        secret: Secret::new("s"),
        addresses: Arc::new(Addresses::default()),
        runs: Arc::new(crate::runs::tests::one_run()),
        random: Arc::new(OsRandom),
    };
    (ControlPlane::start(config, heard.clone(), Arc::new(TellsNobody)).await.unwrap(), heard)
}

/// A peer of the test's own making.
struct Stranger {
    swarm: Swarm<Behaviour>,
    peer: PeerId,
    connection: ConnectionId,
}

impl Stranger {
    async fn connect(address: SocketAddr) -> Stranger {
        let mut swarm = build(&SigningKey::from_bytes(&[2; 32]), &[], &TaskTracker::new()).unwrap();
        swarm.dial(DialOpts::unknown_peer_id().address(multiaddr(address)).allocate_new_port().build()).unwrap();
        let connected = async {
            loop {
                match swarm.select_next_some().await {
                    SwarmEvent::ConnectionEstablished { peer_id, connection_id, .. } => {
                        return (peer_id, connection_id);
                    }
                    SwarmEvent::OutgoingConnectionError { error, .. } => panic!("{error}"),
                    _ => {}
                }
            }
        };
        let (peer, connection) = timeout(WAIT, connected).await.unwrap();
        Stranger { swarm, peer, connection }
    }

    /// A stream of `protocol`; `None` where it could not be opened.
    async fn open(&mut self, protocol: &'static str) -> Option<Stream> {
        self.swarm.behaviour_mut().streams.open(self.peer, self.connection, StreamProtocol::new(protocol));
        let opened = async {
            loop {
                match self.swarm.select_next_some().await {
                    SwarmEvent::Behaviour(BehaviourEvent::Streams(event)) => match event.what {
                        What::Opened(stream) => return Some(stream),
                        _ => return None,
                    },
                    SwarmEvent::ConnectionClosed { .. } => return None,
                    _ => {}
                }
            }
        };
        timeout(WAIT, opened).await.unwrap()
    }

    async fn until_closed(&mut self) {
        let closed =
            async { while !matches!(self.swarm.select_next_some().await, SwarmEvent::ConnectionClosed { .. }) {} };
        timeout(WAIT, closed).await.expect("a stranger's connection is closed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_no_hello_is_not_heard() {
    let (plane, heard) = plane().await;
    for protocol in [CONTROL, JOIN] {
        let mut stranger = Stranger::connect(plane.address()).await;
        let mut stream = stranger.open(protocol).await.unwrap();
        for _ in 0..50 {
            // It may be cut off meanwhile.
            let _ = frame::write(&mut stream, b"a message like any other").await;
        }
        let end = async { while stream.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {} };
        timeout(WAIT, end).await.unwrap();
        stranger.until_closed().await;
    }
    assert_eq!((heard.0.load(Ordering::SeqCst), plane.peers()), (0, Vec::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_keeps_silent_is_let_go() {
    let (plane, _) = plane().await;
    let begun = Instant::now();
    let mut stranger = Stranger::connect(plane.address()).await;
    let mut stream = stranger.open(CONTROL).await.unwrap();
    stream.write_all(&[0]).await.unwrap();
    stranger.until_closed().await;
    assert!(begun.elapsed() < HELLO_WAIT * 2, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_too_much_is_cut_off_and_others_are_not() {
    let (plane, _) = plane().await;
    let mut greedy = Stranger::connect(plane.address()).await;
    let mut patient = Stranger::connect(plane.address()).await;
    let mut streams = Vec::new();
    while let Some(stream) = greedy.open(CONTROL).await {
        streams.push(stream);
        assert!(streams.len() < 20, "a connection carries a bounded number of streams");
    }
    assert!(patient.open(CONTROL).await.is_some());
}
