//! What the tests share: nodes, an address book, answers by kind.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use futures::FutureExt;
use futures::future::BoxFuture;
use gem_types::seams::OsRandom;
use gem_types::{MeshId, NodeId};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::bulk::{Addresses, Bulk, BulkConfig, BulkLimits};
use crate::seams::{Answers, CallError, Calls, Parcel};

/// Answers with the same.
pub(super) const ECHO: u16 = 1;
/// Answers never.
pub(super) const NEVER: u16 = 2;
/// Answers with as many bytes as the first part tells, a u32.
pub(super) const BYTES: u16 = 3;
/// Answers with nothing, once the gate is open.
pub(super) const GATE: u16 = 4;
/// Panics.
pub(super) const PANIC: u16 = 5;
/// Notes the number in the first part, and answers with nothing.
pub(super) const ORDER: u16 = 6;
/// Answers with nothing, and counts.
pub(super) const SILENT: u16 = 7;

pub(super) const WAIT: Duration = Duration::from_secs(20);

/// Where the nodes of a test are.
#[derive(Default)]
pub(super) struct Book(Mutex<HashMap<NodeId, SocketAddr>>);

impl Book {
    pub(super) fn set(&self, node: NodeId, address: SocketAddr) {
        self.0.lock().unwrap().insert(node, address);
    }
}

impl Addresses for Book {
    fn bulk_address(&self, node: NodeId) -> Option<SocketAddr> {
        self.0.lock().unwrap().get(&node).copied()
    }
}

/// What a node was asked, in order, and how it answers.
pub(super) struct Desk {
    pub(super) heard: Mutex<Vec<(NodeId, Parcel)>>,
    pub(super) order: Mutex<Vec<u32>>,
    pub(super) silent: AtomicUsize,
    pub(super) gate: Semaphore,
    pub(super) dropped: Arc<AtomicUsize>,
}

impl Desk {
    fn new() -> Self {
        Desk {
            heard: Mutex::default(),
            order: Mutex::default(),
            silent: AtomicUsize::new(0),
            gate: Semaphore::new(0),
            dropped: Arc::default(),
        }
    }
}

/// Counts a future that was dropped, ended or not.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

pub(super) struct Clerk(pub(super) Arc<Desk>);

impl Answers for Clerk {
    fn answer(&self, from: NodeId, request: Parcel) -> BoxFuture<'static, Parcel> {
        if request.len() < 4096 {
            self.0.heard.lock().unwrap().push((from, request.clone()));
        }
        if request.kind == ORDER {
            self.0.order.lock().unwrap().push(u32::from_le_bytes(request.parts[0][..4].try_into().unwrap()));
        }
        let desk = Arc::clone(&self.0);
        let dropped = Dropped(Arc::clone(&desk.dropped));
        async move {
            let _dropped = dropped;
            match request.kind {
                NEVER => std::future::pending().await,
                BYTES => {
                    let size = u32::from_le_bytes(request.parts[0][..4].try_into().unwrap());
                    Parcel::new(BYTES, vec![7; size as usize])
                }
                GATE => {
                    desk.gate.acquire().await.unwrap().forget();
                    Parcel::default()
                }
                ORDER => Parcel::default(),
                SILENT => {
                    desk.silent.fetch_add(1, Ordering::SeqCst);
                    Parcel::default()
                }
                PANIC => panic!("a test's answer"),
                _ => request,
            }
        }
        .boxed()
    }
}

pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) bulk: Bulk,
    pub(super) address: SocketAddr,
    pub(super) desk: Arc<Desk>,
}

pub(super) fn config(number: u8) -> BulkConfig {
    BulkConfig {
        key: SigningKey::from_bytes(&[number; 32]),
        mesh: MeshId([9; 16]),
        secret: b"the secret of the test".to_vec(),
        listen: ([127, 0, 0, 1], 0).into(),
        runs: Arc::new(crate::runs::tests::one_run()),
        limits: BulkLimits::default(),
    }
}

pub(super) async fn node_with(book: &Arc<Book>, config: BulkConfig) -> Node {
    try_node(book, config).await.unwrap()
}

/// As long as the port is taken.
pub(super) async fn node_with_retry(book: &Arc<Book>, config: BulkConfig) -> Node {
    let deadline = Instant::now() + WAIT;
    loop {
        match try_node(book, config.clone()).await {
            Ok(node) => return node,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn try_node(book: &Arc<Book>, config: BulkConfig) -> std::io::Result<Node> {
    let id = config.node();
    let desk = Arc::new(Desk::new());
    let answers = Arc::new(Clerk(Arc::clone(&desk)));
    let addresses = Arc::clone(book) as Arc<dyn Addresses>;
    let (bulk, address) = Bulk::bind(config, addresses, answers, Arc::new(OsRandom)).await?;
    book.set(id, address);
    Ok(Node { id, bulk, address, desk })
}

pub(super) async fn pair() -> (Node, Node) {
    let book = Arc::new(Book::default());
    (node_with(&book, config(1)).await, node_with(&book, config(2)).await)
}

impl Node {
    pub(super) async fn call(&self, to: &Node, kind: u16, content: &[u8]) -> Result<Parcel, CallError> {
        self.bulk.call(to.id, 0, Parcel::new(kind, content.to_vec()), WAIT).await
    }
}

/// Waits until `condition` holds.
pub(super) async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + WAIT;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come true within {WAIT:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
