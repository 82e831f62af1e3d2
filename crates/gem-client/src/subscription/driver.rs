//! The subscription's task: one stream after another, batches down, settlements and credit up.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gem_proto::v1;
use gem_proto::v1::subscribe_request::Request as Up;
use gem_proto::v1::subscribe_response::Response as Down;
use gem_proto::v1::subscriber_client::SubscriberClient;
use gem_types::{Error, TopicName};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::delivery::{Delivery, Settled, Settler};
use super::{Mode, SubscribeOptions};
use crate::client::{ANSWER_BYTES_MAX, Client};
use crate::endpoints::Node;
use crate::retry::Backoff;
use crate::status::Failure;
use crate::wire;

const WHAT: &str = "subscribe";
/// Requests between the driver and the transport.
const UP_MAX: usize = 64;
/// Settlements that wait for their answers; above it no more commands are taken.
const SETTLING_MAX: usize = 4096;

/// What a member says of messages it got.
#[derive(Clone, Copy, Debug)]
pub(super) enum Verb {
    Ack,
    Nack { delay_ms: u64 },
    Extend { by_ms: u64 },
}

/// From the subscriber to the driver.
#[derive(Debug)]
pub(super) enum Command {
    Settle { verb: Verb, tokens: Vec<String>, done: oneshot::Sender<Vec<Settled>> },
    Credit { epoch: u64, messages: u32 },
    Close(oneshot::Sender<()>),
}

/// From the driver to the subscriber.
#[derive(Debug)]
pub(super) enum Event {
    Batch { epoch: u64, deliveries: Vec<Delivery>, cursor: Option<String> },
    Failed(Error),
}

pub(super) struct Driver {
    client: Client,
    topic: TopicName,
    options: SubscribeOptions,
    /// The stream that is open now, counted from 1.
    epoch: u64,
    current: Arc<AtomicU64>,
    settler: Option<Settler>,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    /// What the subscriber has not taken yet; bounded by the credit.
    outbox: VecDeque<Event>,
    unread: usize,
    settling: BTreeMap<u64, Settling>,
    next_ref: u64,
    closing: Option<oneshot::Sender<()>>,
    backoff: Backoff,
    /// Since when nothing has worked.
    failing_since: Option<Instant>,
}

struct Settling {
    verb: Verb,
    tokens: Vec<String>,
    done: oneshot::Sender<Vec<Settled>>,
}

/// Why a stream ended.
enum End {
    /// The subscriber is gone or has closed.
    Closed,
    Failed(Failure),
}

struct Open {
    node: Node,
    up: mpsc::Sender<v1::SubscribeRequest>,
    down: Streaming<v1::SubscribeResponse>,
}

impl Driver {
    pub(super) fn new(
        client: Client,
        topic: TopicName,
        options: SubscribeOptions,
        current: Arc<AtomicU64>,
        settler: Settler,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<Event>,
    ) -> Driver {
        let settler = options.group.is_some().then_some(settler);
        Driver {
            client,
            topic,
            options,
            epoch: 0,
            current,
            settler,
            commands,
            events,
            outbox: VecDeque::new(),
            unread: 0,
            settling: BTreeMap::new(),
            next_ref: 1,
            closing: None,
            backoff: Backoff::default(),
            failing_since: None,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let node = self.client.endpoints.pick();
            let end = match self.open(node.clone()).await {
                Ok(mut open) => self.work(&mut open).await,
                Err(failure) => End::Failed(failure),
            };
            let End::Failed(failure) = end else { break };
            tracing::debug!(url = %node.url, error = %failure.error, "a subscription's stream ended");
            if failure.moves {
                self.client.endpoints.moved(&node);
            }
            let since = *self.failing_since.get_or_insert_with(Instant::now);
            let pause = self.backoff.after(&failure, self.client.endpoints.count());
            let final_one = !failure.is_retryable() && !failure.outcome_unknown;
            if final_one || since.elapsed() + pause >= self.client.config.timeout {
                self.fail(failure.error).await;
                break;
            }
            if !self.pause(pause).await {
                break;
            }
        }
        if let Some(closing) = self.closing.take() {
            // Whoever closed may have stopped waiting.
            let _ = closing.send(());
        }
    }

    /// Waits, but not for a subscriber that is gone or closes. False: it is time to end.
    async fn pause(&mut self, pause: std::time::Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            () = self.events.closed() => false,
        }
    }

    async fn fail(&mut self, error: Error) {
        self.outbox.push_back(Event::Failed(error));
        while let Some(event) = self.outbox.pop_front() {
            if self.events.send(event).await.is_err() {
                return;
            }
        }
    }

    async fn open(&mut self, node: Node) -> std::result::Result<Open, Failure> {
        self.epoch += 1;
        self.current.store(self.epoch, Ordering::Relaxed);
        if self.options.group.is_some() {
            // Leased through the stream that broke: another member may have it by now.
            self.outbox.clear();
            self.unread = 0;
        }
        let (up, requests) = mpsc::channel(UP_MAX);
        let start = Up::Start(v1::SubscribeStart {
            topic: self.topic.to_string(),
            group: self.options.group.clone().unwrap_or_default(),
            consumer: self.options.consumer.clone().unwrap_or_default(),
            mode: Mode::out(self.options.mode).into(),
            from: self.options.from.clone().unwrap_or_default(),
            cursor: self.options.cursor.clone().unwrap_or_default(),
            credit: self.options.credit,
        });
        // The channel is empty: there is room.
        let _ = up.try_send(v1::SubscribeRequest { request: Some(start) });
        let mut subscriber = SubscriberClient::new(node.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
        let call = subscriber.subscribe(ReceiverStream::new(requests));
        let down = match timeout(self.client.config.attempt_timeout, call).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => return Err(Failure::read(WHAT, &node.url, &status)),
            Err(_) => return Err(Failure::silent(WHAT, &node.url)),
        };
        Ok(Open { node, up, down })
    }

    async fn work(&mut self, open: &mut Open) -> End {
        // What the broken stream left unanswered is asked again: the tokens tell what became of them.
        let unanswered: Vec<_> =
            self.settling.iter().map(|(id, open)| settle_request(*id, open.verb, &open.tokens)).collect();
        for request in unanswered {
            if open.up.send(request).await.is_err() {
                return End::Failed(closed(&open.node));
            }
        }
        loop {
            if self.closing.is_some() && self.settling.is_empty() {
                return End::Closed;
            }
            let takes_commands = self.settling.len() < SETTLING_MAX && self.closing.is_none();
            // In a group the credit bounds what comes; a groupless reader may hold two credits after
            // a reconnect, so it stops reading instead.
            let takes_batches = self.settler.is_some() || self.unread <= self.options.credit as usize;
            // A handle of its own, so that the branches below may change the driver.
            let events = self.events.clone();
            tokio::select! {
                answer = open.down.message(), if takes_batches => match answer {
                    Ok(Some(answer)) => self.take(answer),
                    Ok(None) => return End::Failed(closed(&open.node)),
                    Err(status) => return End::Failed(Failure::read(WHAT, &open.node.url, &status)),
                },
                command = next_command(&open.up, &mut self.commands), if takes_commands => match command {
                    Some((permit, command)) => if let Some(request) = self.request(command) { permit.send(request) },
                    None => return if open.up.is_closed() { End::Failed(closed(&open.node)) } else { End::Closed },
                },
                permit = events.reserve(), if !self.outbox.is_empty() => match permit {
                    Ok(permit) => if let Some(event) = self.outbox.pop_front() {
                        if let Event::Batch { deliveries, .. } = &event {
                            self.unread = self.unread.saturating_sub(deliveries.len());
                        }
                        permit.send(event);
                    },
                    Err(_) => return End::Closed,
                },
                () = events.closed(), if self.outbox.is_empty() && self.closing.is_none() => return End::Closed,
            }
        }
    }

    fn take(&mut self, answer: v1::SubscribeResponse) {
        self.backoff.reset();
        self.failing_since = None;
        match answer.response {
            Some(Down::Started(started)) => {
                // A reader that breaks off before its first batch continues without a gap.
                self.advance(&started.cursor);
                // The same member comes back under the same name.
                if self.options.group.is_some() && !started.consumer.is_empty() {
                    self.options.consumer = Some(started.consumer);
                }
            }
            Some(Down::Batch(batch)) => {
                let deliver = |message| Delivery::attached(wire::stored(&self.topic, message), self.settler.clone());
                let deliveries: Vec<_> = batch.messages.into_iter().map(deliver).collect();
                self.advance(&batch.cursor);
                let cursor = Some(batch.cursor).filter(|cursor| !cursor.is_empty());
                self.unread += deliveries.len();
                self.outbox.push_back(Event::Batch { epoch: self.epoch, deliveries, cursor });
            }
            Some(Down::Settled(settled)) => {
                if let Some(open) = self.settling.remove(&settled.r#ref) {
                    let statuses = settled.settlements.iter().map(|one| Settled::parse(&one.status)).collect();
                    // Whoever asked may have stopped waiting.
                    let _ = open.done.send(statuses);
                }
            }
            None => {}
        }
    }

    /// Where the next stream continues.
    fn advance(&mut self, cursor: &str) {
        if !cursor.is_empty() {
            self.options.cursor = Some(cursor.to_owned());
            self.options.from = None;
        }
    }

    fn request(&mut self, command: Command) -> Option<v1::SubscribeRequest> {
        match command {
            Command::Settle { verb, tokens, done } => {
                let id = self.next_ref;
                self.next_ref += 1;
                let request = settle_request(id, verb, &tokens);
                self.settling.insert(id, Settling { verb, tokens, done });
                Some(request)
            }
            Command::Credit { epoch, messages } if epoch == self.epoch => {
                Some(v1::SubscribeRequest { request: Some(Up::Credit(v1::Credit { messages })) })
            }
            // A new stream began with a full credit.
            Command::Credit { .. } => None,
            Command::Close(done) => {
                self.closing = Some(done);
                None
            }
        }
    }
}

/// The next command, taken only once it can be sent on.
async fn next_command<'a>(
    up: &'a mpsc::Sender<v1::SubscribeRequest>,
    commands: &mut mpsc::Receiver<Command>,
) -> Option<(mpsc::Permit<'a, v1::SubscribeRequest>, Command)> {
    let permit = up.reserve().await.ok()?;
    let command = commands.recv().await?;
    Some((permit, command))
}

fn settle_request(id: u64, verb: Verb, tokens: &[String]) -> v1::SubscribeRequest {
    let tokens = tokens.to_vec();
    let request = match verb {
        Verb::Ack => Up::Ack(v1::Ack { tokens, r#ref: id }),
        Verb::Nack { delay_ms } => Up::Nack(v1::Nack { tokens, delay_ms, r#ref: id }),
        Verb::Extend { by_ms } => Up::Extend(v1::Extend { tokens, by_ms, r#ref: id }),
    };
    v1::SubscribeRequest { request: Some(request) }
}

fn closed(node: &Node) -> Failure {
    let detail = format!("subscribe: {} closed the stream", node.url);
    // A node that ends streams is stopping.
    Failure { error: Error::unavailable(detail, 0), outcome_unknown: false, moves: true }
}
