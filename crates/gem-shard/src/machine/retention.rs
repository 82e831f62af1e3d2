//! What time does to a shard: the commands that its leader proposes now and then.
//!
//! Nothing here changes state: a cut or an expiry takes effect when its entry is applied.

use gem_store::StoreError;
use gem_store::index::ordered;
use gem_types::{PartitionId, TimestampMs};

use super::rows::Partition;
use super::tables::{damaged, decode};
use super::{Machine, keys};
use crate::entry::{Command, Malformed};

/// How long a producer may be idle before it is forgotten.
pub const PRODUCER_IDLE_MS: i64 = 86_400_000;
/// Partitions looked at in one call.
const PARTITIONS_A_CALL: usize = 256;
/// Partitions with ids looked at in one call: they are in memory.
const ID_PARTITIONS_A_CALL: usize = 4096;
/// Batches that one cut removes at the most: the next call goes on.
const BATCHES_A_CUT: usize = 4096;

/// Where the next call goes on.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    partitions: Option<PartitionId>,
    ids: Option<PartitionId>,
}

impl Machine {
    /// The cuts and expiries that are due at `now_ms`: bounded work, going round all partitions
    /// over several calls. What was answered and not yet applied is answered again when its turn
    /// comes.
    pub fn upkeep(&mut self, now_ms: TimestampMs) -> Result<Vec<Command>, StoreError> {
        let mut due = Vec::new();
        for (id, partition) in self.next_partitions()? {
            self.due_cut(id, &partition, now_ms, &mut due)?;
            let before_ms = now_ms.saturating_sub(PRODUCER_IDLE_MS);
            if partition.producers_seen_ms.is_some_and(|seen_ms| seen_ms < before_ms) {
                due.push(Command::ExpireProducers { partition: id, before_ms });
            }
        }
        self.due_ids(now_ms, &mut due)?;
        Ok(due)
    }

    fn next_partitions(&mut self) -> Result<Vec<(PartitionId, Partition)>, StoreError> {
        self.partitions.write_back(&mut self.rows);
        let (first, to) = keys::table(keys::PARTITIONS);
        let from = match self.rounds.partitions {
            Some(last) => ordered::after(&keys::partition(keys::PARTITIONS, last)),
            None => first,
        };
        let rows = self.rows.scan(&from, &to, PARTITIONS_A_CALL)?;
        let mut partitions = Vec::with_capacity(rows.len());
        for (key, row) in &rows {
            let id = keys::partition_of(key).ok_or_else(|| damaged(Malformed("partition key"), key))?;
            partitions.push((id, decode(row)?));
        }
        self.rounds.partitions = partitions.last().map(|(id, _)| *id).filter(|_| rows.len() == PARTITIONS_A_CALL);
        Ok(partitions)
    }

    fn due_cut(
        &mut self,
        id: PartitionId,
        partition: &Partition,
        now_ms: TimestampMs,
        due: &mut Vec<Command>,
    ) -> Result<(), StoreError> {
        let Some(topic) = self.topics.get(&self.rows, &partition.topic)? else { return Ok(()) };
        let before_ms = since(now_ms, topic.config.retention_ms);
        // The limit is the topic's; its partitions share it evenly.
        let parts = topic.partitions.len().max(1) as u64;
        let bytes_max = topic.config.retention_bytes.map_or(u64::MAX, |bytes| bytes / parts);
        if partition.messages == 0 || (partition.first_ms >= before_ms && partition.bytes <= bytes_max) {
            return Ok(());
        }
        let before = self.cut_for(id, partition.bytes, (before_ms, bytes_max), BATCHES_A_CUT)?;
        due.extend(before.map(|before| Command::Trim { partition: id, before }));
        Ok(())
    }

    fn due_ids(&mut self, now_ms: TimestampMs, due: &mut Vec<Command>) -> Result<(), StoreError> {
        let oldest = self.ids.oldest(self.rounds.ids, ID_PARTITIONS_A_CALL);
        self.rounds.ids = oldest.last().map(|(id, _)| *id).filter(|_| oldest.len() == ID_PARTITIONS_A_CALL);
        for (partition, oldest_ms) in oldest {
            let Some(config) = self.config_of(partition)? else { continue };
            let before_ms = since(now_ms, config.dedup_window_ms);
            if oldest_ms < before_ms {
                due.push(Command::ExpireIds { partition, before_ms });
            }
        }
        Ok(())
    }
}

/// The time `ago_ms` before `now_ms`.
fn since(now_ms: TimestampMs, ago_ms: u64) -> TimestampMs {
    now_ms.saturating_sub_unsigned(ago_ms)
}
