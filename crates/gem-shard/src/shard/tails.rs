//! Who waits for which partition's end.
//!
//! A reader that finds nothing waits here instead of polling. An entry of the map lives as long
//! as somebody waits for it, so the map is as large as the number of waiting readers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use gem_types::{Offset, PartitionId};

use crate::watch;

/// The ends of the partitions that somebody waits for.
#[derive(Debug, Default)]
pub struct Tails(Mutex<BTreeMap<PartitionId, watch::Sender<Offset>>>);

/// A wait for a partition's end. Dropping it ends the wait.
#[derive(Debug)]
pub struct Wait {
    tails: Arc<Tails>,
    partition: PartitionId,
    receiver: Option<watch::Receiver<Offset>>,
}

impl Tails {
    /// Begins to wait. Take it before looking whether something is there: what grows after this
    /// call wakes the wait.
    pub fn wait(self: &Arc<Self>, partition: PartitionId) -> Wait {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = map.entry(partition).or_insert_with(|| watch::Sender::new(0));
        Wait { tails: self.clone(), partition, receiver: Some(sender.subscribe()) }
    }

    /// Wakes those who wait for `partition`, which now ends at `next`.
    pub fn grew(&self, partition: PartitionId, next: Offset) {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = map.get(&partition) {
            sender.send_replace(next);
        }
    }

    /// Wakes everybody, to look again: the partition is gone, or the shard stops.
    pub fn wake_all(&self) {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for sender in map.values() {
            sender.send_modify(|_| {});
        }
    }
}

impl Wait {
    /// Returns once the partition has grown since the wait began or last returned.
    pub async fn grown(&mut self) {
        if let Some(receiver) = &mut self.receiver {
            // The sender stays in the map as long as this receiver lives.
            let _ = receiver.changed().await;
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.receiver = None;
        let mut map = self.tails.0.lock().unwrap_or_else(PoisonError::into_inner);
        if map.get(&self.partition).is_some_and(|sender| sender.receiver_count() == 0) {
            map.remove(&self.partition);
        }
    }
}
