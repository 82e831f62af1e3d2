//! Peers that don't read, don't answer, die or come back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::join_all;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::world::*;
use crate::bulk::BulkConfig;
use crate::seams::{CallError, Calls, PARCEL_BYTES_MAX, Parcel};

/// Small bounds, one link, a short silence.
fn narrow(number: u8) -> BulkConfig {
    let mut config = config(number);
    config.limits.links = 1;
    config.limits.window_bytes = 1 << 20;
    config.limits.queue_bytes = 2 << 20;
    config.limits.ping_every = Duration::from_millis(200);
    config.limits.silence_max = Duration::from_millis(1500);
    config
}

fn is_unreachable(answer: &Result<Parcel, CallError>) -> bool {
    matches!(answer, Err(CallError::Unreachable { .. }))
}

fn is_lost(answer: &Result<Parcel, CallError>) -> bool {
    matches!(answer, Err(CallError::Lost { .. }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_answer_is_sent_a_window_and_no_more() {
    let book = Arc::new(Book::default());
    let (a, b) = (node_with(&book, narrow(1)).await, node_with(&book, narrow(2)).await);
    let content = Bytes::from(vec![1; 100 << 10]);
    let gated = |n, wait| a.bulk.call(b.id, n, Parcel::new(GATE, content.clone()), wait);
    let calls: Vec<_> = (0..60).map(|n| gated(n, WAIT)).collect();
    let handed = || b.bulk.counters().answers;
    until("a window of them is handed over", || handed() >= 11).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(handed(), 11, "calls of 100 KiB in a window of 1 MiB");
    let mut calls = calls;
    let refused = calls.iter_mut().filter_map(|call| call.now_or_never()).collect::<Vec<_>>();
    assert!(refused.iter().all(is_unreachable));
    let taken = 60 - refused.len();
    assert!((20..=32).contains(&taken), "{taken} were taken by a queue of 2 MiB before a window of 1 MiB");
    // All of it is given back: of those that were sent, and of those that were not.
    drop(calls);
    until("their futures end", || b.desk.dropped.load(Ordering::SeqCst) == 11).await;
    let calls: Vec<_> = (0..15).map(|n| gated(n, WAIT)).collect();
    until("some are handed over", || handed() >= 18).await;
    b.desk.gate.add_permits(1000);
    let answers = join_all(calls).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?} {:?}", (handed(), b.desk.dropped.load(Ordering::SeqCst)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_was_not_sent_says_so_at_its_deadline() {
    let book = Arc::new(Book::default());
    let (a, b) = (node_with(&book, narrow(1)).await, node_with(&book, narrow(2)).await);
    let content = Bytes::from(vec![1; 100 << 10]);
    let gated = |n, wait| a.bulk.call(b.id, n, Parcel::new(GATE, content.clone()), wait);
    let _sent: Vec<_> = (0..11).map(|n| gated(n, WAIT)).collect();
    until("a window of them is handed over", || b.bulk.counters().answers == 11).await;
    let answer = gated(11, Duration::from_millis(200)).await;
    let Err(CallError::Unreachable { why, .. }) = &answer else { panic!("{answer:?}") };
    assert!(why.contains("not sent within 200ms"), "{why}");
    assert_eq!(b.bulk.counters().answers, 11);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_takes_are_bounded_and_the_link_lives() {
    let book = Arc::new(Book::default());
    let mut server = narrow(2);
    server.limits.answer_bytes = 2 << 20;
    let (a, b) = (node_with(&book, narrow(1)).await, node_with(&book, server).await);
    let size = (100u32 << 10).to_le_bytes();
    // Not polled: their callers do something else.
    let calls: Vec<_> = (0..60).map(|n| a.bulk.call(b.id, n, Parcel::new(BYTES, size.to_vec()), WAIT)).collect();
    until("all are handed over", || b.desk.heard.lock().unwrap().len() == 60).await;
    until("all have ended there", || b.desk.dropped.load(Ordering::SeqCst) == 60).await;
    until("a window of them came", || a.bulk.counters().bytes_in >= 1 << 20).await;
    tokio::time::sleep(Duration::from_millis(1800)).await;
    assert!(a.bulk.counters().bytes_in < (1 << 20) + (200 << 10), "more than the window came");
    let answers = join_all(calls).await;
    let came = answers.iter().filter(|answer| answer.is_ok()).count();
    assert!((20..=34).contains(&came), "{came} of the answers fit window and queue");
    assert!(answers.iter().filter(|answer| answer.is_err()).all(is_lost));
    assert!(a.call(&b, ECHO, b"still there").await.is_ok());
    assert_eq!((a.bulk.counters().links_dialled, a.bulk.counters().dials_failed), (1, 0));
}

/// Passes bytes between a caller and `to` until told to stop reading.
#[expect(clippy::disallowed_methods, reason = "a test of real sockets")]
async fn proxy(
    to: std::net::SocketAddr,
    frozen: Arc<std::sync::atomic::AtomicBool>,
) -> (std::net::SocketAddr, JoinSet<()>) {
    async fn pass(
        mut from: tokio::net::tcp::OwnedReadHalf,
        mut to: tokio::net::tcp::OwnedWriteHalf,
        frozen: Arc<std::sync::atomic::AtomicBool>,
    ) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match tokio::io::AsyncReadExt::read(&mut from, &mut buffer).await {
                Ok(n) if n > 0 => {
                    while frozen.load(Ordering::SeqCst) {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    if to.write_all(&buffer[..n]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut links = JoinSet::new();
        while let Ok((near, _)) = listener.accept().await {
            let Ok(far) = TcpStream::connect(to).await else { continue };
            let (near_read, near_write) = near.into_split();
            let (far_read, far_write) = far.into_split();
            links.spawn(pass(near_read, far_write, Arc::clone(&frozen)));
            links.spawn(pass(far_read, near_write, Arc::clone(&frozen)));
        }
    });
    (address, tasks)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_peer_is_dropped_and_holds_little() {
    let book = Arc::new(Book::default());
    let (a, b) = (node_with(&book, narrow(1)).await, node_with(&book, narrow(2)).await);
    let frozen = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (address, _proxy) = proxy(b.address, Arc::clone(&frozen)).await;
    book.set(b.id, address);
    a.call(&b, ECHO, b"through the proxy").await.unwrap();
    frozen.store(true, Ordering::SeqCst);
    let started = Instant::now();
    let content = Bytes::from(vec![1; 100 << 10]);
    let calls: Vec<_> = (0..60).map(|n| a.bulk.call(b.id, n, Parcel::new(ECHO, content.clone()), WAIT)).collect();
    let answers = join_all(calls).await;
    assert!(started.elapsed() < WAIT / 2, "silence ends them, not their deadline");
    assert!(answers.iter().all(Result::is_err));
    let lost = answers.iter().filter(|answer| is_lost(answer)).count();
    assert!((1..=11).contains(&lost), "{lost} were sent");
    assert!(answers.iter().any(|answer| format!("{answer:?}").contains("silent")), "{:?}", answers[0]);
    until("the other side drops it too", || b.bulk.counters().links_accepted == 0).await;
    frozen.store(false, Ordering::SeqCst);
    until_answered(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cancelled_half_sent_gives_its_window_back() {
    let book = Arc::new(Book::default());
    let mut one_link = config(1);
    one_link.limits.links = 1;
    let (a, b) = (node_with(&book, one_link).await, node_with(&book, config(2)).await);
    let frozen = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (address, _proxy) = proxy(b.address, Arc::clone(&frozen)).await;
    book.set(b.id, address);
    a.call(&b, ECHO, b"warm").await.unwrap();
    // Far more than the sockets' buffers hold, and half the window each.
    let large = Parcel::new(SILENT, vec![1; PARCEL_BYTES_MAX]);
    for lane in 1..=3 {
        frozen.store(true, Ordering::SeqCst);
        let before = a.bulk.counters().bytes_out;
        let calls = [0, 10].map(|more| a.bulk.call(b.id, lane + more, large.clone(), WAIT));
        until("a part is sent", || a.bulk.counters().bytes_out > before + (1 << 20)).await;
        drop(calls);
        frozen.store(false, Ordering::SeqCst);
        a.call(&b, ECHO, b"and then").await.unwrap();
    }
    assert_eq!((b.desk.silent.load(Ordering::SeqCst), a.bulk.counters().links_dialled), (0, 1));
    assert_eq!(b.bulk.counters().answers, 4);
}

/// Calls until it is answered: each call ends at once or tries anew.
async fn until_answered(a: &Node, b: &Node) {
    let deadline = Instant::now() + WAIT;
    while let Err(error) = a.call(b, ECHO, b"again").await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_links_stay() {
    let book = Arc::new(Book::default());
    let (a, b) = (node_with(&book, narrow(1)).await, node_with(&book, narrow(2)).await);
    a.call(&b, ECHO, b"hello").await.unwrap();
    // Longer than the silence that would end it.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    a.call(&b, ECHO, b"hello").await.unwrap();
    assert_eq!((a.bulk.counters().links_dialled, b.bulk.counters().links_accepted), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_stops_loses_the_call_and_comes_back_at_its_port() {
    let book = Arc::new(Book::default());
    let (a, b) = (node_with(&book, config(1)).await, node_with(&book, config(2)).await);
    let call = a.call(&b, NEVER, b"?");
    tokio::pin!(call);
    assert!(futures::poll!(&mut call).is_pending());
    until("the call arrives", || b.desk.heard.lock().unwrap().len() == 1).await;
    let started = Instant::now();
    b.bulk.stop(Duration::from_secs(5)).await;
    let answer = call.await;
    assert!(is_lost(&answer) && started.elapsed() < Duration::from_secs(3), "{answer:?}");
    assert_eq!(b.desk.dropped.load(Ordering::SeqCst), 1);
    let answer = a.call(&b, ECHO, b"?").await;
    assert!(is_unreachable(&answer), "nobody listens: {answer:?}");
    let mut again = config(2);
    again.listen = b.address;
    // Another test's connection may hold the port for a moment.
    let _b = node_with_retry(&book, again).await;
    until_answered(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_gone_without_a_word_loses_the_call() {
    let book = Arc::new(Book::default());
    let (a, b) = (node_with(&book, config(1)).await, node_with(&book, config(2)).await);
    let frozen = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (address, mut proxy) = proxy(b.address, frozen).await;
    book.set(b.id, address);
    let call = a.call(&b, NEVER, b"?");
    tokio::pin!(call);
    assert!(futures::poll!(&mut call).is_pending());
    until("the call arrives", || b.desk.heard.lock().unwrap().len() == 1).await;
    proxy.shutdown().await;
    let answer = call.await;
    assert!(is_lost(&answer), "{answer:?}");
    until("the future ends", || b.desk.dropped.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_ends_its_calls_and_takes_no_more() {
    let (a, b) = pair().await;
    let call = a.call(&b, NEVER, b"?");
    tokio::pin!(call);
    assert!(futures::poll!(&mut call).is_pending());
    until("the call arrives", || b.desk.heard.lock().unwrap().len() == 1).await;
    a.bulk.stop(Duration::from_secs(5)).await;
    let answer = call.await;
    assert!(is_lost(&answer), "{answer:?}");
    let answer = a.call(&b, ECHO, b"?").await;
    assert!(is_unreachable(&answer) && format!("{answer:?}").contains("stopping"), "{answer:?}");
    until("the other side sees it", || b.bulk.counters().links_accepted == 0).await;
    assert_eq!(a.bulk.counters().links_dialled, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_clone_ends_links_and_port() {
    let (a, b) = pair().await;
    b.call(&a, ECHO, b"hello").await.unwrap();
    drop(a.bulk);
    until("the other side sees it", || b.bulk.counters().links_dialled == 0).await;
    let to = config(1).node();
    assert!(is_unreachable(&b.bulk.call(to, 0, Parcel::new(ECHO, &b"?"[..]), WAIT).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_beyond_the_open_ones_wait_their_turn() {
    let book = Arc::new(Book::default());
    let mut few = narrow(1);
    few.limits.calls = 4;
    let (a, b) = (node_with(&book, few).await, node_with(&book, narrow(2)).await);
    let calls: Vec<_> = (0..12).map(|n| a.bulk.call(b.id, n, Parcel::new(GATE, &b"x"[..]), WAIT)).collect();
    until("four arrive", || b.desk.heard.lock().unwrap().len() == 4).await;
    b.desk.gate.add_permits(1);
    until("one more arrives", || b.desk.heard.lock().unwrap().len() == 5).await;
    // Those whose callers go make room too.
    let mut calls = calls;
    let mut ended = 0;
    calls.retain_mut(|call| match call.now_or_never() {
        Some(answer) => {
            ended += 1;
            answer.unwrap();
            false
        }
        None => true,
    });
    assert_eq!(ended, 1);
    calls.drain(..4);
    until("four more arrive", || b.desk.heard.lock().unwrap().len() == 9).await;
    b.desk.gate.add_permits(100);
    assert!(join_all(calls).await.iter().all(Result::is_ok));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_nobody_wants_is_forgotten() {
    let book = Arc::new(Book::default());
    let mut forgetful = narrow(1);
    forgetful.limits.forget_after = Duration::from_millis(50);
    forgetful.limits.dialled = 1;
    let a = node_with(&book, forgetful).await;
    let (gone, other) = (config(3).node(), config(4).node());
    assert!(is_unreachable(&a.bulk.call(gone, 0, Parcel::default(), WAIT).await));
    let deadline = Instant::now() + WAIT;
    // The one link that is allowed is free again once the first is forgotten.
    loop {
        let answer = a.bulk.call(other, 0, Parcel::default(), WAIT).await;
        let Err(CallError::Unreachable { why, .. }) = &answer else { panic!("{answer:?}") };
        if why.contains("address") {
            break;
        }
        assert!(Instant::now() < deadline, "{why}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
