//! Calls between nodes that get along.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use tokio::time::Instant;

use super::world::*;
use crate::seams::{CallError, Calls, PARCEL_BYTES_MAX, PARCEL_PARTS_MAX, Parcel};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_echo_has_the_same_parts() {
    let (a, b) = pair().await;
    for parts in [vec![], vec![Bytes::new()], vec![Bytes::from("one"), Bytes::new(), Bytes::from(vec![3; 70_000])]] {
        let sent = Parcel { kind: ECHO, parts };
        assert_eq!(a.bulk.call(b.id, 7, sent.clone(), WAIT).await.unwrap(), sent);
        assert_eq!(b.bulk.call(a.id, 7, sent.clone(), WAIT).await.unwrap(), sent);
    }
    assert!(b.desk.heard.lock().unwrap().iter().all(|(from, _)| *from == a.id));
    let counters = a.bulk.counters();
    assert_eq!((counters.calls, counters.calls_failed, counters.answers), (3, 0, 3));
    assert!(counters.bytes_out > 70_000 && counters.bytes_in > 70_000, "{counters:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parcel_larger_than_the_window_passes() {
    let (a, b) = pair().await;
    let parts: Vec<Bytes> = (0..32u8).map(|n| Bytes::from(vec![n; 1 << 20])).collect();
    let sent = Parcel { kind: ECHO, parts };
    for _ in 0..3 {
        let got = a.bulk.call(b.id, 0, sent.clone(), WAIT).await.unwrap();
        assert!(got == sent);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parcel_of_most_parts_passes_and_a_larger_one_is_refused() {
    let (a, b) = pair().await;
    let most = Parcel { kind: ECHO, parts: vec![Bytes::from_static(b"x"); PARCEL_PARTS_MAX] };
    assert_eq!(a.bulk.call(b.id, 0, most.clone(), WAIT).await.unwrap(), most);
    let part = Bytes::from(vec![0; PARCEL_BYTES_MAX / 2 + 1]);
    let large = Parcel { kind: ECHO, parts: vec![part.clone(), part] };
    let bytes = large.len();
    assert_eq!(a.bulk.call(b.id, 0, large, WAIT).await, Err(CallError::TooLarge { bytes }));
    let many = Parcel { kind: ECHO, parts: vec![Bytes::new(); PARCEL_PARTS_MAX + 1] };
    assert_eq!(a.bulk.call(b.id, 0, many, WAIT).await, Err(CallError::TooLarge { bytes: 0 }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_small_calls_are_answered() {
    let (a, b) = pair().await;
    let calls = (0..10_000u64).map(|n| {
        let sent = Parcel::new(ECHO, n.to_le_bytes().to_vec());
        let call = a.bulk.call(b.id, n % 17, sent.clone(), WAIT);
        async move { assert_eq!(call.await.unwrap(), sent) }
    });
    join_all(calls).await;
    assert_eq!(a.bulk.counters().links_dialled, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_a_lane_are_handed_over_in_order() {
    let (a, b) = pair().await;
    // Every tenth is large and goes in chunks; small ones of the same lane stay behind it. The
    // futures are polled in the opposite order.
    let mut calls: Vec<_> = (0..600u32)
        .map(|n| {
            let lane = u64::from(n % 3);
            let mut parts = vec![Bytes::from(n.to_le_bytes().to_vec())];
            if n % 10 == 0 {
                parts.push(Bytes::from(vec![0; 600 << 10]));
            }
            a.bulk.call(b.id, lane, Parcel { kind: ORDER, parts }, WAIT)
        })
        .collect();
    calls.reverse();
    for answer in join_all(calls).await {
        answer.unwrap();
    }
    let order = b.desk.order.lock().unwrap();
    assert_eq!(order.len(), 600);
    for lane in 0..3 {
        let seen: Vec<u32> = order.iter().copied().filter(|n| n % 3 == lane).collect();
        assert!(seen.is_sorted(), "lane {lane}: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_call_does_not_wait_for_a_large_one() {
    let book = Arc::new(Book::default());
    let mut one_link = config(1);
    one_link.limits.links = 1;
    let (a, b) = (node_with(&book, one_link).await, node_with(&book, config(2)).await);
    a.call(&b, ECHO, b"warm").await.unwrap();
    let large = Parcel::new(SILENT, vec![1; PARCEL_BYTES_MAX]);
    let large = a.bulk.call(b.id, 1, large, WAIT);
    let small = a.bulk.call(b.id, 2, Parcel::new(ECHO, &b"small"[..]), WAIT).await;
    assert!(small.is_ok(), "{small:?}");
    assert_eq!(b.desk.silent.load(Ordering::SeqCst), 0, "the large one came first");
    large.await.unwrap();
    assert_eq!(b.desk.silent.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_ends_at_its_deadline_and_its_future_is_dropped_over_there() {
    let (a, b) = pair().await;
    a.call(&b, ECHO, b"warm").await.unwrap();
    let started = Instant::now();
    let wait = Duration::from_millis(300);
    let answer = a.bulk.call(b.id, 0, Parcel::new(NEVER, &b"?"[..]), wait).await;
    assert!(matches!(&answer, Err(CallError::Lost { to, .. }) if *to == b.id), "{answer:?}");
    // The other side counts from when it heard the call, and may give up a moment sooner.
    assert!(started.elapsed() >= wait / 2 && started.elapsed() < WAIT / 2);
    until("the future ends", || b.desk.dropped.load(Ordering::SeqCst) == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_ends_the_future_over_there() {
    let (a, b) = pair().await;
    let mut call = a.bulk.call(b.id, 0, Parcel::new(NEVER, &b"?"[..]), WAIT);
    assert!(futures::poll!(&mut call).is_pending());
    until("the call arrives", || b.desk.heard.lock().unwrap().len() == 1).await;
    drop(call);
    until("the future ends", || b.desk.dropped.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_panics_is_lost_and_the_link_goes_on() {
    let (a, b) = pair().await;
    let answer = a.call(&b, PANIC, b"").await;
    assert!(matches!(&answer, Err(CallError::Lost { why, .. }) if why.contains("without an answer")), "{answer:?}");
    let too_large = a.call(&b, BYTES, &(PARCEL_BYTES_MAX as u32 + 1).to_le_bytes()).await;
    assert!(matches!(&too_large, Err(CallError::Lost { why, .. }) if why.contains("larger")), "{too_large:?}");
    a.call(&b, ECHO, b"still there").await.unwrap();
    assert_eq!(a.bulk.counters().dials_failed, 0);
}
