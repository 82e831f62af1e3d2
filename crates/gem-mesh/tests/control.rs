//! The control plane over real sockets on loopback: who is heard, who is refused, what survives.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use gem_mesh::control::{
    Addresses, Book, Config, ControlPlane, Hosts, JoinConfig, JoinError, Joined, Keeper, Keeps, QUEUE_MESSAGES_MAX,
    Refusal, Secret, StartError, join,
};
use gem_mesh::membership::Member;
use gem_mesh::runs::RunBook;
use gem_mesh::seams::{CONTROL_BYTES_MAX, Control, Hears};
use gem_types::seams::OsRandom;
use gem_types::{Incarnation, MeshId, NodeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};

const MESH: MeshId = MeshId([7; 16]);
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
const WAIT: Duration = Duration::from_secs(20);

/// Bytes on a disk that outlives the node.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Option<Vec<u8>>>>);

impl Kept {
    fn copied(&self) -> Kept {
        Kept(Arc::new(Mutex::new(self.0.lock().unwrap().clone())))
    }

    /// A start of a node whose runs these are.
    fn run(&self) -> Arc<RunBook> {
        Arc::new(RunBook::begin(self, Box::new(Kept::default()), &OsRandom).unwrap())
    }
}

impl Keeps for Kept {
    fn load(&self) -> std::io::Result<Option<Vec<u8>>> {
        Ok(self.0.lock().unwrap().clone())
    }

    fn save(&self, bytes: &[u8]) -> std::io::Result<()> {
        *self.0.lock().unwrap() = Some(bytes.to_vec());
        Ok(())
    }
}

#[derive(Default)]
struct Heard {
    messages: Mutex<Vec<(NodeId, Bytes)>>,
    /// While it is set, whoever hands a message up has to wait.
    is_deaf: AtomicBool,
}

impl Hears for Heard {
    fn hear(&self, from: NodeId, message: Bytes) {
        tokio::task::block_in_place(|| {
            while self.is_deaf.load(Ordering::Acquire) {
                std::thread::park_timeout(Duration::from_millis(5));
            }
        });
        self.messages.lock().unwrap().push((from, message));
    }
}

impl Heard {
    fn count_from(&self, node: NodeId) -> usize {
        self.messages.lock().unwrap().iter().filter(|(from, _)| *from == node).count()
    }

    fn has(&self, node: NodeId, message: &[u8]) -> bool {
        self.messages.lock().unwrap().iter().any(|(from, bytes)| *from == node && bytes == message)
    }
}

struct Answer(Joined);

impl Hosts for Answer {
    fn joined(&self) -> Joined {
        self.0.clone()
    }
}

struct Node {
    plane: ControlPlane,
    heard: Arc<Heard>,
    addresses: Arc<Addresses>,
    id: NodeId,
    at: SocketAddr,
}

/// What a test may want to differ.
struct Setup {
    seed: u8,
    listen: SocketAddr,
    mesh: MeshId,
    secret: &'static str,
    disk: Kept,
}

impl Setup {
    fn node(seed: u8) -> Setup {
        Setup { seed, listen: ANY, mesh: MESH, secret: "open sesame", disk: Kept::default() }
    }

    fn at(self, listen: SocketAddr) -> Setup {
        Setup { listen, ..self }
    }

    async fn start(self) -> Node {
        self.try_start().await.unwrap()
    }

    async fn try_start(self) -> Result<Node, StartError> {
        let runs = self.disk.run();
        self.start_with(runs).await
    }

    async fn start_with(self, runs: Arc<RunBook>) -> Result<Node, StartError> {
        let (heard, addresses) = (Arc::new(Heard::default()), Arc::new(Addresses::default()));
        let config = Config {
            listen: self.listen,
            key: key(self.seed),
            mesh: self.mesh,
            secret: Secret::new(self.secret),
            addresses: addresses.clone(),
            runs,
            random: Arc::new(OsRandom),
        };
        let answer = Joined { mesh: self.mesh, k: 4, members: vec![member(self.seed)] };
        let plane = ControlPlane::start(config, heard.clone(), Arc::new(Answer(answer))).await?;
        let (id, at) = (plane.node(), plane.address());
        Ok(Node { plane, heard, addresses, id, at })
    }
}

impl Node {
    fn knows(&self, other: &Node) {
        self.addresses.learn(other.id, other.at);
    }

    fn send(&self, to: &Node, message: &'static str) {
        self.plane.send(to.id, Bytes::from_static(message.as_bytes()));
    }

    /// Sends again and again, as membership does: a message may be lost.
    async fn gets_through(&self, to: &Node, message: &'static str) {
        until("a message gets through", || {
            self.send(to, message);
            to.heard.has(self.id, message.as_bytes())
        })
        .await;
    }

    async fn stop(self) {
        self.plane.stop(WAIT).await;
    }
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn member(seed: u8) -> Member {
    Member {
        node: NodeId(key(seed).verifying_key().to_bytes()),
        incarnation: Incarnation(1),
        run: 1,
        control: ANY,
        bulk: ANY,
        http: "http://127.0.0.1:7400".to_owned(),
        zone: String::new(),
        name: format!("node {seed}"),
        is_draining: false,
    }
}

fn joining(seed: u8, addresses: &[SocketAddr], secret: &str, deadline: Duration) -> JoinConfig {
    JoinConfig {
        addresses: addresses.to_vec(),
        listen: None,
        key: key(seed),
        secret: Secret::new(secret),
        random: Arc::new(OsRandom),
        deadline,
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "it never happened that {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// An address that nothing listens at, for as long as it is held.
fn silent_address() -> (tokio::net::TcpSocket, SocketAddr) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(ANY).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// An address that nothing listens at, for as long as nobody is given the same.
#[expect(clippy::disallowed_methods, reason = "a test of sockets")]
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind(ANY).unwrap().local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_talk_in_order_and_end_after_what_they_said() {
    let nodes = [Setup::node(1).start().await, Setup::node(2).start().await, Setup::node(3).start().await];
    for (one, other) in [(0, 1), (1, 2), (2, 0)] {
        nodes[one].knows(&nodes[other]);
        nodes[other].knows(&nodes[one]);
    }
    for from in &nodes {
        for to in nodes.iter().filter(|to| to.id != from.id) {
            (0..100u32).for_each(|number| from.plane.send(to.id, Bytes::copy_from_slice(&number.to_be_bytes())));
        }
        from.plane.send(from.id, Bytes::from_static(b"to itself"));
    }
    until("all is heard", || nodes.iter().all(|node| node.heard.messages.lock().unwrap().len() == 200)).await;
    for to in &nodes {
        for from in nodes.iter().filter(|from| from.id != to.id) {
            let heard = to.heard.messages.lock().unwrap();
            let numbers: Vec<u32> = heard
                .iter()
                .filter(|(node, _)| *node == from.id)
                .map(|(_, message)| u32::from_be_bytes(message[..].try_into().unwrap()))
                .collect();
            assert_eq!(numbers, (0..100).collect::<Vec<_>>());
        }
        let mut others: Vec<NodeId> = nodes.iter().map(|node| node.id).filter(|id| *id != to.id).collect();
        others.sort_unstable();
        assert_eq!(to.plane.peers(), others);
        assert_eq!(to.plane.dropped(), 1, "what it said to itself");
    }
    // The last words are sent before it ends.
    let [a, b, _c] = nodes;
    a.send(&b, "farewell");
    let id = a.id;
    a.stop().await;
    until("the last words are heard", || b.heard.has(id, b"farewell")).await;
    until("it is gone", || !b.plane.peers().contains(&id)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_message_is_carried_and_a_larger_one_is_not() {
    let (a, b) = (Setup::node(1).start().await, Setup::node(2).start().await);
    a.knows(&b);
    a.plane.send(b.id, Bytes::from(vec![0; CONTROL_BYTES_MAX + 1]));
    let largest = Bytes::from(vec![9; CONTROL_BYTES_MAX]);
    a.plane.send(b.id, largest.clone());
    a.plane.send(b.id, Bytes::new());
    until("both are heard", || b.heard.count_from(a.id) == 2).await;
    assert!(b.heard.has(a.id, &largest) && b.heard.has(a.id, b""));
    assert_eq!(a.plane.dropped(), 1);
    // Only `a` knew the way; `b` learns where `a` listens once it has proved itself.
    until("b knows where a listens", || b.addresses.control_address(a.id) == Some(a.at)).await;
    b.gets_through(&a, "back").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_mesh_and_another_secret_are_refused_on_both_sides() {
    let a = Setup::node(1).start().await;
    let strangers = [
        Setup { mesh: MeshId([8; 16]), ..Setup::node(2) }.start().await,
        Setup { secret: "open barley", ..Setup::node(3) }.start().await,
    ];
    for stranger in &strangers {
        stranger.knows(&a);
        a.knows(stranger);
        stranger.send(&a, "let me in");
        // It was told so, and drops what waits.
        until("the stranger gives up", || stranger.plane.dropped() == 1).await;
        // From now on neither tries: what is sent is dropped at once.
        let before = a.plane.dropped();
        a.send(stranger, "psst");
        until("it is dropped", || a.plane.dropped() == before + 1).await;
        assert!(stranger.plane.peers().is_empty());
    }
    let friend = Setup::node(4).start().await;
    friend.knows(&a);
    friend.gets_through(&a, "a friend").await;
    let heard = a.heard.messages.lock().unwrap();
    assert!(heard.iter().all(|(from, _)| *from == friend.id), "{heard:?}");
    assert_eq!(a.plane.peers(), [friend.id]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_at_the_address_is_not_taken_for_the_one_meant() {
    let (a, b) = (Setup::node(1).start().await, Setup::node(2).start().await);
    let meant = NodeId(key(3).verifying_key().to_bytes());
    a.addresses.learn(meant, b.at);
    a.plane.send(meant, Bytes::from_static(b"for your ears only"));
    until("it is dropped", || a.plane.dropped() == 1).await;
    assert!(b.heard.messages.lock().unwrap().is_empty());
    a.plane.send(NodeId([9; 32]), Bytes::from_static(b"to nobody"));
    until("it is dropped", || a.plane.dropped() == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "a test of sockets")]
async fn garbage_on_the_port_disturbs_nobody() {
    let (a, b) = (Setup::node(1).start().await, Setup::node(2).start().await);
    a.knows(&b);
    a.gets_through(&b, "before").await;
    let mut idle = Vec::new();
    for length in 0..40usize {
        let mut stranger = tokio::net::TcpStream::connect(b.at).await.unwrap();
        let garbage: Vec<u8> = (0..length * 97).map(|byte| (byte * 31 + length) as u8).collect();
        let _ = stranger.write_all(&garbage).await;
        match length % 3 {
            0 => drop(stranger),
            1 => idle.push(stranger),
            _ => {
                let _ = tokio::time::timeout(Duration::from_millis(50), stranger.read(&mut [0; 64])).await;
            }
        }
    }
    a.gets_through(&b, "during").await;
    let c = Setup::node(3).start().await;
    c.knows(&b);
    c.gets_through(&b, "a new one").await;
    // None of them may stay.
    for mut stranger in idle {
        let end = async { while stranger.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {} };
        tokio::time::timeout(WAIT, end).await.expect("the node closes what is not secured in time");
    }
}

#[test]
fn a_node_that_does_not_read_fills_its_own_queue_alone() {
    // It has a runtime of its own, for its threads will wait.
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (deaf_runtime, others) = (runtime(), runtime());
    let deaf = deaf_runtime.block_on(Setup::node(1).start());
    deaf.heard.is_deaf.store(true, Ordering::Release);
    others.block_on(async {
        let (a, c) = (Setup::node(2).start().await, Setup::node(3).start().await);
        a.knows(&deaf);
        a.knows(&c);
        a.gets_through(&c, "hello").await;
        let large = Bytes::from(vec![1; CONTROL_BYTES_MAX]);
        // Far more than its queue and the sockets between hold.
        until("its queue is full", || {
            let begun = Instant::now();
            (0..64).for_each(|_| a.plane.send(deaf.id, large.clone()));
            assert!(begun.elapsed() < Duration::from_secs(1), "sending waits");
            a.plane.dropped() > 1000
        })
        .await;
        let before = c.heard.messages.lock().unwrap().len();
        (0..QUEUE_MESSAGES_MAX / 2).for_each(|_| a.send(&c, "more"));
        until("the other hears everything", || {
            c.heard.messages.lock().unwrap().len() == before + QUEUE_MESSAGES_MAX / 2
        })
        .await;
        c.knows(&a);
        c.gets_through(&a, "and answers").await;
        deaf.heard.is_deaf.store(false, Ordering::Release);
        a.gets_through(&deaf, "again").await;
    });
    deaf_runtime.block_on(deaf.stop());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_restarts_at_its_port_is_reached_again() {
    let (a, disk) = (Setup::node(1).start().await, Kept::default());
    let mut b = Setup { disk: disk.clone(), ..Setup::node(2) }.start().await;
    a.knows(&b);
    for says_goodbye in [true, false] {
        a.gets_through(&b, "there").await;
        b.gets_through(&a, "and back").await;
        let (id, at) = (b.id, b.at);
        if says_goodbye {
            b.plane.stop(WAIT).await;
        }
        drop(b);
        until("a knows that it is gone", || a.plane.peers().is_empty()).await;
        a.plane.send(id, Bytes::from_static(b"into the void"));
        b = until_started(2, at, &disk).await;
    }
    a.gets_through(&b, "there").await;
    b.gets_through(&a, "and back").await;
}

/// A plane that was dropped frees its address soon, not at once.
async fn until_started(seed: u8, at: SocketAddr, disk: &Kept) -> Node {
    let deadline = Instant::now() + WAIT;
    loop {
        match (Setup { disk: disk.clone(), ..Setup::node(seed) }).at(at).try_start().await {
            Ok(node) => return node,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_address_is_refused() {
    let a = Setup::node(1).start().await;
    let error = Setup::node(2).at(a.at).try_start().await.err().unwrap().to_string();
    assert!(error.contains(&a.at.to_string()) && error.contains("in use"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_with_the_secret_and_talks() {
    let a = Setup::node(1).start().await;
    let (_held, nobody) = silent_address();
    let joined = join(joining(2, &[nobody, a.at], "open sesame\n", WAIT)).await.unwrap();
    assert_eq!(joined, Joined { mesh: MESH, k: 4, members: vec![member(1)] });
    let b = Setup { mesh: joined.mesh, ..Setup::node(2) }.start().await;
    b.plane.connect_known(&[(a.id, a.at), (b.id, b.at)]);
    until("they are connected", || a.plane.peers() == [b.id] && b.plane.peers() == [a.id]).await;
    b.gets_through(&a, "hello").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joining_waits_for_a_node_that_is_not_up_yet() {
    let at = free_address();
    let (joined, a) = tokio::join!(join(joining(2, &[at], "open sesame", WAIT)), async {
        sleep(Duration::from_millis(300)).await;
        until_started(1, at, &Kept::default()).await
    });
    assert_eq!((joined.unwrap().mesh, a.at), (MESH, at));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joining_says_what_is_wrong() {
    let a = Setup::node(1).start().await;
    let soon = Duration::from_millis(800);

    let begun = Instant::now();
    let error = join(joining(2, &[a.at], "open barley", WAIT)).await.unwrap_err();
    assert!(begun.elapsed() < WAIT / 2, "it does not wait for what won't change");
    assert!(error.to_string().contains("the join secret was refused"), "{error}");
    let JoinError::Secret(attempts) = error else { panic!("{error:?}") };
    assert_eq!((attempts[0].address, attempts[0].refusal), (a.at, Some(Refusal::Secret)));
    // A wrong secret first does not keep it out later.
    join(joining(2, &[a.at], "open sesame", WAIT)).await.unwrap();

    let (_held, nobody) = silent_address();
    let error = join(joining(2, &[nobody], "open sesame", soon)).await.unwrap_err();
    assert!(matches!(error, JoinError::Unreachable(_)), "{error:?}");
    assert!(error.to_string().contains(&nobody.to_string()) && error.to_string().contains("refused"), "{error}");

    let error = join(joining(1, &[a.at], "open sesame", WAIT)).await.unwrap_err();
    assert!(error.to_string().contains("it is this node itself"), "{error}");

    let error = join(joining(2, &[], "open sesame", soon)).await.unwrap_err();
    assert!(matches!(error, JoinError::NoAddress), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_told_to_join_each_other_hear_that_nobody_founded() {
    let at = [free_address(), free_address(), free_address()];
    let one = |seed: usize| {
        let others: Vec<SocketAddr> = (0..3).filter(|other| *other != seed).map(|other| at[other]).collect();
        let config = joining(seed as u8 + 1, &others, "open sesame", Duration::from_secs(4));
        join(JoinConfig { listen: Some(at[seed]), ..config })
    };
    let (a, b, c) = tokio::join!(one(0), one(1), one(2));
    for error in [a.unwrap_err(), b.unwrap_err(), c.unwrap_err()] {
        assert!(matches!(error, JoinError::NobodyFounded(_)), "{error:?}");
        assert!(error.to_string().contains("nobody has founded a mesh"), "{error}");
    }
    // Their addresses are free, and once one has founded, the others find it.
    let founder = Setup::node(1).at(at[0]).start().await;
    let waits = JoinConfig { listen: Some(at[1]), ..joining(2, &[at[2], at[0]], "open sesame", WAIT) };
    assert_eq!(join(waits).await.unwrap().mesh, MESH);
    Setup::node(2).at(at[1]).start().await.stop().await;
    founder.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_restarts_finds_its_mesh_by_its_book() {
    let kept = Kept::default();
    let disk = Kept::default();
    let b = || Setup { disk: disk.clone(), ..Setup::node(2) };
    let (a, restarts) = (Setup::node(1).start().await, b);
    let b = restarts().start().await;
    b.plane.connect_known(&[(a.id, a.at)]);
    until("they are connected", || b.plane.peers() == [a.id]).await;
    assert!(Keeper::new(Box::new(kept.clone())).save(&b.addresses).unwrap());
    b.stop().await;

    let b = restarts().start().await;
    let Book { members } = Keeper::new(Box::new(kept.clone())).load(&b.addresses).unwrap();
    let known: Vec<_> = members.iter().map(|known| (known.node, known.control)).collect();
    b.plane.connect_known(&known);
    until("they are connected again", || b.plane.peers() == [a.id]).await;
    b.gets_through(&a, "back again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_was_set_back_is_not_heard_and_learns_why() {
    let (a, disk) = (Setup::node(1).start().await, Kept::default());
    let run = async |disk: &Kept| {
        let b = Setup { disk: disk.clone(), ..Setup::node(2) }.start().await;
        b.knows(&a);
        b
    };
    let b = run(&disk).await;
    b.gets_through(&a, "run 1").await;
    b.stop().await;
    let older = disk.copied();
    let b = run(&disk).await;
    b.gets_through(&a, "run 2").await;
    b.stop().await;

    let runs = older.run();
    let b = Setup { disk: older, ..Setup::node(2) }.start_with(runs.clone()).await.unwrap();
    b.knows(&a);
    b.send(&a, "run 2 again");
    assert_eq!(tokio::time::timeout(WAIT, runs.outdated()).await, Ok(a.id));
    until("what was to be sent is given up", || b.plane.dropped() == 1).await;
    assert!(!a.heard.has(b.id, b"run 2 again"));
}
