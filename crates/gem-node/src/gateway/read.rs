//! Reading without a group.

use std::time::Duration;

use futures::future::select_all;
use gem_shard::log::{From, PartitionInfo, Read, ReadOut, TokenText};
use gem_types::batch::SharedRecord;
use gem_types::{Error, Result, TopicName};
use tokio::time::Instant;

use super::Gateway;
use super::cursor::Cursor;
use super::topics::Topic;

/// About how many bytes are asked of a partition at a time.
const STEP_BYTES: usize = 1 << 20;

/// A message that was read or delivered.
#[derive(Debug)]
pub struct Item {
    /// The number of its partition.
    pub partition: u32,
    /// The message, in place in its batch.
    pub record: SharedRecord,
    /// How often it was handed out; 0 without a group.
    pub delivery: u32,
    /// What acks it; empty without a group.
    pub token: TokenText,
}

/// What a message costs an answer beside its own bytes: ids, places, framing.
const ITEM_ROOM: usize = 128;

impl Item {
    /// About how many bytes it takes in an answer.
    pub fn bytes(&self) -> usize {
        self.record.len() + self.token.as_bytes().len() + ITEM_ROOM
    }
}

impl Gateway {
    /// Where a reader begins: at `cursor`, or `from`, or the latest.
    pub async fn begin(&self, topic: &Topic, from: Option<From>, cursor: Option<&str>) -> Result<Cursor> {
        if let Some(text) = cursor {
            if from.is_some() {
                return Err(Error::invalid("cursor and from exclude each other: give one of them"));
            }
            return Cursor::decode(text, &topic.info.name);
        }
        let from = from.unwrap_or(From::Latest);
        check_start(topic, from)?;
        let mut cursor = Cursor::new();
        for partition in &topic.info.partitions {
            let next = self.shard(partition.id)?.resolve(partition.id, partition.number, from).await?;
            cursor.set(partition.number, partition.id, next);
        }
        Ok(cursor)
    }

    /// Reads on from `cursor`, moving it: up to `limit` messages, or about `max_bytes`. Where nothing is
    /// there, waits up to `wait` for the first.
    pub async fn read(
        &self,
        topic: &Topic,
        cursor: &mut Cursor,
        limit: usize,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Vec<Item>> {
        let until = Instant::now() + wait;
        loop {
            let items = self.read_what_is_there(topic, cursor, limit, max_bytes).await?;
            let left = until.saturating_duration_since(Instant::now());
            if !items.is_empty() || left.is_zero() || self.draining.is_cancelled() {
                self.count_delivered(topic, &items);
                return Ok(items);
            }
            tokio::select! {
                () = self.wait_for_more(topic, cursor, left) => {}
                () = self.draining.cancelled() => {}
            }
        }
    }

    /// Counts what goes out. Messages of one batch share a stamp and are observed at once.
    pub(super) fn count_delivered(&self, topic: &Topic, items: &[Item]) {
        if items.is_empty() {
            return;
        }
        topic.stats.delivered(items.len(), items.iter().map(|i| i.record.payload_len()).sum());
        let now_ms = self.clock.wall_ms();
        for run in items.chunk_by(|a, b| a.record.timestamp_ms() == b.record.timestamp_ms()) {
            if let Some(first) = run.first() {
                let seconds = (now_ms - first.record.timestamp_ms()).max(0) as f64 / 1000.0;
                self.metrics.end_to_end.observe(seconds, run.len() as u64);
            }
        }
    }

    async fn read_what_is_there(
        &self,
        topic: &Topic,
        cursor: &mut Cursor,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Vec<Item>> {
        let mut page = Page { items: Vec::new(), bytes: 0, limit, max_bytes };
        for partition in &topic.info.partitions {
            while !page.is_full() {
                let step = STEP_BYTES.min(max_bytes - page.bytes);
                let out = self.read_partition(partition, cursor, step, Duration::ZERO).await?;
                let from = cursor.next(partition.number, partition.id).unwrap_or(0);
                let mut next = page.take(&out, from, partition.number)?;
                if !page.is_full() {
                    next = next.max(out.next);
                }
                cursor.set(partition.number, partition.id, next);
                if next <= from || next >= out.stats.next {
                    break;
                }
            }
        }
        Ok(page.items)
    }

    async fn read_partition(
        &self,
        p: &PartitionInfo,
        cursor: &Cursor,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<ReadOut> {
        let from = cursor.next(p.number, p.id).unwrap_or(0);
        self.shard(p.id)?.read(Read { partition: p.id, from, max_bytes, wait }).await
    }

    /// Returns once something new may be there. Errors show at the next read.
    async fn wait_for_more(&self, topic: &Topic, cursor: &Cursor, wait: Duration) {
        let waits = topic.info.partitions.iter().map(|p| Box::pin(self.read_partition(p, cursor, 1, wait)));
        let waits: Vec<_> = waits.collect();
        if waits.is_empty() {
            return tokio::time::sleep(wait).await;
        }
        if select_all(waits).await.0.is_err() {
            // Not to ask a shard that is down in a tight loop.
            tokio::time::sleep(wait.min(Duration::from_millis(50))).await;
        }
    }
}

/// What one read has found so far.
struct Page {
    items: Vec<Item>,
    bytes: usize,
    limit: usize,
    max_bytes: usize,
}

impl Page {
    fn is_full(&self) -> bool {
        self.items.len() >= self.limit || self.bytes >= self.max_bytes
    }

    /// Takes the records of `out` at and after `from` until it is full; answers where to go on.
    fn take(&mut self, out: &ReadOut, from: u64, partition: u32) -> Result<u64> {
        let mut next = from;
        for batch in out.batches.iter().filter(|b| !b.is_control()) {
            for record in batch.records().shared() {
                let record = record.map_err(|e| Error::internal(format!("a stored batch is damaged: {e}")))?;
                let offset = record.offset();
                if offset < from {
                    continue;
                }
                if self.is_full() {
                    return Ok(next);
                }
                next = offset + 1;
                let item = Item { partition, record, delivery: 0, token: TokenText::NONE };
                self.bytes += item.bytes();
                self.items.push(item);
            }
        }
        Ok(next)
    }
}

/// Refuses a partition that the topic does not have.
pub(super) fn check_start(topic: &Topic, from: From) -> Result<()> {
    match from {
        From::At(number, _) if topic.numbered(number).is_none() => {
            let name: &TopicName = &topic.info.name;
            Err(Error::invalid(format!(
                "topic {name} has no partition {number}: it has {} of them, counted from 0",
                topic.info.partitions.len()
            )))
        }
        _ => Ok(()),
    }
}
