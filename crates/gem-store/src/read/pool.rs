//! Who runs blocking reads: a few threads, or, in a simulation, the caller itself.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::StoreError;

/// A piece of blocking work.
pub type Job = Box<dyn FnOnce() + Send>;

/// Runs jobs that read files.
pub trait ReadPool: Send + Sync + fmt::Debug + 'static {
    /// Takes `job` to be run once; [`StoreError::Busy`] where its queue is full.
    fn submit(&self, job: Job) -> Result<(), StoreError>;
}

/// Runs each job at once, where it is submitted: for simulations, in which reads take no time.
#[derive(Clone, Copy, Debug, Default)]
pub struct InlineReads;

impl ReadPool for InlineReads {
    fn submit(&self, job: Job) -> Result<(), StoreError> {
        job();
        Ok(())
    }
}

/// A few threads with one bounded queue. Dropped, it finishes what is queued and ends them.
pub struct ReadThreads {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    bound: usize,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl ReadThreads {
    /// `threads` threads (at least one), with at most `bound` jobs waiting.
    pub fn new(threads: usize, bound: usize) -> Result<ReadThreads, StoreError> {
        let shared = Arc::new(Shared { queue: Mutex::default(), work: Condvar::new(), bound });
        let mut pool = ReadThreads { shared, threads: Vec::new() };
        for number in 0..threads.max(1) {
            let shared = pool.shared.clone();
            let thread = std::thread::Builder::new().name(format!("gem-read-{number}"));
            pool.threads.push(thread.spawn(move || shared.run())?);
        }
        Ok(pool)
    }
}

impl ReadPool for ReadThreads {
    fn submit(&self, job: Job) -> Result<(), StoreError> {
        let mut queue = self.shared.lock();
        if queue.jobs.len() >= self.shared.bound {
            return Err(StoreError::Busy);
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.shared.work.notify_one();
        Ok(())
    }
}

impl Shared {
    fn run(&self) {
        while let Some(job) = self.next() {
            // A job that panics answers nobody, and its caller sees that; the thread goes on.
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
                tracing::error!("a read panicked");
            }
        }
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.closed {
                return None;
            }
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No job runs under the lock, and a push or pop leaves the queue whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ReadThreads {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // Its jobs' panics are caught above.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for ReadThreads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadThreads").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::read::Reads;

    #[test]
    fn the_queue_is_bounded_and_finished_at_the_end() {
        let pool = ReadThreads::new(1, 2).unwrap();
        let (go, gate) = mpsc::channel::<()>();
        let (begun, is_begun) = mpsc::channel();
        pool.submit(Box::new(move || {
            begun.send(()).unwrap();
            gate.recv().unwrap();
        }))
        .unwrap();
        is_begun.recv().unwrap();
        let (done, count) = mpsc::channel();
        for n in 0..2 {
            let done = done.clone();
            pool.submit(Box::new(move || done.send(n).unwrap())).unwrap();
        }
        assert!(matches!(pool.submit(Box::new(|| ())), Err(StoreError::Busy)));
        go.send(()).unwrap();
        drop((pool, done));
        assert_eq!(count.iter().collect::<Vec<_>>(), [0, 1]);
    }

    #[tokio::test]
    async fn a_panicking_read_answers_and_the_pool_goes_on() {
        for pool in [Arc::new(ReadThreads::new(2, 8).unwrap()) as Arc<dyn ReadPool>, Arc::new(InlineReads)] {
            let inline = format!("{pool:?}") == "InlineReads";
            let reads = Reads::new(pool);
            if !inline {
                let answer = reads.run(|| -> Result<(), StoreError> { panic!("on purpose") }).await;
                assert!(matches!(answer, Err(StoreError::Poisoned { .. })));
            }
            assert_eq!(reads.run(|| Ok(7)).await.unwrap(), 7);
        }
    }
}
