//! What survives a restart, and a power cut.

use std::time::Duration;

use gem_shard::log::{Pull, Verb};
use gem_types::Code;

use crate::groups::{group, offsets, pull, pull_of, settle};
use crate::harness::*;

crate::suite!(a_restart_keeps_everything, a_flushed_index_lets_go_of_the_log, a_stopped_shard_refuses);

async fn a_restart_keeps_everything(node: &mut Node) {
    let p = make(node.log(), "t").await;
    publish(node.log(), p, &["a", "b", "c"]).await;
    let g = group("t", p, "g");
    let got = pull(node.log(), &g).await;
    settle(node.log(), &g, &got[..1], Verb::Ack).await;
    settle(node.log(), &g, &got[1..2], Verb::Nack { delay_ms: 0 }).await;
    node.restart().await;
    assert_eq!(payloads(node.log(), p).await, ["a", "b", "c"]);
    assert_eq!(publish(node.log(), p, &["d"]).await[0].offset, 3);
    let again = node.log().pull(Pull { wait: Duration::from_secs(60), ..pull_of(&g, "c") }).await.unwrap();
    assert!(!again.is_empty());
    let info = node.log().group(g.clone()).await.unwrap();
    assert_eq!(info.lag, 3);
}

async fn a_flushed_index_lets_go_of_the_log(node: &mut Node) {
    let p = make(node.log(), "t").await;
    for n in 0..50 {
        publish(node.log(), p, &[&format!("m{n}")]).await;
    }
    node.shard().flush_index().await.unwrap();
    let durable = node.shard().durable_applied().unwrap();
    assert!(durable > 50);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(node.purged(), durable);
    assert_eq!(payloads(node.log(), p).await.len(), 50);
    node.restart().await;
    assert_eq!(payloads(node.log(), p).await.len(), 50);
}

async fn a_stopped_shard_refuses(node: &mut Node) {
    let p = make(node.log(), "t").await;
    node.shard().close().await.unwrap();
    assert_eq!(node.log().append(append_of(p, batch_of(&["a"]))).await.unwrap_err().code, Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_loses_nothing_that_was_acknowledged() {
    for seed in 0..20 {
        let mut node = Node::sim();
        node.start().await;
        let p = make(node.log(), "t").await;
        let g = group("t", p, "g");
        let mut acked = Vec::new();
        for round in 0..4u64 {
            let from = acked.len();
            for n in 0..(10 + seed) {
                let payload = format!("{seed}.{round}.{n}");
                publish(node.log(), p, &[&payload]).await;
                acked.push(payload);
            }
            if round % 2 == seed % 2 {
                node.shard().flush_index().await.unwrap();
            }
            let got = pull(node.log(), &g).await;
            let fresh: Vec<_> = got.into_iter().filter(|message| message.offset >= from as u64).take(3).collect();
            settle(node.log(), &g, &fresh, Verb::Ack).await;
            let lag = node.log().group(g.clone()).await.unwrap().lag;
            // Some that nobody waits for.
            let log = node.shard().clone();
            let unanswered = async move { publish(&*log, p, &["lost or not"]).await };
            let _ = tokio::time::timeout(Duration::from_nanos(1), unanswered).await;
            node.crash(seed * 31 + round).await;
            node.start().await;
            let stored = payloads(node.log(), p).await;
            let kept: Vec<_> = stored.iter().filter(|payload| *payload != "lost or not").cloned().collect();
            assert_eq!(kept, acked, "seed {seed}");
            let after = node.log().group(g.clone()).await.unwrap().lag;
            assert!(after == lag || after == lag + 1, "seed {seed}: {lag} then {after}");
            acked = stored;
            acked.retain(|payload| payload != "lost or not");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_index_is_damage() {
    let mut node = Node::sim();
    node.start().await;
    let p = make(node.log(), "t").await;
    publish(node.log(), p, &["a"]).await;
    node.shard().flush_index().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    node.stop().await;
    node.lose_index();
    let error = node.try_start().await.unwrap_err().to_string();
    assert!(error.contains("index is damaged"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_same_calls_give_the_same_state() {
    let mut digests = Vec::new();
    for _ in 0..2 {
        let mut node = Node::sim();
        node.start().await;
        let log = node.log();
        let p = make(log, "t").await;
        let g = group("t", p, "g");
        let many: Vec<String> = (0..100).map(|n| format!("m{n}")).collect();
        futures::future::join_all(many.iter().map(|payload| async move { publish(log, p, &[payload]).await })).await;
        let got = pull(log, &g).await;
        assert_eq!(offsets(&got).len(), 100);
        settle(log, &g, &got[..50], Verb::Ack).await;
        tokio::time::sleep(Duration::from_secs(120)).await;
        digests.push((node.shard().digest().unwrap(), node.shard().durable_applied(), node.syncs()));
        node.stop().await;
    }
    assert_eq!(digests[0], digests[1]);
}
