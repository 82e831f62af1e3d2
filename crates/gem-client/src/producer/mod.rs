//! A producer: numbered, batched and pipelined publishing.
//!
//! Every message gets the producer's next number; batches go up one stream, several at a time, and
//! are settled in order. When a stream breaks, everything unsettled goes up a new one in the same
//! order under the same producer id and numbers: the mesh stores each number once, and refuses what
//! would overtake (RIFL, Lee et al., SOSP 2015). So order by key survives retries.

mod driver;
mod queue;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use gem_types::message::Receipt;
use gem_types::{Error, Result};
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::task::JoinSet;

use crate::client::Client;
use crate::message::Message;
use queue::{Done, Queue};

/// How a producer batches and how much it holds.
#[derive(Clone, Debug)]
pub struct ProducerConfig {
    /// The most messages in a batch. 1,000.
    pub batch_messages: usize,
    /// The most bytes in a batch; a larger message goes alone. 1 MiB.
    pub batch_bytes: usize,
    /// The most batches on their way at once. 16.
    pub in_flight_batches: usize,
    /// The most bytes accepted and not yet settled; above it [`Producer::send`] waits. 32 MiB.
    pub window_bytes: usize,
    /// How long a batch that is not full waits for more. Zero (the default): not at all; batches
    /// still fill while earlier ones are on their way.
    pub linger: Duration,
    /// Sends whole record batches (the layout of Kafka's RecordBatch v2) instead of messages: cheaper
    /// for the node, which stores them as they are. A message without an id is then called
    /// `<partition>:<offset>`. False.
    pub packed: bool,
    /// How long a message is tried before it fails with `deadline`. 2 min.
    pub timeout: Duration,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        ProducerConfig {
            batch_messages: 1000,
            batch_bytes: 1 << 20,
            in_flight_batches: 16,
            window_bytes: 32 << 20,
            linger: Duration::ZERO,
            packed: false,
            timeout: Duration::from_secs(120),
        }
    }
}

/// A producer for one topic. Clones are the same producer. When the last clone is dropped, what is
/// not yet settled is abandoned: call [`Producer::flush`] first.
#[derive(Clone, Debug)]
pub struct Producer {
    shared: Arc<Shared>,
    /// Owns the driver: its end ends it.
    _driver: Arc<JoinSet<()>>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    topic: String,
    config: ProducerConfig,
    queue: Mutex<Queue>,
    /// Wakes the driver when something was queued.
    wake: Notify,
    /// Bytes that may still be accepted.
    room: Semaphore,
    /// Messages settled so far; settled in the order accepted.
    settled: watch::Sender<u64>,
    first_error: Mutex<Option<Error>>,
}

// A poisoned lock means that a thread panicked while it held it; the queue's fields are valid at
// every point, so it may go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Producer {
    pub(crate) fn start(client: Client, topic: String, config: ProducerConfig) -> Producer {
        let config = ProducerConfig {
            batch_messages: config.batch_messages.max(1),
            in_flight_batches: config.in_flight_batches.max(1),
            window_bytes: config.window_bytes.clamp(1, u32::MAX as usize / 2),
            ..config
        };
        let shared = Arc::new(Shared {
            topic,
            queue: Mutex::new(Queue::default()),
            wake: Notify::new(),
            room: Semaphore::new(config.window_bytes),
            settled: watch::Sender::new(0),
            first_error: Mutex::new(None),
            config,
        });
        let mut driver = JoinSet::new();
        driver.spawn(driver::Driver::new(client, shared.clone()).run());
        Producer { shared, _driver: Arc::new(driver) }
    }

    /// Accepts a message, waiting while the window is full, and answers with a future of its
    /// receipt. The future may be dropped: [`Producer::flush`] reports failures too.
    pub async fn send(&self, message: Message) -> Result<PendingReceipt> {
        let (sender, receiver) = oneshot::channel();
        self.accept(vec![message], Done::One(sender)).await?;
        Ok(PendingReceipt(receiver))
    }

    /// Accepts messages together, in order, with one future for all their receipts.
    pub async fn send_all(&self, messages: Vec<Message>) -> Result<PendingReceipts> {
        let (sender, receiver) = oneshot::channel();
        if messages.is_empty() {
            // The receiver is at hand, so this can't fail.
            let _ = sender.send(Vec::new());
        } else {
            self.accept(messages, Done::Many(sender)).await?;
        }
        Ok(PendingReceipts(receiver))
    }

    async fn accept(&self, messages: Vec<Message>, done: Done) -> Result<()> {
        let size = messages.iter().map(queue::weight).sum::<usize>().min(self.shared.config.window_bytes);
        let room = self.shared.room.acquire_many(size as u32).await;
        // The semaphore is never closed while a producer lives.
        room.map_err(|_| Error::internal("the producer has ended"))?.forget();
        lock(&self.shared.queue).push(messages, size, done);
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Waits until every message accepted so far is settled.
    ///
    /// Errors: the first failure since the last flush.
    pub async fn flush(&self) -> Result<()> {
        let target = {
            let mut queue = lock(&self.shared.queue);
            queue.flushing += 1;
            queue.accepted
        };
        self.shared.wake.notify_one();
        let mut settled = self.shared.settled.subscribe();
        let reached = settled.wait_for(|settled| *settled >= target).await.map(drop);
        lock(&self.shared.queue).flushing -= 1;
        reached.map_err(|_| Error::internal("the producer has ended"))?;
        lock(&self.shared.first_error).take().map_or(Ok(()), Err)
    }
}

/// A receipt that is on its way.
#[derive(Debug)]
pub struct PendingReceipt(oneshot::Receiver<Result<Receipt>>);

impl Future for PendingReceipt {
    type Output = Result<Receipt>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|receipt| receipt.unwrap_or_else(|_| Err(abandoned())))
    }
}

/// Receipts that are on their way, one a message, in order.
#[derive(Debug)]
pub struct PendingReceipts(oneshot::Receiver<Vec<Result<Receipt>>>);

impl Future for PendingReceipts {
    type Output = Result<Vec<Result<Receipt>>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|receipts| receipts.map_err(|_| abandoned()))
    }
}

fn abandoned() -> Error {
    Error::deadline("the producer was dropped before the message was settled; the outcome is unknown")
}
