//! A producer against a node that breaks off, refuses and forgets to answer: every message is stored
//! once, in order.
#![allow(clippy::disallowed_methods, reason = "a test owns its server")]

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::Stream;
use gem_client::{Client, Code, Message, ProducerConfig};
use gem_proto::server::publisher_server::{Publisher, PublisherServer};
use gem_proto::v1;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// What the node does to a batch.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Stores it and breaks the stream before the answer.
    LoseAnswer,
    /// Breaks the stream without storing it.
    LoseBatch,
    /// Refuses it for now.
    Throttle,
}

#[derive(Default)]
struct State {
    /// By producer and number.
    stored: BTreeMap<(i64, u64), String>,
    /// Payloads in the order in which they were first stored.
    order: Vec<String>,
    /// What happens to the coming batches; none: all is well.
    faults: VecDeque<Option<Fault>>,
    streams: u64,
    single: Vec<v1::Message>,
    refusals: u64,
}

#[derive(Clone, Default)]
struct Node(Arc<Mutex<State>>);

const FORBIDDEN: &str = "forbidden";

impl Node {
    fn take(
        &self,
        request: &v1::PublishStreamRequest,
        expected: &mut u64,
        blocked: &mut bool,
    ) -> Result<v1::PublishStreamResponse, Status> {
        let mut state = self.0.lock().unwrap();
        let mut answer = v1::PublishStreamResponse { r#ref: request.r#ref, producer_id: 7, ..Default::default() };
        if request.messages.is_empty() {
            return Ok(answer);
        }
        assert_eq!(request.producer_id, 7);
        if *expected == 0 {
            *expected = request.settled;
        }
        assert_eq!(request.number, *expected, "a stream begins at its settled number and has no gaps");
        *expected += request.messages.len() as u64;
        let fault = state.faults.pop_front().flatten();
        let refuse = |code: &str| Some(v1::Refusal { code: code.into(), detail: code.into(), retry_after_ms: Some(5) });
        match fault {
            Some(Fault::LoseBatch) => return Err(Status::unavailable("gone")),
            // What follows a batch that is to come again may not overtake it.
            _ if *blocked => {
                answer.error = refuse("unavailable");
                return Ok(answer);
            }
            Some(Fault::Throttle) => {
                *blocked = true;
                answer.error = refuse("throttled");
                return Ok(answer);
            }
            _ => {}
        }
        if request.messages.iter().any(|message| message.payload == FORBIDDEN) {
            answer.error = refuse("too_large");
            return Ok(answer);
        }
        for (number, message) in (request.number..).zip(&request.messages) {
            let payload = String::from_utf8(message.payload.to_vec()).unwrap();
            let duplicate = state.stored.insert((7, number), payload.clone()).is_some();
            if !duplicate {
                state.order.push(payload);
            }
            let receipt = v1::Receipt { offset: number - 1, duplicate, ..Default::default() };
            let outcome = Some(v1::publish_result::Outcome::Receipt(receipt));
            answer.results.push(v1::PublishResult { outcome });
        }
        if matches!(fault, Some(Fault::LoseAnswer)) { Err(Status::unavailable("gone")) } else { Ok(answer) }
    }
}

#[tonic::async_trait]
impl Publisher for Node {
    async fn publish(&self, request: Request<v1::PublishRequest>) -> Result<Response<v1::PublishResponse>, Status> {
        let mut state = self.0.lock().unwrap();
        if state.refusals > 0 {
            state.refusals -= 1;
            return Err(Status::unavailable("not yet"));
        }
        let result = |message: &v1::Message| {
            let receipt = v1::Receipt { id: message.id.clone(), ..Default::default() };
            v1::PublishResult { outcome: Some(v1::publish_result::Outcome::Receipt(receipt)) }
        };
        let messages = request.into_inner().messages;
        let results = messages.iter().map(result).collect();
        state.single.extend(messages);
        Ok(Response::new(v1::PublishResponse { results }))
    }

    type PublishStreamStream = Pin<Box<dyn Stream<Item = Result<v1::PublishStreamResponse, Status>> + Send>>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<v1::PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        self.0.lock().unwrap().streams += 1;
        let mut requests = request.into_inner();
        let (answers, out) = tokio::sync::mpsc::channel(64);
        let node = self.clone();
        tokio::spawn(async move {
            let mut expected = 0;
            let mut blocked = false;
            while let Ok(Some(request)) = requests.message().await {
                let answer = node.take(&request, &mut expected, &mut blocked);
                let broken = answer.is_err();
                if answers.send(answer).await.is_err() || broken {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(out))))
    }
}

async fn serve() -> (Node, String) {
    let node = Node::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let service = PublisherServer::new(node.clone());
    tokio::spawn(
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)),
    );
    (node, url)
}

fn config() -> ProducerConfig {
    ProducerConfig { batch_messages: 7, in_flight_batches: 4, timeout: Duration::from_secs(20), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_is_stored_once_and_in_order() {
    let (node, url) = serve().await;
    let faults = [None, Some(Fault::LoseAnswer), None, Some(Fault::LoseBatch), Some(Fault::Throttle), None];
    node.0.lock().unwrap().faults = faults.iter().cycle().take(60).copied().collect();
    let producer = Client::connect(&url).unwrap().producer("t", config());
    let mut receipts = Vec::new();
    for n in 0..500 {
        receipts.push(producer.send(Message::new(format!("m{n}"))).await.unwrap());
    }
    producer.flush().await.unwrap();
    for (n, receipt) in receipts.into_iter().enumerate() {
        assert_eq!(receipt.await.unwrap().offset, n as u64);
    }
    let state = node.0.lock().unwrap();
    assert_eq!(state.order, (0..500).map(|n| format!("m{n}")).collect::<Vec<_>>());
    assert!(state.streams > 10);
}

#[tokio::test]
async fn one_bad_message_takes_no_other_with_it() {
    let (node, url) = serve().await;
    let producer = Client::connect(&url).unwrap().producer("t", config());
    let payload = |n: usize| if n == 11 { FORBIDDEN.to_owned() } else { format!("m{n}") };
    let receipts = producer.send_all((0..20).map(|n| Message::new(payload(n))).collect()).await.unwrap();
    let receipts = receipts.await.unwrap();
    for (n, receipt) in receipts.iter().enumerate() {
        match receipt {
            Ok(_) => assert_ne!(n, 11),
            Err(error) => assert_eq!((n, error.code), (11, Code::TooLarge)),
        }
    }
    assert_eq!(producer.flush().await.unwrap_err().code, Code::TooLarge);
    producer.flush().await.unwrap();
    assert_eq!(node.0.lock().unwrap().order.len(), 19);
}

#[tokio::test]
async fn calls_move_on_to_a_node_that_answers() {
    let (node, url) = serve().await;
    node.0.lock().unwrap().refusals = 2;
    let client = Client::connect(&format!("http://127.0.0.1:1,{url}")).unwrap();
    let receipt = client.publish("t", Message::new("x")).await.unwrap();
    let state = node.0.lock().unwrap();
    let ids: Vec<_> = state.single.iter().map(|message| message.id.clone()).collect();
    assert_eq!(ids, [receipt.id], "one message, with an id that retries repeat");
}

#[tokio::test]
async fn what_can_not_be_settled_fails_and_says_so() {
    let producer = Client::connect("http://127.0.0.1:1")
        .unwrap()
        .producer("t", ProducerConfig { timeout: Duration::from_millis(300), ..config() });
    let receipt = producer.send(Message::new("x")).await.unwrap();
    assert_eq!(receipt.await.unwrap_err().code, Code::Deadline);
    assert!(producer.flush().await.is_err());
    assert!(producer.send_all(Vec::new()).await.unwrap().await.unwrap().is_empty());
}
