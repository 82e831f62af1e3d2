//! Groups: pulls, leases, acks, redelivery, dead letters, seeks.

use std::sync::Arc;
use std::time::Duration;

use gem_shard::log::{Delivered, From, GroupRef, Mode, Pull, ShardLog, Status, TopicConfig, Verb};
use gem_types::{Code, GroupName, PartitionId};

use crate::harness::*;

crate::suite!(
    a_group_gets_each_message_once_and_acks_it,
    a_nack_comes_again_and_counts,
    too_many_nacks_make_a_dead_letter,
    a_lease_ends_and_a_heartbeat_extends_it,
    a_closed_stream_frees_its_leases,
    keys_stay_in_order,
    a_seek_delivers_again,
    a_pull_waits_for_what_comes,
    modes_and_names_are_checked,
);

pub fn group(topic_name: &str, partition: PartitionId, name: &str) -> GroupRef {
    GroupRef { topic: topic(topic_name), partition, group: GroupName::new(name).unwrap() }
}

pub fn pull_of(group: &GroupRef, consumer: &str) -> Pull {
    Pull {
        group: group.clone(),
        consumer: consumer.into(),
        mode: None,
        from: None,
        max: 100,
        max_bytes: 1 << 20,
        wait: Duration::from_millis(200),
        stream: None,
    }
}

pub async fn pull(log: &dyn ShardLog, group: &GroupRef) -> Vec<Delivered> {
    log.pull(pull_of(group, "c")).await.unwrap()
}

pub fn offsets(messages: &[Delivered]) -> Vec<u64> {
    messages.iter().map(|message| message.offset).collect()
}

pub async fn settle(log: &dyn ShardLog, group: &GroupRef, messages: &[Delivered], verb: Verb) -> Vec<Status> {
    let verbs = Arc::new(messages.iter().map(|message| (message.token.to_string(), verb)).collect());
    log.settle(group.clone(), verbs).await.unwrap()
}

async fn a_group_gets_each_message_once_and_acks_it(node: &mut Node) {
    let log = node.log();
    let p = make(log, "t").await;
    publish(log, p, &["a", "b", "c"]).await;
    let g = group("t", p, "g");
    let got = pull(log, &g).await;
    assert_eq!(offsets(&got), [0, 1, 2]);
    assert!(got.iter().all(|message| message.delivery == 1));
    assert!(pull(log, &g).await.is_empty());
    let info = log.group(g.clone()).await.unwrap();
    assert_eq!((info.lag, info.pending, info.members.len()), (3, 3, 1));
    assert_eq!(settle(log, &g, &got[..2], Verb::Ack).await, [Status::Acked, Status::Acked]);
    assert_eq!(settle(log, &g, &got[..1], Verb::Ack).await, [Status::Acked]);
    let info = log.group(g.clone()).await.unwrap();
    assert_eq!((info.lag, info.pending), (1, 1));
    let verbs = Arc::new(vec![("nonsense".into(), Verb::Ack)]);
    assert_eq!(log.settle(g.clone(), verbs).await.unwrap(), [Status::Unknown]);
    assert_eq!(log.groups(topic("t"), p).await.unwrap().len(), 1);
    log.delete_group(g.clone()).await.unwrap();
    assert_eq!(log.group(g.clone()).await.unwrap_err().code, Code::NotFound);
    assert_eq!(offsets(&pull(log, &g).await), [0, 1, 2]);
}

async fn a_nack_comes_again_and_counts(node: &mut Node) {
    let log = node.log();
    let p = make(log, "t").await;
    publish(log, p, &["a"]).await;
    let g = group("t", p, "g");
    let got = pull(log, &g).await;
    assert_eq!(settle(log, &g, &got, Verb::Nack { delay_ms: 0 }).await, [Status::Nacked]);
    let got = log.pull(Pull { wait: WAIT, ..pull_of(&g, "c") }).await.unwrap();
    assert_eq!((got[0].offset, got[0].delivery), (0, 2));
    settle(log, &g, &got, Verb::Nack { delay_ms: 500 }).await;
    assert!(pull(log, &g).await.is_empty());
    let got = log.pull(Pull { wait: WAIT, ..pull_of(&g, "c") }).await.unwrap();
    assert_eq!((got[0].offset, got[0].delivery), (0, 3));
    assert_eq!(log.group(g.clone()).await.unwrap().redelivered, 2);
}

async fn too_many_nacks_make_a_dead_letter(node: &mut Node) {
    let dead = node.dead.clone();
    let log = node.log();
    let config = TopicConfig { max_deliveries: 2, ..TopicConfig::default() };
    let p = log.create_topic(topic("t"), config).await.unwrap().0.partitions[0].id;
    publish(log, p, &["bad", "good"]).await;
    let g = group("t", p, "g");
    for _ in 0..2 {
        let got = log.pull(Pull { max: 1, wait: WAIT, ..pull_of(&g, "c") }).await.unwrap();
        assert_eq!(offsets(&got), [0]);
        settle(log, &g, &got, Verb::Nack { delay_ms: 0 }).await;
    }
    for _ in 0..100 {
        if log.group(g.clone()).await.unwrap().dead_lettered == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let info = log.group(g.clone()).await.unwrap();
    assert_eq!((info.dead_lettered, info.lag), (1, 1));
    let letters = dead.0.lock().unwrap().clone();
    assert_eq!((letters[0].0.as_str(), letters[0].1), ("t.g.dlq", 0));
    let letter = gem_types::batch::RecordBatch::open(letters[0].2.clone()).unwrap();
    assert_eq!(letter.record(0).unwrap().value.as_ref(), b"bad");
    assert_eq!(offsets(&pull(log, &g).await), [1]);
}

async fn a_lease_ends_and_a_heartbeat_extends_it(node: &mut Node) {
    let log = node.log();
    let config = TopicConfig { ack_timeout_ms: 400, ..TopicConfig::default() };
    let p = log.create_topic(topic("t"), config).await.unwrap().0.partitions[0].id;
    publish(log, p, &["a"]).await;
    let g = group("t", p, "g");
    let first = pull(log, &g).await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        assert_eq!(log.heartbeat(g.clone(), "c".into()).await.unwrap(), 1);
    }
    let second = log.pull(Pull { wait: WAIT, ..pull_of(&g, "d") }).await.unwrap();
    assert_eq!((second[0].offset, second[0].delivery), (0, 2));
    assert_eq!(settle(log, &g, &first, Verb::Ack).await, [Status::Expired]);
    assert_eq!(settle(log, &g, &second, Verb::Extend { by_ms: 60_000 }).await, [Status::Extended]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(settle(log, &g, &second, Verb::Ack).await, [Status::Acked]);
}

async fn a_closed_stream_frees_its_leases(node: &mut Node) {
    let log = node.log();
    let p = make(log, "t").await;
    publish(log, p, &["a"]).await;
    let g = group("t", p, "g");
    let got = log.pull(Pull { stream: Some(5), ..pull_of(&g, "c") }).await.unwrap();
    assert_eq!(got.len(), 1);
    log.close_stream(g.clone(), "c".into(), 5).await.unwrap();
    let got = log.pull(Pull { wait: WAIT, ..pull_of(&g, "d") }).await.unwrap();
    assert_eq!(offsets(&got), [0]);
}

async fn keys_stay_in_order(node: &mut Node) {
    let log = node.log();
    let p = make(log, "t").await;
    let batch = keyed(&[("k", "k1"), ("k", "k2"), ("l", "l1"), ("", "free")]);
    log.append(append_of(p, batch)).await.unwrap();
    let g = group("t", p, "g");
    let keyed = Pull { mode: Some(Mode::Key), ..pull_of(&g, "c") };
    let got = log.pull(keyed.clone()).await.unwrap();
    assert_eq!(offsets(&got), [0, 2, 3]);
    assert!(pull(log, &g).await.is_empty());
    settle(log, &g, &got[..1], Verb::Ack).await;
    assert_eq!(offsets(&pull(log, &g).await), [1]);
}

async fn a_seek_delivers_again(node: &mut Node) {
    let log = node.log();
    let p = make(log, "t").await;
    publish(log, p, &["a", "b"]).await;
    let g = group("t", p, "g");
    let got = pull(log, &g).await;
    settle(log, &g, &got, Verb::Ack).await;
    assert_eq!(log.group(g.clone()).await.unwrap().lag, 0);
    log.seek(g.clone(), 1).await.unwrap();
    assert_eq!(log.group(g.clone()).await.unwrap().lag, 1);
    let again = log.pull(Pull { wait: WAIT, ..pull_of(&g, "c") }).await.unwrap();
    assert_eq!(offsets(&again), [1]);
    let nowhere = group("t", p, "nobody");
    assert_eq!(log.seek(nowhere, 0).await.unwrap_err().code, Code::NotFound);
}

async fn a_pull_waits_for_what_comes(node: &mut Node) {
    let log = node.log();
    let p = make(log, "t").await;
    publish(log, p, &["old"]).await;
    let g = group("t", p, "g");
    let wait = Pull { wait: WAIT, from: Some(From::Latest), ..pull_of(&g, "c") };
    let write = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        publish(log, p, &["new"]).await;
    };
    let (got, ()) = tokio::join!(log.pull(wait), write);
    assert_eq!(offsets(&got.unwrap()), [1]);
}

async fn modes_and_names_are_checked(node: &mut Node) {
    let log = node.log();
    let p = make(log, "t").await;
    let g = group("t", p, "g");
    pull(log, &g).await;
    let other = Pull { mode: Some(Mode::Key), ..pull_of(&g, "c") };
    assert_eq!(log.pull(other).await.unwrap_err().code, Code::Conflict);
    let elsewhere = group("u", p, "g");
    assert_eq!(log.pull(pull_of(&elsewhere, "c")).await.unwrap_err().code, Code::NotFound);
    let nowhere = group("t", PartitionId([4; 16]), "g");
    assert_eq!(log.pull(pull_of(&nowhere, "c")).await.unwrap_err().code, Code::NotFound);
}
