//! Topics: made, changed, listed, deleted.

use gem_shard::log::{TopicChange, TopicConfig};
use gem_types::Code;

use crate::harness::*;

crate::suite!(a_topic_is_made_once, a_topic_changes, topics_are_listed, a_deleted_topic_is_gone);

async fn a_topic_is_made_once(node: &mut Node) {
    let log = node.log();
    let config = TopicConfig::default();
    let made = futures::future::join_all((0..8).map(|_| log.create_topic(topic("t"), config.clone()))).await;
    let made: Vec<_> = made.into_iter().map(Result::unwrap).collect();
    assert_eq!(made.iter().filter(|(_, new)| *new).count(), 1);
    assert!(made.iter().all(|(info, _)| *info == made[0].0));
    let other = TopicConfig { max_deliveries: 9, ..config };
    assert_eq!(log.create_topic(topic("t"), other).await.unwrap_err().code, Code::Conflict);
    assert_eq!(log.topic(topic("u")).await.unwrap_err().code, Code::NotFound);
}

async fn a_topic_changes(node: &mut Node) {
    let log = node.log();
    make(log, "t").await;
    let change = TopicChange { max_deliveries: Some(2), retention_bytes: Some(Some(7)), ..TopicChange::default() };
    let info = log.alter_topic(topic("t"), change).await.unwrap();
    assert_eq!((info.config.max_deliveries, info.config.retention_bytes), (2, Some(7)));
    assert_eq!(log.topic(topic("t")).await.unwrap(), info);
    let missing = log.alter_topic(topic("u"), TopicChange::default()).await.unwrap_err();
    assert_eq!(missing.code, Code::NotFound);
}

async fn topics_are_listed(node: &mut Node) {
    let log = node.log();
    for name in ["b", "a1", "a3", "a2"] {
        make(log, name).await;
    }
    let page = log.list_topics("a".into(), None, 2).await.unwrap();
    assert_eq!(page.topics.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>(), ["a1", "a2"]);
    assert!(page.more);
    let page = log.list_topics("a".into(), Some("a2".into()), 2).await.unwrap();
    assert_eq!(page.topics.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>(), ["a3"]);
    assert!(!page.more);
}

async fn a_deleted_topic_is_gone(node: &mut Node) {
    let log = node.log();
    let p = make(log, "t").await;
    publish(log, p, &["a"]).await;
    log.delete_topic(topic("t")).await.unwrap();
    assert_eq!(log.topic(topic("t")).await.unwrap_err().code, Code::NotFound);
    assert_eq!(log.delete_topic(topic("t")).await.unwrap_err().code, Code::NotFound);
    assert_eq!(log.append(append_of(p, batch_of(&["b"]))).await.unwrap_err().code, Code::NotFound);
    let again = make(log, "t").await;
    assert_ne!(p, again);
    assert_eq!(publish(log, again, &["c"]).await[0].offset, 0);
    assert_eq!(payloads(log, again).await, ["c"]);
}
