//! Publishing: from what a client sent to receipts, in the order of its messages.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use gem_shard::log::{Append, Placed, ProducerBatch};
use gem_types::{Code, Error, Offset, PartitionId, ProducerId, Result, TopicName};
use tokio::time::Instant;

use super::Gateway;
use super::admission::Admitted;
use super::ids::IdRun;
use super::prepare::{Ids, Input, Part, Prepared, prepare};
use super::producers::Producer;
use super::topics::Topic;

/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// What a shard may take beyond its wait before it counts as lost.
const GRACE: Duration = Duration::from_secs(2);

/// Where a message is stored, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The number of its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: Offset,
    /// It had been stored before.
    pub duplicate: bool,
}

/// Where the messages of a publish are stored.
#[derive(Debug)]
pub enum Places {
    /// All of them one after another in one partition, none a duplicate.
    Range {
        /// The partition's number.
        partition: u32,
        /// The first message's offset.
        first: Offset,
        /// How many.
        count: u32,
    },
    /// None, all for one reason.
    Refused {
        /// The reason.
        error: Error,
        /// How many messages.
        count: usize,
    },
    /// Each on its own, in input order.
    Each(Vec<Result<Place>>),
}

impl Places {
    /// The outcome of each message, in input order.
    pub fn into_each(self) -> Vec<Result<Place>> {
        match self {
            Places::Each(each) => each,
            Places::Refused { error, count } => vec![Err(error); count],
            Places::Range { partition, first, count } => (0..u64::from(count))
                .map(|index| Ok(Place { partition, offset: first + index, duplicate: false }))
                .collect(),
        }
    }
}

/// What became of a publish that was not refused as a whole.
#[derive(Debug)]
pub struct Published {
    /// What the messages are called.
    pub ids: Ids,
    /// Where they are.
    pub places: Places,
}

/// A publish that was taken in, and holds its room.
#[derive(Debug)]
pub struct TakenIn {
    topic: Arc<Topic>,
    prepared: Prepared,
    numbered: Option<Numbered>,
    started: Duration,
    deadline: Instant,
    _room: Admitted,
}

/// How a publish is numbered.
#[derive(Clone, Debug)]
pub struct Numbered {
    /// Whose it is.
    pub producer: Arc<Producer>,
    /// The first message's number.
    pub first: u64,
    /// The client says what is settled.
    pub by_client: bool,
}

impl Gateway {
    /// A producer's id that nobody else has.
    pub fn new_producer(&self) -> ProducerId {
        ProducerId::new(self.clock.wall_ms(), self.random.u64())
    }

    /// Publishes `input` on behalf of a client: refused as a whole, or an outcome a message.
    pub async fn publish(&self, topic: &TopicName, input: Input, wait: Option<Duration>) -> Result<Published> {
        super::topics::check_writable(topic)?;
        self.publish_as(topic, input, None, wait).await
    }

    /// As [`publish`](Self::publish), for a numbered producer.
    pub(crate) async fn publish_as(
        &self,
        topic: &TopicName,
        input: Input,
        numbered: Option<Numbered>,
        wait: Option<Duration>,
    ) -> Result<Published> {
        Ok(self.finish(self.take_in(topic, input, numbered, wait).await?).await)
    }

    /// The first half of a publish: everything that may refuse it as a whole. A stream calls this
    /// for one batch after another, since it fixes their order, and [`finish`](Self::finish) side
    /// by side.
    pub(crate) async fn take_in(
        &self,
        topic: &TopicName,
        input: Input,
        numbered: Option<Numbered>,
        wait: Option<Duration>,
    ) -> Result<TakenIn> {
        self.check_open()?;
        let started = self.clock.monotonic();
        let deadline =
            Instant::now() + wait.unwrap_or(self.settings.publish_deadline).min(self.settings.publish_deadline);
        let room = self.admission.admit(input.size()).await.inspect_err(|_| self.metrics.throttled.add(1))?;
        let topic = self.topic_or_new(topic).await?;
        let run = IdRun::draw(&*self.clock, &*self.random);
        let prepared = prepare(&topic, input, &self.settings.limits, run, self.clock.wall_ms())?;
        if let Some(numbered) = &numbered {
            for part in &prepared.parts {
                numbered.producer.begin(part.partition, last_number(numbered.first, part));
            }
        }
        Ok(TakenIn { topic, prepared, numbered, started, deadline, _room: room })
    }

    /// The second half of a publish: stores what was taken in.
    pub(crate) async fn finish(&self, taken: TakenIn) -> Published {
        let TakenIn { topic, prepared, numbered, started, deadline, _room } = taken;
        let Prepared { parts, count, bytes, ids } = prepared;
        let places = self.place(&topic, parts, count, numbered.as_ref(), deadline).await;
        let stored = match &places {
            Places::Range { count, .. } => u64::from(*count),
            Places::Refused { .. } => 0,
            Places::Each(each) => each.iter().filter(|r| r.as_ref().is_ok_and(|p| !p.duplicate)).count() as u64,
        };
        if stored > 0 {
            topic.stats.published.add(stored);
            topic.stats.published_bytes.add(bytes as u64 * stored / count.max(1) as u64);
        }
        self.metrics.publish.observe(self.clock.monotonic().saturating_sub(started).as_secs_f64(), 1);
        Published { ids, places }
    }

    /// Appends all parts side by side and puts the outcomes in input order.
    pub(super) async fn place(
        &self,
        topic: &Arc<Topic>,
        mut parts: Vec<Part>,
        count: usize,
        numbered: Option<&Numbered>,
        deadline: Instant,
    ) -> Places {
        if let (1, Some(part)) = (parts.len(), parts.pop_if(|p| p.indexes.is_empty())) {
            let partition = part.number;
            return match self.append(topic, part, numbered, deadline).await {
                Ok(placed) => one_partition(partition, placed),
                Err(error) => Places::Refused { error, count },
            };
        }
        let appends = parts.into_iter().map(|part| async move {
            let (partition, indexes) = (part.number, part.indexes.clone());
            (partition, indexes, self.append(topic, part, numbered, deadline).await)
        });
        let lost = || Err(Error::internal("a message got no answer"));
        let mut each: Vec<Result<Place>> = (0..count).map(|_| lost()).collect();
        for (partition, indexes, outcome) in join_all(appends).await {
            for (nth, index) in indexes.into_iter().enumerate() {
                let place = match &outcome {
                    Ok(placed) => placed.get(nth).map_or_else(lost, |p| Ok(place(partition, p))),
                    Err(error) => Err(error.clone()),
                };
                if let Some(slot) = each.get_mut(index as usize) {
                    *slot = place;
                }
            }
        }
        Places::Each(each)
    }

    /// Appends one part, trying again where the shard says that it may do better.
    async fn append(
        &self,
        topic: &Arc<Topic>,
        mut part: Part,
        numbered: Option<&Numbered>,
        deadline: Instant,
    ) -> Result<Vec<Placed>> {
        let numbers = numbered.map(|n| part_numbers(n.first, &part)).unwrap_or_default();
        let lane = numbered.map(|n| Lane {
            producer: &n.producer,
            partition: part.partition,
            last: last_number(n.first, &part),
        });
        let impatient = deadline.min(Instant::now() + self.settings.patience);
        let mut pause = Duration::from_millis(1);
        let mut asked_afresh = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let producer = numbered.map(|n| producer_batch(n, &part, &numbers));
            let append = Append {
                partition: part.partition,
                batch: part.batch.clone(),
                dedup: part.dedup.clone(),
                producer,
                wait: left,
            };
            let shard = self.shard(part.partition)?;
            let answer = tokio::time::timeout(left + GRACE, shard.append(append)).await;
            let error = match answer {
                Ok(Ok(placed)) => {
                    if let Some(lane) = &lane {
                        lane.leave(true);
                    }
                    return Ok(placed);
                }
                Ok(Err(error)) => error,
                Err(_) => Error::deadline(
                    "the shard did not answer in time: the messages may be stored; retry with the same ids",
                ),
            };
            match error.code {
                // The topic was deleted, perhaps made again: its partition has another id.
                Code::NotFound if !asked_afresh => {
                    asked_afresh = true;
                    let fresh = self.topic_afresh(&topic.info.name, true).await?;
                    match fresh.numbered(part.number) {
                        Some(partition) => part.partition = partition.id,
                        None => return Err(error),
                    }
                }
                // A numbered producer is slowed: with its next batches it settles what it holds.
                Code::Unavailable | Code::Throttled
                    if code_is_passing(&error, numbered)
                        && Instant::now() < impatient
                        && !self.draining.is_cancelled() =>
                {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                code => {
                    if code == Code::Throttled {
                        self.metrics.throttled.add(1);
                    }
                    // Only what is certainly not stored, and won't come again, may be stepped over by
                    // later batches.
                    if let (Some(lane), false) = (&lane, may_come_again(code, numbered)) {
                        lane.leave(false);
                    }
                    return Err(error);
                }
            }
        }
    }
}

/// A part's place in its producer's order, until its answer.
struct Lane<'a> {
    producer: &'a Producer,
    partition: PartitionId,
    last: u64,
}

impl Lane<'_> {
    fn leave(&self, stored: bool) {
        self.producer.end(self.partition, self.last, stored);
    }
}

fn code_is_passing(error: &Error, numbered: Option<&Numbered>) -> bool {
    error.code == Code::Unavailable || numbered.is_some()
}

/// Whether the batch may be stored yet: because nobody knows, or because the client, which numbers
/// its batches itself, sends it again.
fn may_come_again(code: Code, numbered: Option<&Numbered>) -> bool {
    let client_retries = numbered.is_some_and(|n| n.by_client) && matches!(code, Code::Unavailable | Code::Throttled);
    client_retries || matches!(code, Code::Deadline | Code::Internal)
}

fn last_number(first: u64, part: &Part) -> u64 {
    let last = part.indexes.last().copied().unwrap_or_else(|| part.batch.count().saturating_sub(1));
    first + u64::from(last)
}

fn part_numbers(first: u64, part: &Part) -> Vec<u64> {
    if part.indexes.is_empty() {
        (first..first + u64::from(part.batch.count())).collect()
    } else {
        part.indexes.iter().map(|index| first + u64::from(*index)).collect()
    }
}

fn producer_batch(numbered: &Numbered, part: &Part, numbers: &[u64]) -> ProducerBatch {
    let first = numbers.first().copied().unwrap_or(numbered.first);
    let standing = numbered.producer.standing(part.partition, first, numbered.by_client);
    let producer: ProducerId = numbered.producer.id;
    ProducerBatch { producer, numbers: numbers.to_vec(), previous: standing.previous, settled: standing.settled }
}

fn place(partition: u32, placed: &Placed) -> Place {
    Place { partition, offset: placed.offset, duplicate: placed.duplicate }
}

fn one_partition(partition: u32, placed: Vec<Placed>) -> Places {
    let first = placed.first().map_or(0, |p| p.offset);
    let in_a_run = |(index, p): (usize, &Placed)| !p.duplicate && p.offset == first + index as u64;
    if placed.iter().enumerate().all(in_a_run) {
        return Places::Range { partition, first, count: placed.len() as u32 };
    }
    Places::Each(placed.iter().map(|p| Ok(place(partition, p))).collect())
}
