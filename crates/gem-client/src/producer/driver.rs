//! The producer's task: one stream after another, one settlement after another.

use std::collections::VecDeque;
use std::sync::Arc;

use gem_proto::v1;
use gem_proto::v1::publisher_client::PublisherClient;
use gem_types::message::Receipt;
use gem_types::{Code, Error, ProducerId, Result};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::queue::{Batch, Done, Next, Waiter};
use super::{Shared, lock};
use crate::client::{ANSWER_BYTES_MAX, Client};
use crate::endpoints::Node;
use crate::retry::Backoff;
use crate::status::{Failure, is_retryable, refusal};
use crate::wire;

const WHAT: &str = "publish";

pub(super) struct Driver {
    client: Client,
    shared: Arc<Shared>,
    /// Made by the mesh when the first stream opens, so that its age is by the mesh's clock.
    producer: Option<ProducerId>,
    next_number: u64,
    /// Sent or about to be, in the order of their numbers; at most `in_flight_batches` of them
    /// (more only after a batch was halved).
    unsettled: VecDeque<Batch>,
    waiters: VecDeque<Waiter>,
    backoff: Backoff,
}

/// Why a stream ended.
enum End {
    /// Try again with everything unsettled, after a pause.
    Retry(Failure),
    /// Try again at once: the front of the line has changed.
    Again,
}

/// A stream in use.
struct Open {
    node: Node,
    up: mpsc::Sender<v1::PublishStreamRequest>,
    down: Streaming<v1::PublishStreamResponse>,
    /// How many of the unsettled went up this stream.
    sent: usize,
}

impl Driver {
    pub(super) fn new(client: Client, shared: Arc<Shared>) -> Driver {
        Driver {
            client,
            shared,
            producer: None,
            next_number: 1,
            unsettled: VecDeque::new(),
            waiters: VecDeque::new(),
            backoff: Backoff::default(),
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            self.wait_for_work().await;
            match self.stream().await {
                End::Again => {}
                End::Retry(failure) => {
                    let pause = self.backoff.after(&failure, self.client.endpoints.count());
                    self.give_up_on_old(&failure);
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn wait_for_work(&mut self) {
        while self.unsettled.is_empty() {
            if let Some(until) = self.fill() {
                tokio::time::sleep_until(until).await;
            } else if self.unsettled.is_empty() {
                self.shared.wake.notified().await;
            }
        }
    }

    /// Takes batches while the pipeline has room; answers until when a batch lingers.
    fn fill(&mut self) -> Option<Instant> {
        let config = &self.shared.config;
        let mut queue = lock(&self.shared.queue);
        queue.take_waiters(&mut self.waiters);
        while self.unsettled.len() < config.in_flight_batches {
            match queue.next(self.next_number, config) {
                Next::Batch(batch) => {
                    self.next_number = batch.end();
                    self.unsettled.push_back(batch);
                }
                Next::Lingers(until) => return Some(until),
                Next::Nothing => return None,
            }
        }
        None
    }

    /// Opens a stream and works on it until it ends.
    async fn stream(&mut self) -> End {
        let node = self.client.endpoints.pick();
        let end = match self.open(node.clone()).await {
            Ok(mut open) => self.work(&mut open).await,
            Err(failure) => self.refused(failure),
        };
        if let End::Retry(failure) = &end {
            tracing::debug!(url = %node.url, error = %failure.error, "a producer's stream ended");
            if failure.moves {
                self.client.endpoints.moved(&node);
            }
        }
        end
    }

    async fn open(&mut self, node: Node) -> std::result::Result<Open, Failure> {
        if self.producer.is_none() {
            self.producer = Some(self.introduce(&node).await?);
        }
        // Room for all that is unsettled now and all that may follow, so that sending never waits.
        let room = self.unsettled.len().max(self.shared.config.in_flight_batches);
        let (up, requests) = mpsc::channel(room);
        let mut sent = 0;
        for batch in &self.unsettled {
            // The channel has room for every one of them.
            sent += usize::from(up.try_send(self.request(batch)).is_ok());
        }
        let down = self.call(&node, requests).await?;
        Ok(Open { node, up, down, sent })
    }

    /// Asks the mesh for a producer id before anything is sent that may have to be repeated under it.
    async fn introduce(&self, node: &Node) -> std::result::Result<ProducerId, Failure> {
        let (up, requests) = mpsc::channel(1);
        // The channel is empty: there is room. A request without a topic asks for nothing else.
        let _ = up.try_send(v1::PublishStreamRequest::default());
        let mut down = self.call(node, requests).await?;
        match timeout(self.client.config.attempt_timeout, down.message()).await {
            Ok(Ok(Some(answer))) => match answer.error.map(refusal) {
                None => Ok(ProducerId(answer.producer_id)),
                Some(error) => {
                    let moves = error.code == Code::Unavailable;
                    Err(Failure { error, outcome_unknown: false, moves })
                }
            },
            Ok(Ok(None)) => Err(closed(node)),
            Ok(Err(status)) => Err(Failure::read(WHAT, &node.url, &status)),
            Err(_) => Err(Failure::silent(WHAT, &node.url)),
        }
    }

    async fn call(
        &self,
        node: &Node,
        requests: mpsc::Receiver<v1::PublishStreamRequest>,
    ) -> std::result::Result<Streaming<v1::PublishStreamResponse>, Failure> {
        let mut publisher = PublisherClient::new(node.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
        let call = publisher.publish_stream(ReceiverStream::new(requests));
        match timeout(self.client.config.attempt_timeout, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(Failure::read(WHAT, &node.url, &status)),
            Err(_) => Err(Failure::silent(WHAT, &node.url)),
        }
    }

    async fn work(&mut self, open: &mut Open) -> End {
        loop {
            let lingers = self.fill();
            while let Some(batch) = self.unsettled.get(open.sent) {
                match open.up.try_send(self.request(batch)) {
                    Ok(()) => open.sent += 1,
                    // The transport has not taken the earlier ones yet: they are answered first.
                    Err(mpsc::error::TrySendError::Full(_)) => break,
                    Err(mpsc::error::TrySendError::Closed(_)) => break,
                }
            }
            let idle = self.unsettled.is_empty();
            let may_fill = self.unsettled.len() < self.shared.config.in_flight_batches;
            let answer_due = self.client.config.attempt_timeout;
            tokio::select! {
                answer = timeout(answer_due, open.down.message()) => match answer {
                    Ok(Ok(Some(answer))) => if let Some(end) = self.settle(open, answer) { return end },
                    Ok(Ok(None)) => return End::Retry(closed(&open.node)),
                    Ok(Err(status)) => return self.refused(Failure::read(WHAT, &open.node.url, &status)),
                    Err(_) if idle => {}
                    Err(_) => return End::Retry(Failure::silent(WHAT, &open.node.url)),
                },
                () = self.shared.wake.notified(), if may_fill => {}
                () = tokio::time::sleep_until(lingers.unwrap_or_else(Instant::now)), if lingers.is_some() && may_fill => {}
            }
        }
    }

    /// The stream ended with a status: a final one is the front batch's answer.
    fn refused(&mut self, failure: Failure) -> End {
        if failure.is_retryable() || failure.outcome_unknown || self.unsettled.is_empty() {
            return End::Retry(failure);
        }
        self.refuse_front(failure.error);
        End::Again
    }

    fn request(&self, batch: &Batch) -> v1::PublishStreamRequest {
        let settled = self.unsettled.front().map_or(batch.number, |front| front.number);
        let (messages, record_batch) = match &batch.packed {
            Some(packed) => (Vec::new(), packed.clone()),
            None => (batch.messages.clone(), Default::default()),
        };
        v1::PublishStreamRequest {
            topic: self.shared.topic.clone(),
            messages,
            record_batch,
            producer_id: self.producer.map_or(0, |producer| producer.0),
            number: batch.number,
            settled,
            r#ref: batch.number,
        }
    }

    /// Takes the answer to the front batch. `Some`: the stream can't be used further.
    fn settle(&mut self, open: &mut Open, answer: v1::PublishStreamResponse) -> Option<End> {
        let front = self.unsettled.front()?;
        if answer.r#ref != front.number {
            let detail = format!("publish: {} answered out of order; the outcome is unknown", open.node.url);
            return Some(End::Retry(Failure { error: Error::deadline(detail), outcome_unknown: true, moves: false }));
        }
        if let Some(error) = answer.error.map(refusal) {
            return Some(if is_retryable(error.code) {
                let outcome_unknown = error.code == Code::Deadline;
                End::Retry(Failure { moves: error.code == Code::Unavailable, error, outcome_unknown })
            } else {
                self.refuse_front(error);
                End::Again
            });
        }
        let results = match answer.range {
            Some(range) => from_range(front, &range),
            None => answer.results.into_iter().map(wire::result).collect(),
        };
        if results.len() != front.messages.len() {
            let detail = format!("{} messages got {} results", front.messages.len(), results.len());
            self.settle_front(|_| Err(Error::internal(detail.clone())));
            return Some(End::Again);
        }
        // One message that must be tried again holds back all later ones: order by key.
        let again = results.iter().find_map(|result| result.as_ref().err().filter(|error| is_retryable(error.code)));
        if let Some(error) = again {
            let outcome_unknown = error.code == Code::Deadline;
            let moves = error.code == Code::Unavailable;
            return Some(End::Retry(Failure { error: error.clone(), outcome_unknown, moves }));
        }
        let mut results = results.into_iter();
        // As many results as messages: checked above.
        self.settle_front(|_| results.next().unwrap_or_else(|| Err(Error::internal("a result is missing"))));
        open.sent = open.sent.saturating_sub(1);
        self.backoff.reset();
        None
    }

    /// The front batch was refused for good. Which of its messages is to blame shows by halving it,
    /// so that one oversized message takes no other with it.
    fn refuse_front(&mut self, error: Error) {
        let blames_one = matches!(error.code, Code::TooLarge | Code::InvalidArgument);
        match self.unsettled.pop_front() {
            Some(batch) if batch.messages.len() > 1 && blames_one => {
                let (first, second) = batch.halve();
                self.unsettled.push_front(second);
                self.unsettled.push_front(first);
            }
            Some(batch) => {
                self.unsettled.push_front(batch);
                self.settle_front(|_| Err(error.clone()));
            }
            None => {}
        }
    }

    /// Fails what is older than the producer's timeout.
    fn give_up_on_old(&mut self, failure: &Failure) {
        let limit = self.shared.config.timeout;
        while self.unsettled.front().is_some_and(|batch| batch.since.elapsed() >= limit) {
            let detail = format!("not settled within {} s; last: {}", limit.as_secs(), failure.error.detail);
            self.settle_front(|_| Err(Error::deadline(detail.clone())));
        }
    }

    /// Hands the front batch's results to those who wait for them.
    fn settle_front(&mut self, mut result: impl FnMut(usize) -> Result<Receipt>) {
        let Some(batch) = self.unsettled.pop_front() else { return };
        let count = batch.messages.len();
        let mut room = 0;
        for index in 0..count {
            let result = result(index);
            if let Err(error) = &result {
                lock(&self.shared.first_error).get_or_insert_with(|| error.clone());
            }
            room += self.hand_out(result);
        }
        self.shared.room.add_permits(room);
        self.shared.settled.send_modify(|settled| *settled += count as u64);
    }

    /// Gives one result to the first waiter; answers the bytes that became free.
    fn hand_out(&mut self, result: Result<Receipt>) -> usize {
        let Some(waiter) = self.waiters.front_mut() else { return 0 };
        waiter.results.push(result);
        if waiter.results.len() < waiter.count { 0 } else { self.finish_front() }
    }

    fn finish_front(&mut self) -> usize {
        let Some(mut waiter) = self.waiters.pop_front() else { return 0 };
        // A receiver that was dropped does not care for the result.
        match waiter.done {
            Done::One(sender) => drop(waiter.results.pop().map(|result| sender.send(result))),
            Done::Many(sender) => drop(sender.send(waiter.results)),
        }
        waiter.bytes
    }
}

fn from_range(batch: &Batch, range: &v1::StoredRange) -> Vec<Result<Receipt>> {
    if range.count as usize != batch.messages.len() {
        return Vec::new();
    }
    let receipt = |(index, message): (usize, &v1::Message)| {
        let (partition, offset) = (range.partition, range.first_offset + index as u64);
        let id = match message.id.as_str() {
            "" => wire::id_in_run(&range.id_base, index, partition, offset),
            id => id.to_owned(),
        };
        Ok(Receipt { id, partition, offset, duplicate: false })
    };
    batch.messages.iter().enumerate().map(receipt).collect()
}

fn closed(node: &Node) -> Failure {
    let detail = format!("publish: {} closed the stream; the outcome is unknown", node.url);
    // A node that ends streams is stopping.
    Failure { error: Error::deadline(detail), outcome_unknown: true, moves: true }
}
