//! Reading committed batches: from the tail cache, else from journal or objects, off every task
//! that others wait for.

use std::time::Duration;

use gem_types::batch::RecordBatch;
use gem_types::{Offset, PartitionId, Result};
use tokio::time::Instant;

use super::shared::Shared;
use crate::log::{PartitionStats, Read, ReadOut};
use crate::machine::no_partition;

/// Looks again so often where what was found was trimmed before it could be read.
const RETRIES_MAX: u32 = 8;

impl Shared {
    /// What `partition` holds; `not_found` where this shard has none of that id.
    pub fn stats_of(&self, partition: PartitionId) -> Result<PartitionStats> {
        let mut machine = self.machine()?;
        let found = machine.partition(partition).map_err(|e| self.internal(e))?;
        found.map(|partition| partition.stats()).ok_or_else(|| no_partition(partition))
    }

    /// Reads from an offset, and waits for what is not there yet.
    pub async fn read(&self, read: Read) -> Result<ReadOut> {
        let deadline = Instant::now() + read.wait;
        let mut wait = self.tails.wait(read.partition);
        loop {
            let (batches, stats) = self.batches_from(read.partition, read.from, read.max_bytes).await?;
            let from = read.from.max(stats.earliest);
            if let Some(last) = batches.last() {
                let next = last.next_offset();
                return Ok(ReadOut { batches, next, stats });
            }
            if read.wait == Duration::ZERO || tokio::time::timeout_at(deadline, wait.grown()).await.is_err() {
                return Ok(ReadOut { batches, next: from, stats });
            }
        }
    }

    /// The batches from the one that holds `from` on (or the first retained behind it), in order:
    /// about `max_bytes`, one at least; none where the partition ends at `from`.
    pub async fn batches_from(
        &self,
        partition: PartitionId,
        from: Offset,
        max_bytes: usize,
    ) -> Result<(Vec<RecordBatch>, PartitionStats)> {
        for _ in 0..RETRIES_MAX {
            let stats = self.stats_of(partition)?;
            let from = from.max(stats.earliest);
            if from >= stats.next {
                return Ok((Vec::new(), stats));
            }
            let cached = self.cached(partition, from, stats.next, max_bytes);
            if !cached.is_empty() {
                return Ok((cached, stats));
            }
            let (reader, store, group) = (self.reader.clone(), self.store()?, self.group);
            let read = move || reader.read_from(&*store, group, partition, from, max_bytes);
            let batches = self.reads.run(read).await.map_err(|e| self.read_error(e))?;
            if !batches.is_empty() {
                return Ok((batches, stats));
            }
            // Trimmed between the two looks.
        }
        Err(self.unavailable(format!("partition {partition} is being trimmed faster than it can be read")))
    }

    /// What [`batches_from`](Self::batches_from) would answer, where it is all at hand.
    pub fn cached_from(&self, partition: PartitionId, from: Offset, max_bytes: usize) -> Option<Vec<RecordBatch>> {
        let stats = self.stats_of(partition).ok()?;
        let from = from.max(stats.earliest);
        let batches = self.cached(partition, from, stats.next, max_bytes);
        (!batches.is_empty() || from >= stats.next).then_some(batches)
    }

    /// The run of batches from `from` on that the tail cache has.
    fn cached(&self, partition: PartitionId, from: Offset, next: Offset, max_bytes: usize) -> Vec<RecordBatch> {
        let mut batches = Vec::new();
        let (mut at, mut bytes) = (from, 0);
        while at < next && bytes < max_bytes {
            let Some(batch) = self.tail_cache.get(partition, at) else { break };
            bytes += batch.len();
            at = batch.next_offset();
            batches.push(batch);
        }
        batches
    }
}
