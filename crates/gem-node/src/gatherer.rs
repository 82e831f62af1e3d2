//! The thread that empties old journal files into objects, at its own pace.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use gem_shard::shard::GatheredShards;
use gem_store::StoreError;
use gem_store::gather::{Gatherer, Next};
use gem_store::journal::Journal;
use tokio::sync::oneshot;

/// Between looks where there is nothing to do.
const IDLE: Duration = Duration::from_millis(500);
/// Between steps where something else has to happen first.
const WAIT: Duration = Duration::from_millis(50);
/// Between attempts to make room on a full disk.
const FULL: Duration = Duration::from_secs(1);
/// After a failure.
const FAILED: Duration = Duration::from_secs(5);

type Stop = Arc<(Mutex<bool>, Condvar)>;

/// The thread. Stopped by [`stop`](GatherThread::stop); it ends after the step at work.
#[derive(Debug)]
pub struct GatherThread {
    stop: Stop,
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

impl GatherThread {
    /// Starts it for the shards of `host`, the same that the gatherer knows.
    pub fn start(gatherer: Gatherer, host: Arc<GatheredShards>, journal: Journal) -> Result<GatherThread, StoreError> {
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
fn make_room(host: &GatheredShards) {
    for shard in &host.all() {
        match shard.flush_blocking() {
            Ok(()) => shard.purge(),
            Err(error) => tracing::error!(%error, prefix = %shard.prefix(), "an index cannot be flushed"),
        }
    }
}

fn run(mut gatherer: Gatherer, host: &GatheredShards, journal: &Journal, stop: &Stop) {
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
