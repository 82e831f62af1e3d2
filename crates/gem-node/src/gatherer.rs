//! The thread that empties old journal files into objects, at its own pace.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use gem_shard::Shard;
use gem_shard::shard::batches_in_entry;
use gem_store::StoreError;
use gem_store::gather::{GatherHost, Gatherer, Next};
use gem_store::index::locations::Move;
use gem_store::index::ordered::OrderedStore;
use gem_store::journal::Journal;
use gem_types::{GroupId, Offset, PartitionId};
use tokio::sync::oneshot;

/// Between looks where there is nothing to do.
const IDLE: Duration = Duration::from_millis(500);
/// Between steps where something else has to happen first.
const WAIT: Duration = Duration::from_millis(50);
/// Between attempts to make room on a full disk.
const FULL: Duration = Duration::from_secs(1);
/// After a failure.
const FAILED: Duration = Duration::from_secs(5);

/// This node's shards, as gathering needs them.
pub struct Host(pub Vec<Arc<Shard>>);

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("shards", &self.0.len()).finish()
    }
}

impl Host {
    fn shard(&self, group: GroupId) -> Option<&Arc<Shard>> {
        self.0.iter().find(|shard| shard.id() == group)
    }
}

impl GatherHost for Host {
    fn store(&self, group: GroupId) -> Option<Arc<dyn OrderedStore>> {
        self.shard(group).map(|shard| shard.store())
    }

    fn batches_in_entry(&self, entry: &[u8]) -> Vec<(PartitionId, Offset, Range<usize>)> {
        batches_in_entry(entry)
    }

    fn repoint(&self, group: GroupId, moves: &[Move]) -> Result<(), StoreError> {
        self.shard(group).map_or(Ok(()), |shard| shard.repoint(moves))
    }

    fn flush(&self, group: GroupId) -> Result<(), StoreError> {
        self.shard(group).map_or(Ok(()), |shard| shard.flush_blocking())
    }

    fn durable_applied(&self, group: GroupId) -> Option<u64> {
        self.shard(group).and_then(|shard| shard.durable_applied())
    }

    fn purge(&self, group: GroupId) {
        if let Some(shard) = self.shard(group) {
            shard.purge();
        }
    }
}

type Stop = Arc<(Mutex<bool>, Condvar)>;

/// The thread. Stopped by [`stop`](GatherThread::stop); it ends after the step at work.
#[derive(Debug)]
pub struct GatherThread {
    stop: Stop,
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

impl GatherThread {
    /// Starts it for the shards of `host`, the same that the gatherer knows.
    pub fn start(gatherer: Gatherer, host: Arc<Host>, journal: Journal) -> Result<GatherThread, StoreError> {
        let stop = Stop::default();
        let (tell, ended) = oneshot::channel();
        let its = stop.clone();
        let run = move || {
            run(gatherer, &host, &journal, &its);
            // Nobody waits where the node was dropped instead of stopped.
            let _ = tell.send(());
        };
        std::thread::Builder::new().name("gem-gather".into()).spawn(run)?;
        Ok(GatherThread { stop, ended: Mutex::new(Some(ended)) })
    }

    /// Asks it to end, and waits at most `patience` for that.
    pub async fn stop(&self, patience: Duration) {
        self.ask();
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(ended) = ended {
            let _ = tokio::time::timeout(patience, ended).await;
        }
    }

    fn ask(&self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
    }
}

impl Drop for GatherThread {
    fn drop(&mut self) {
        self.ask();
    }
}

/// Lets go of the log behind what the indexes hold. Shards do so by themselves for each so many
/// bytes that they store; a full disk stores nothing, and a purge there must make room soon.
fn make_room(host: &Host) {
    for shard in &host.0 {
        match shard.flush_blocking() {
            Ok(()) => shard.purge(),
            Err(error) => tracing::error!(%error, prefix = %shard.prefix(), "an index cannot be flushed"),
        }
    }
}

fn run(mut gatherer: Gatherer, host: &Host, journal: &Journal, stop: &Stop) {
    loop {
        let pause = match gatherer.step() {
            Ok(Next::More) => Duration::ZERO,
            Ok(Next::Wait) => WAIT,
            Ok(Next::Idle) if !journal.room().publish_ok => {
                make_room(host);
                FULL
            }
            Ok(Next::Idle) => IDLE,
            // Safe at every stage: the next step begins another round.
            Err(error) => {
                tracing::error!(%error, "gathering old journal files failed: trying again");
                FAILED
            }
        };
        let stopped = stop.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = stop.1.wait_timeout_while(stopped, pause, |stopped| !*stopped);
        if *waited.unwrap_or_else(PoisonError::into_inner).0 {
            return;
        }
    }
}
