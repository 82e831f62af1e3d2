//! Streams against a real node.

mod harness;

use std::time::Duration;

use futures::StreamExt;
use gem_proto::v1;
use gem_proto::v1::publisher_client::PublisherClient;
use gem_proto::v1::subscribe_request::Request as Said;
use gem_proto::v1::subscribe_response::Response as Heard;
use gem_proto::v1::subscriber_client::SubscriberClient;
use harness::Up;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

fn batch(producer_id: i64, number: u64, count: u64) -> v1::PublishStreamRequest {
    let message = |n: u64| v1::Message { payload: n.to_string().into(), key: Some("k".into()), ..Default::default() };
    v1::PublishStreamRequest {
        topic: "t".into(),
        messages: (number..number + count).map(message).collect(),
        producer_id,
        number,
        r#ref: number,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_numbered_stream_is_stored_once_through_a_reconnect() {
    let up = Up::start().await;
    let mut client = PublisherClient::connect(up.url()).await.unwrap();
    let hello = client.publish_stream(futures::stream::iter([v1::PublishStreamRequest::default()])).await.unwrap();
    let producer = hello.into_inner().message().await.unwrap().unwrap().producer_id;
    for settled in [1, 101] {
        // The second stream repeats what the first one's answers said of 101 and above.
        let batches = (0..20).map(|n| v1::PublishStreamRequest { settled, ..batch(producer, 1 + 100 * n, 100) });
        let batches: Vec<_> = batches.filter(|b| b.number >= settled).collect();
        let sent = batches.len();
        let answers = client.publish_stream(futures::stream::iter(batches)).await.unwrap().into_inner();
        let answers: Vec<_> = answers.map(|a| a.unwrap()).collect().await;
        assert_eq!(answers.len(), sent);
        for answer in answers {
            assert!(answer.error.is_none(), "{answer:?}");
            let first = match (answer.range, answer.results.first()) {
                (Some(range), _) => range.first_offset,
                (None, Some(result)) => match result.outcome.as_ref().unwrap() {
                    v1::publish_result::Outcome::Receipt(receipt) => receipt.offset,
                    v1::publish_result::Outcome::Error(error) => panic!("{error:?}"),
                },
                (None, None) => panic!("an empty answer"),
            };
            assert_eq!(first, answer.r#ref - 1);
        }
    }
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_gets_acks_and_leaves() {
    let up = Up::start().await;
    let mut publisher = PublisherClient::connect(up.url()).await.unwrap();
    let messages = batch(0, 0, 10).messages;
    publisher.publish(v1::PublishRequest { topic: "t".into(), messages, ..Default::default() }).await.unwrap();

    let mut client = SubscriberClient::connect(up.url()).await.unwrap();
    let (says, said) = mpsc::channel(8);
    let start = v1::SubscribeStart {
        topic: "t".into(),
        group: "g".into(),
        consumer: "c".into(),
        credit: 4,
        ..Default::default()
    };
    says.send(v1::SubscribeRequest { request: Some(Said::Start(start)) }).await.unwrap();
    let mut heard = client.subscribe(ReceiverStream::new(said)).await.unwrap().into_inner();
    let Some(Heard::Started(started)) = heard.message().await.unwrap().unwrap().response else { panic!() };
    assert_eq!((started.consumer.as_str(), started.mode), ("c", v1::Mode::Shared as i32));
    let mut got = Vec::new();
    while got.len() < 4 {
        let Some(Heard::Batch(batch)) = heard.message().await.unwrap().unwrap().response else { panic!() };
        got.extend(batch.messages);
    }
    assert_eq!(got.iter().map(|m| m.offset).collect::<Vec<_>>(), [0, 1, 2, 3]);
    let tokens: Vec<_> = got.iter().take(2).map(|m| m.ack_token.clone()).collect();
    says.send(v1::SubscribeRequest { request: Some(Said::Ack(v1::Ack { tokens, r#ref: 7 })) }).await.unwrap();
    let Some(Heard::Settled(settled)) = heard.message().await.unwrap().unwrap().response else { panic!() };
    assert_eq!(settled.r#ref, 7);
    assert!(settled.settlements.iter().all(|s| s.status == "acked"));

    // The stream's end frees what it held: at once, not after the ack timeout.
    drop((says, heard));
    let pull =
        v1::PullRequest { topic: "t".into(), group: "g".into(), consumer: "d".into(), max: 2, ..Default::default() };
    let mut first = Vec::new();
    for _ in 0..50 {
        first = client.pull(pull.clone()).await.unwrap().into_inner().messages;
        if first.iter().any(|m| m.offset == 2) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let freed = first.iter().find(|m| m.offset == 2).expect("freed within a second");
    assert_eq!(freed.delivery, 2);
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_streams_in_time() {
    let up = Up::start().await;
    let mut client = SubscriberClient::connect(up.url()).await.unwrap();
    let start = v1::SubscribeStart { topic: "t".into(), credit: 4, ..Default::default() };
    let (says, said) = mpsc::channel(8);
    says.send(v1::SubscribeRequest { request: Some(Said::Start(start)) }).await.unwrap();
    let mut heard = client.subscribe(ReceiverStream::new(said)).await.unwrap().into_inner();
    heard.message().await.unwrap();
    let began = tokio::time::Instant::now();
    up.stop().await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let last = loop {
        match heard.message().await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert_eq!(last.unwrap_err().code(), tonic::Code::Unavailable);
}
