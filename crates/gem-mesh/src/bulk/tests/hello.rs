//! Who is let in, and who is told why not.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::BytesMut;
use gem_types::MeshId;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::world::*;
use crate::bulk::BulkConfig;
use crate::bulk::frame::{Frame, HELLO_BYTES_MAX, Hello, VERSION, decode};
use crate::bulk::tls::Credentials;
use crate::runs::Runs;
use crate::runs::tests::{Counting, Disk};
use crate::seams::{CallError, Calls, Parcel};

/// Why `caller` can't reach a node of the usual configuration.
async fn refusal(caller: BulkConfig) -> String {
    let book = Arc::new(Book::default());
    let (a, b) = (node_with(&book, caller).await, node_with(&book, config(2)).await);
    let started = Instant::now();
    let answer = a.call(&b, ECHO, b"let me in").await;
    assert!(started.elapsed() < WAIT / 2, "refused at once, not at the deadline");
    assert!(b.desk.heard.lock().unwrap().is_empty());
    // The one that was dialled counts it when it has said why.
    until("the refusal is counted", || b.bulk.counters().refused > 0).await;
    match answer {
        Err(CallError::Unreachable { to, why }) if to == b.id => why.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_secret_is_refused() {
    let mut caller = config(1);
    caller.secret = b"a guess".to_vec();
    let why = refusal(caller).await;
    assert!(why.contains("join secret"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_mesh_is_refused() {
    let mut caller = config(1);
    caller.mesh = MeshId([8; 16]);
    let why = refusal(caller).await;
    assert!(why.contains("another mesh"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_at_the_address_is_refused() {
    let book = Arc::new(Book::default());
    let (a, b) = (node_with(&book, config(1)).await, node_with(&book, config(2)).await);
    let missing = config(3).node();
    book.set(missing, b.address);
    let answer = a.bulk.call(missing, 0, Parcel::new(ECHO, &b"who?"[..]), WAIT).await;
    let Err(CallError::Unreachable { why, .. }) = &answer else { panic!("{answer:?}") };
    assert!(why.contains(&b.id.to_string()) && why.contains(&missing.to_string()), "{why}");
    assert!(b.desk.heard.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_an_address_is_unreachable() {
    let (a, _b) = pair().await;
    let answer = a.bulk.call(config(3).node(), 0, Parcel::default(), WAIT).await;
    assert!(matches!(&answer, Err(CallError::Unreachable { why, .. }) if why.contains("address")), "{answer:?}");
}

/// Connects to `node` as the node of `number`, up to the hello.
async fn dial_raw(node: &Node, number: u8) -> tokio_rustls::client::TlsStream<TcpStream> {
    let tls = Credentials::new(&config(number).key).unwrap().dial(node.id).unwrap();
    let socket = raw(node).await;
    TlsConnector::from(tls).connect(ServerName::from(node.address.ip()), socket).await.unwrap()
}

#[expect(clippy::disallowed_methods, reason = "a test of real sockets")]
async fn raw(node: &Node) -> TcpStream {
    TcpStream::connect(node.address).await.unwrap()
}

/// What the node says to `frame`, sent first.
async fn answer_to(node: &Node, bytes: &[u8]) -> Option<Frame> {
    let mut stream = dial_raw(node, 3).await;
    stream.write_all(bytes).await.unwrap();
    let mut heard = Vec::new();
    let _ = tokio::time::timeout(WAIT, stream.read_to_end(&mut heard)).await.expect("the node closes");
    decode(&heard, HELLO_BYTES_MAX).unwrap().map(|(frame, _)| frame)
}

fn hello(version: u16, proof: [u8; 32]) -> BytesMut {
    let mut bytes = BytesMut::new();
    Frame::Hello(Hello {
        version,
        mesh: config(1).mesh,
        window: 1 << 20,
        calls: 16,
        proof,
        is_older: false,
        runs: Runs::default(),
    })
    .encode(&mut bytes);
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_first_frame_is_answered_with_the_reason_alone() {
    let (a, _b) = pair().await;
    let Some(Frame::Refused(why)) = answer_to(&a, &hello(VERSION + 1, [0; 32])).await else { panic!("no reason") };
    assert!(why.contains("version"), "{why}");
    let Some(Frame::Refused(why)) = answer_to(&a, &hello(VERSION, [0; 32])).await else { panic!("no reason") };
    assert!(why.contains("secret"), "{why}");
    let mut ping = BytesMut::new();
    Frame::Ping(1).encode(&mut ping);
    let Some(Frame::Refused(why)) = answer_to(&a, &ping).await else { panic!("no reason") };
    assert!(why.contains("before the hello"), "{why}");
    // A table of parts of 200 KiB is fine later, not now: it is refused before it has come.
    let long = [&200_000u32.to_le_bytes()[..], &[3, 0, 0]].concat();
    let Some(Frame::Refused(why)) = answer_to(&a, &long).await else { panic!("no reason") };
    assert!(why.contains("longer than"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_is_worth_nothing_on_another_connection() {
    // The node that is dialled answers with its own proof; the one who dialled can't use that, nor
    // a proof recorded elsewhere, for the keying material differs.
    let (a, b) = pair().await;
    a.call(&b, ECHO, b"fine").await.unwrap();
    let mut first = dial_raw(&a, 3).await;
    let mut second = dial_raw(&a, 3).await;
    let own = crate::bulk::hello::Introduction {
        node: config(3).node(),
        mesh: config(3).mesh,
        secret: config(3).secret,
        window: 1,
        calls: 1,
        runs: config(3).runs,
    };
    let recorded = crate::bulk::hello::recorded_proof(&first, &own, a.id);
    second.write_all(&hello(VERSION, recorded)).await.unwrap();
    let mut heard = Vec::new();
    let _ = second.read_to_end(&mut heard).await;
    let Ok(Some((Frame::Refused(why), _))) = decode(&heard, HELLO_BYTES_MAX) else { panic!("no reason") };
    assert!(why.contains("secret"), "{why}");
    // On its own connection the same proof is good.
    first.write_all(&hello(VERSION, recorded)).await.unwrap();
    let mut heard = vec![0; 5];
    first.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard[4], 1, "a hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_and_silence_on_the_port_cost_little() {
    let book = Arc::new(Book::default());
    let mut quick = config(1);
    quick.limits.handshakes = 4;
    quick.limits.hello_wait = Duration::from_millis(300);
    let (a, b) = (node_with(&book, quick).await, node_with(&book, config(2)).await);
    // Some say nothing, and hold the handshakes until their time is up; others talk noise.
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(raw(&a).await);
    }
    until("those beyond the bound are closed", || a.bulk.counters().refused >= 4).await;
    until("the silent ones are closed", || a.bulk.counters().refused >= 8).await;
    for round in 0..20u8 {
        let mut socket = raw(&a).await;
        let _ = socket.write_all(&[round; 2000]).await;
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(WAIT, socket.read_to_end(&mut rest)).await.expect("the node closes");
    }
    b.call(&a, ECHO, b"and you?").await.unwrap();
    assert_eq!(a.bulk.counters().links_accepted, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_of_one_node_are_bounded() {
    let book = Arc::new(Book::default());
    let mut narrow = config(1);
    narrow.limits.accepted_each = 1;
    let (a, b) = (node_with(&book, narrow).await, node_with(&book, config(2)).await);
    let lanes = (0..64u64).map(|lane| b.bulk.call(a.id, lane, Parcel::new(ECHO, &b"x"[..]), WAIT));
    let answers = futures::future::join_all(lanes).await;
    assert!(answers.iter().any(Result::is_ok));
    let refused: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert!(!refused.is_empty(), "two links were dialled, one is allowed");
    for error in refused {
        assert!(matches!(error, CallError::Unreachable { why, .. } if why.contains("too many links")), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_was_set_back_is_refused_and_told() {
    let (random, disk, book) = (Counting(AtomicU64::new(1)), Disk::default(), Arc::new(Book::default()));
    let run = |disk: &Disk| BulkConfig { runs: Arc::new(disk.start(&random)), ..config(1) };
    let b = node_with(&book, config(2)).await;
    let a = node_with(&book, run(&disk)).await;
    a.call(&b, ECHO, b"run 1").await.unwrap();
    a.bulk.stop(WAIT).await;
    let older = disk.copied();
    let a = node_with(&book, run(&disk)).await;
    a.call(&b, ECHO, b"run 2").await.unwrap();
    a.bulk.stop(WAIT).await;

    // Neither its calls nor calls to it get through, and it learns why.
    let back = run(&older);
    let told = back.runs.clone();
    let a = node_with(&book, back).await;
    let Err(CallError::Unreachable { why, .. }) = b.call(&a, ECHO, b"run 2 again").await else { panic!("a link") };
    assert!(why.contains("older than one that the node ran on before: run 2"), "{why}");
    let Err(CallError::Unreachable { why, .. }) = a.call(&b, ECHO, b"run 2 again").await else { panic!("a link") };
    assert!(why.contains("older than one that it ran on before"), "{why}");
    assert_eq!(tokio::time::timeout(WAIT, told.outdated()).await, Ok(b.id));
}
