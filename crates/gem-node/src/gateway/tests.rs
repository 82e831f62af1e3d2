//! The gateway over a log in memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gem_shard::log::From;
use gem_store::budget::Budget;
use gem_types::batch::BatchBuilder;
use gem_types::seams::{OsRandom, SystemClock};
use gem_types::{Code, Error, Message, ProducerId, TopicName};

use super::memory_log::MemoryLog;
use super::prepare::Input;
use super::producers::Producer;
use super::publish::{Numbered, Places};
use super::{Gateway, Settings};
use crate::metrics::Metrics;

fn gateway(partitions: u32) -> (Gateway, MemoryLog) {
    let log = MemoryLog::new(partitions);
    let metrics = Arc::new(Metrics::new(10));
    let settings = Settings { patience: Duration::from_millis(50), ..Settings::default() };
    let clock = Arc::new(SystemClock::new());
    (Gateway::new(Arc::new(log.clone()), clock, Arc::new(OsRandom), settings, metrics, Budget::new(1 << 30, &[])), log)
}

fn topic() -> TopicName {
    TopicName::new("orders").unwrap()
}

fn message(payload: &str, key: Option<&str>) -> Message {
    Message {
        key: key.map(|k| Bytes::from(k.to_owned())),
        payload: Bytes::from(payload.to_owned()),
        ..Default::default()
    }
}

#[tokio::test]
async fn receipts_come_in_the_order_of_the_messages() {
    let (gateway, log) = gateway(4);
    let messages: Vec<_> = (0..40).map(|i| message(&i.to_string(), Some(&format!("k{}", i % 8)))).collect();
    let published = gateway.publish(&topic(), Input::Messages(messages), None).await.unwrap();
    assert!(log.appends().len() > 1, "several partitions");
    let places = published.places.into_each();
    let known = gateway.topic(&topic()).await.unwrap();
    let mut cursor = gateway.begin(&known, Some(From::Earliest), None).await.unwrap();
    let items = gateway.read(&known, &mut cursor, 100, 1 << 20, Duration::ZERO).await.unwrap();
    assert_eq!(items.len(), 40);
    for item in items {
        let index: usize = std::str::from_utf8(item.record.get().value.unwrap()).unwrap().parse().unwrap();
        let place = places[index].as_ref().unwrap();
        assert_eq!((place.partition, place.offset), (item.partition, item.record.offset()));
    }
}

#[tokio::test]
async fn a_reader_goes_on_after_its_limit_and_after_the_end() {
    let (gateway, _) = gateway(1);
    let messages: Vec<_> = (0..5).map(|i| message(&i.to_string(), None)).collect();
    gateway.publish(&topic(), Input::Messages(messages), None).await.unwrap();
    let known = gateway.topic(&topic()).await.unwrap();
    let mut cursor = gateway.begin(&known, Some(From::At(0, 1)), None).await.unwrap();
    let mut offsets = Vec::new();
    for limit in [2, 1, 9, 9] {
        let text = cursor.encode(&topic());
        cursor = gateway.begin(&known, None, Some(&text)).await.unwrap();
        let items = gateway.read(&known, &mut cursor, limit, 1 << 20, Duration::ZERO).await.unwrap();
        offsets.push(items.iter().map(|i| i.record.offset()).collect::<Vec<_>>());
    }
    assert_eq!(offsets, [vec![1, 2], vec![3], vec![4], vec![]]);
    assert!(gateway.begin(&known, Some(From::Latest), Some(&cursor.encode(&topic()))).await.is_err());
    assert!(gateway.begin(&known, Some(From::At(1, 0)), None).await.is_err());
}

#[tokio::test]
async fn one_bad_message_refuses_the_batch_before_anything_is_written() {
    let (gateway, log) = gateway(1);
    let large = message(&"x".repeat((1 << 20) + 1), None);
    let refused = gateway.publish(&topic(), Input::Messages(vec![message("a", None), large]), None).await;
    assert_eq!(refused.unwrap_err().code, Code::TooLarge);
    assert!(log.appends().is_empty());
    let system = TopicName::new("a.g.dlq").unwrap();
    let refused = gateway.publish(&system, Input::Messages(vec![message("a", None)]), None);
    assert_eq!(refused.await.unwrap_err().code, Code::InvalidArgument);
}

#[tokio::test]
async fn a_topic_made_anew_is_found_again() {
    let (gateway, log) = gateway(1);
    for _ in 0..2 {
        let published = gateway.publish(&topic(), Input::Messages(vec![message("a", None)]), None).await.unwrap();
        assert!(matches!(published.places, Places::Range { first: 0, count: 1, .. }));
        // Behind the gateway's back.
        gem_shard::log::ShardLog::delete_topic(&log, topic()).await.unwrap();
    }
}

#[tokio::test]
async fn what_passes_is_tried_again_and_what_stays_is_told() {
    let (gateway, log) = gateway(1);
    log.refuse(vec![Error::unavailable("no leader", 0), Error::unavailable("no leader", 0)]);
    gateway.publish(&topic(), Input::Messages(vec![message("a", None)]), None).await.unwrap();
    assert_eq!(log.appends().len(), 3);
    log.refuse(vec![Error::unavailable("no leader", 0); 1000]);
    let published = gateway.publish(&topic(), Input::Messages(vec![message("a", None)]), None).await.unwrap();
    assert!(matches!(published.places, Places::Refused { error, count: 1 } if error.code == Code::Unavailable));
}

#[tokio::test]
async fn a_record_batch_is_stored_as_it_came() {
    let (gateway, log) = gateway(1);
    let mut builder = BatchBuilder::new();
    builder.push(&message("a", Some("k")), "mine");
    builder.push(&message("b", None), "yours");
    let bytes = builder.finish(7).to_bytes();
    let published = gateway.publish(&topic(), Input::Encoded(bytes.clone()), None).await.unwrap();
    assert_eq!((published.ids.text(0, 0, 0), published.ids.text(1, 0, 1)), ("mine".into(), "yours".into()));
    let append = log.appends().pop().unwrap();
    assert_eq!(append.batch.to_bytes(), bytes);
    assert!(append.dedup.iter().all(Option::is_some));
    let mut damaged = bytes.to_vec();
    damaged[70] ^= 1;
    let refused = gateway.publish(&topic(), Input::Encoded(Bytes::from(damaged)), None).await;
    assert_eq!(refused.unwrap_err().code, Code::InvalidArgument);
}

#[tokio::test]
async fn a_numbered_batch_names_the_one_before_it() {
    let (gateway, log) = gateway(1);
    let producer = Arc::new(Producer::new(ProducerId(5)));
    for _ in 0..2 {
        let first = producer.number(0, 0, 3).unwrap();
        let numbered = Numbered { producer: producer.clone(), first, by_client: false };
        let input = Input::Messages((0..3).map(|_| message("a", None)).collect());
        gateway.publish_as(&topic(), input, Some(numbered), None).await.unwrap();
        producer.answered(first);
    }
    let told: Vec<_> =
        log.appends().into_iter().filter_map(|a| a.producer).map(|p| (p.numbers, p.previous, p.settled)).collect();
    assert_eq!(told, [(vec![1, 2, 3], 0, 1), (vec![4, 5, 6], 3, 4)]);
}

#[tokio::test]
async fn the_same_id_under_another_key_is_another_message() {
    let (gateway, log) = gateway(1);
    let with_id = |key| Message { id: Some("i".into()), ..message("a", key) };
    let messages = vec![with_id(None), with_id(Some("")), with_id(Some("k")), message("a", None)];
    gateway.publish(&topic(), Input::Messages(messages), None).await.unwrap();
    let dedup = log.appends().pop().unwrap().dedup;
    assert_eq!(dedup.len(), 4);
    assert!(dedup[0] != dedup[1] && dedup[1] != dedup[2] && dedup[3].is_none());
}
