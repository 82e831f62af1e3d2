//! The producers' side of every bench: a budget of messages, a schedule, and producers that keep to both.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesOrdered;
use gem_client::{Message, Producer, ProducerConfig};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::LoadArgs;
use super::report::Tally;
use crate::cmd::{TIMEOUT, connect};
use crate::exit::{Exit, Outcome};

/// What a batch must fit in beside its payloads.
const WINDOW_BYTES: usize = 256 << 20;
/// Ticks that wait for a producer that is late.
const TICKS_MAX: usize = 4096;
/// Bytes at a payload's start that hold when it was meant to be sent, where there is room.
pub const STAMP_BYTES: usize = 16;

/// When a load ends: after so many messages, or at a time.
#[derive(Debug)]
pub struct Budget {
    left: AtomicU64,
    until: Option<Instant>,
}

impl Budget {
    /// The budget that the flags ask for, starting now.
    pub fn new(messages: u64, duration: Option<Duration>) -> Budget {
        let left = if duration.is_some() { u64::MAX } else { messages };
        Budget { left: AtomicU64::new(left), until: duration.map(|duration| Instant::now() + duration) }
    }

    /// Takes up to `count` messages; 0 when it is over.
    pub fn take(&self, count: u64) -> u64 {
        if self.until.is_some_and(|until| Instant::now() >= until) {
            return 0;
        }
        let before =
            self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(count)));
        before.map_or(0, |before| before.min(count))
    }

    /// Whether nothing is left.
    pub fn is_used_up(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0 || self.until.is_some_and(|until| Instant::now() >= until)
    }
}

/// Marks the messages of one run and tells how old they are.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    run: u64,
    start: Instant,
}

impl Stamp {
    pub fn new(run: u64) -> Stamp {
        Stamp { run, start: Instant::now() }
    }

    fn write(&self, template: &Bytes, intended: Instant) -> Bytes {
        let mut payload = template.to_vec();
        let micros = intended.saturating_duration_since(self.start).as_micros() as u64;
        if let Some(head) = payload.get_mut(..STAMP_BYTES) {
            let (run, time) = head.split_at_mut(8);
            run.copy_from_slice(&self.run.to_be_bytes());
            time.copy_from_slice(&micros.to_be_bytes());
        }
        payload.into()
    }

    /// How long ago a message of this run was meant to be sent; `None` for others.
    pub fn age(&self, payload: &[u8]) -> Option<Duration> {
        let (run, rest) = payload.split_first_chunk::<8>()?;
        let (micros, _) = rest.split_first_chunk::<8>()?;
        let sent = Duration::from_micros(u64::from_be_bytes(*micros));
        (u64::from_be_bytes(*run) == self.run).then(|| self.start.elapsed().saturating_sub(sent))
    }
}

/// What producers share.
pub struct Load<'a> {
    pub args: &'a LoadArgs,
    pub batch: u64,
    pub rate: Option<u64>,
    pub budget: Arc<Budget>,
    pub stamp: Option<Stamp>,
}

impl Load<'_> {
    /// Starts all producers; each ends with what it saw.
    pub fn start(&self) -> Outcome<JoinSet<Tally>> {
        let mut tasks = JoinSet::new();
        let mut ticks = Vec::new();
        for index in 0..self.args.producers {
            // A client each, so that each has a connection of its own.
            let client = connect(&self.args.client.url)?;
            let payload_bytes = self.args.size as usize;
            let config = ProducerConfig {
                batch_messages: self.batch as usize,
                batch_bytes: (self.batch as usize).saturating_mul(payload_bytes + 512).min(7 << 20),
                in_flight_batches: self.args.inflight as usize,
                window_bytes: WINDOW_BYTES,
                timeout: 2 * TIMEOUT,
                packed: self.args.packed,
                ..Default::default()
            };
            let (tick, schedule) = mpsc::channel(TICKS_MAX);
            ticks.push(tick);
            let worker = Worker {
                producer: client.producer(&self.args.topic, config),
                batch: self.batch,
                in_flight: self.args.inflight as usize,
                keys: self.args.keys,
                next_key: u64::from(index),
                budget: self.budget.clone(),
                payload: payload(payload_bytes),
                stamp: self.stamp,
            };
            tasks.spawn(worker.run(self.rate.map(|_| schedule)));
        }
        if let Some(rate) = self.rate {
            pace(rate, self.batch, ticks)?;
        }
        Ok(tasks)
    }
}

/// Bytes that don't compress, the same every time.
pub fn payload(len: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out.into()
}

/// Tells the producers in turn when their next batch is due. A thread, since the runtime's timers
/// are a millisecond coarse; it ends when all producers have.
#[expect(clippy::disallowed_methods, reason = "a bench keeps real time, and finer than the runtime's timers")]
fn pace(rate: u64, batch: u64, ticks: Vec<mpsc::Sender<Instant>>) -> Outcome {
    let start = Instant::now();
    let pacer = move || {
        for (index, tick) in (0u64..).zip(ticks.iter().cycle()) {
            let due = start + Duration::from_secs_f64((index * batch) as f64 / rate as f64);
            let now = Instant::now();
            if due > now {
                std::thread::sleep(due - now);
            }
            if tick.blocking_send(due).is_err() {
                return;
            }
        }
    };
    let spawned = std::thread::Builder::new().name("pacer".to_owned()).spawn(pacer);
    spawned.map(drop).map_err(|error| Exit::failed(format!("bench: no thread can be made: {error}")))
}

struct Worker {
    producer: Producer,
    batch: u64,
    in_flight: usize,
    keys: u64,
    next_key: u64,
    budget: Arc<Budget>,
    payload: Bytes,
    stamp: Option<Stamp>,
}

impl Worker {
    async fn run(mut self, mut schedule: Option<mpsc::Receiver<Instant>>) -> Tally {
        let mut tally = Tally::default();
        let mut pending = FuturesOrdered::new();
        let mut over = false;
        while !over || !pending.is_empty() {
            tokio::select! {
                biased;
                Some((intended, receipts)) = pending.next(), if !pending.is_empty() => tally.receipts(intended, receipts),
                intended = due(&mut schedule), if !over && pending.len() < self.in_flight => {
                    let count = self.budget.take(self.batch);
                    let Some(intended) = intended.filter(|_| count > 0) else {
                        over = true;
                        continue;
                    };
                    let messages = self.messages(count, intended);
                    tally.bytes += count * self.payload.len() as u64;
                    match self.producer.send_all(messages).await {
                        Ok(receipts) => pending.push_back(async move { (intended, receipts.await) }),
                        Err(error) => tally.failed(count, error),
                    }
                }
            }
        }
        tally
    }

    fn messages(&mut self, count: u64, intended: Instant) -> Vec<Message> {
        let payload = match &self.stamp {
            Some(stamp) => stamp.write(&self.payload, intended),
            None => self.payload.clone(),
        };
        let message = |_| {
            let message = Message::new(payload.clone());
            if self.keys == 0 {
                return message;
            }
            self.next_key += 1;
            message.key(format!("key-{}", self.next_key % self.keys))
        };
        (0..count).map(message).collect()
    }
}

/// When the next batch is meant to be sent: as scheduled, or now.
async fn due(schedule: &mut Option<mpsc::Receiver<Instant>>) -> Option<Instant> {
    match schedule {
        Some(schedule) => schedule.recv().await,
        None => Some(Instant::now()),
    }
}
