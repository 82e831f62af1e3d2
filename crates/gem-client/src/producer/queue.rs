//! What a producer has accepted and not yet sent.

use std::collections::VecDeque;

use bytes::Bytes;
use gem_proto::v1;
use gem_types::Result;
use gem_types::message::Receipt;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::message::Message;
use crate::wire;

use super::ProducerConfig;

/// What a message is charged beyond its bytes.
const OVERHEAD_BYTES: usize = 64;

/// The bytes a message takes of the window.
pub(super) fn weight(message: &Message) -> usize {
    message.inner.size() + OVERHEAD_BYTES
}

/// Whom to tell.
#[derive(Debug)]
pub(super) enum Done {
    One(oneshot::Sender<Result<Receipt>>),
    Many(oneshot::Sender<Vec<Result<Receipt>>>),
}

/// Whoever waits for the next `count` results, and those that are there already.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) count: usize,
    /// What to give back to the window once all are there.
    pub(super) bytes: usize,
    pub(super) results: Vec<Result<Receipt>>,
    pub(super) done: Done,
}

/// Messages in the order accepted; bounded by the producer's window.
#[derive(Debug, Default)]
pub(super) struct Queue {
    messages: VecDeque<Queued>,
    waiters: VecDeque<Waiter>,
    bytes: usize,
    /// Messages accepted since the producer was made.
    pub(super) accepted: u64,
    /// Calls that wait for everything to be settled: nothing lingers meanwhile.
    pub(super) flushing: usize,
}

#[derive(Debug)]
struct Queued {
    message: v1::Message,
    bytes: usize,
    since: Instant,
}

/// A batch to be sent.
#[derive(Debug)]
pub(super) struct Batch {
    /// The number of its first message; the others follow one by one.
    pub(super) number: u64,
    pub(super) messages: Vec<v1::Message>,
    /// The messages as a record batch, where the producer packs.
    pub(super) packed: Option<Bytes>,
    /// When its first message was accepted.
    pub(super) since: Instant,
}

/// What the queue has for the driver.
pub(super) enum Next {
    Batch(Batch),
    /// A batch fills until then.
    Lingers(Instant),
    Nothing,
}

impl Queue {
    pub(super) fn push(&mut self, messages: Vec<Message>, bytes: usize, done: Done) {
        let since = Instant::now();
        self.accepted += messages.len() as u64;
        let count = messages.len();
        self.waiters.push_back(Waiter { count, bytes, results: Vec::with_capacity(count), done });
        for message in messages {
            let bytes = weight(&message);
            self.bytes += bytes;
            self.messages.push_back(Queued { message: wire::message(message), bytes, since });
        }
    }

    /// Moves the waiters of what was accepted since the last call to the driver's.
    pub(super) fn take_waiters(&mut self, into: &mut VecDeque<Waiter>) {
        into.append(&mut self.waiters);
    }

    /// The next batch, whose first message has `number`.
    pub(super) fn next(&mut self, number: u64, config: &ProducerConfig) -> Next {
        let Some(first) = self.messages.front() else { return Next::Nothing };
        let since = first.since;
        let full = self.messages.len() >= config.batch_messages || self.bytes >= config.batch_bytes;
        if !full && !config.linger.is_zero() && self.flushing == 0 && since.elapsed() < config.linger {
            return Next::Lingers(since + config.linger);
        }
        let mut messages = Vec::with_capacity(self.messages.len().min(config.batch_messages));
        let mut bytes = 0;
        while let Some(queued) = self.messages.front() {
            let fits = messages.is_empty() || bytes + queued.bytes <= config.batch_bytes;
            if !fits || messages.len() == config.batch_messages {
                break;
            }
            bytes += queued.bytes;
            self.bytes -= queued.bytes;
            messages.extend(self.messages.pop_front().map(|queued| queued.message));
        }
        Next::Batch(Batch::new(number, messages, since, config.packed))
    }
}

impl Batch {
    fn new(number: u64, messages: Vec<v1::Message>, since: Instant, packed: bool) -> Batch {
        let packed = packed.then(|| wire::packed(&messages)).flatten();
        Batch { number, messages, packed, since }
    }

    /// The number after its last message's.
    pub(super) fn end(&self) -> u64 {
        self.number + self.messages.len() as u64
    }

    /// Cuts the batch in two; the second half keeps its numbers.
    pub(super) fn halve(mut self) -> (Batch, Batch) {
        let rest = self.messages.split_off(self.messages.len() / 2);
        let (middle, packed) = (self.end(), self.packed.is_some());
        let first = Batch::new(self.number, self.messages, self.since, packed);
        (first, Batch::new(middle, rest, self.since, packed))
    }
}
