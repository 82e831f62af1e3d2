//! The runtime that openraft runs on: tokio, with its chance and its order of wakes owned.
//!
//! What it is: openraft's own runtime over tokio but for two things. Chance (election timeouts)
//! comes from [`OsRandom`], or, on a thread that was [`seed`]ed, from that seed. And those who wait
//! for one value are woken in the order in which they began to wait: tokio's watch wakes them in an
//! order that it draws itself.
//!
//! Invariant: on one thread, the same seed and the same calls are the same run.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::time::Duration;

use gem_types::seams::{OsRandom, Random};
use openraft::async_runtime::AsyncRuntime;
use openraft::{OptionalSend, TokioRuntime};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::watch::OrderedWatch;

thread_local! {
    /// The simulator's seed of this thread; `None` on a node.
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From now on, chance on this thread is drawn from `seed`: for the simulator.
pub fn seed(seed: u64) {
    SEED.set(Some(seed));
}

fn draw() -> u64 {
    match SEED.get() {
        None => OsRandom.u64(),
        Some(seed) => {
            // SplitMix64's step; SmallRng mixes what it is seeded with.
            SEED.set(Some(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)));
            seed
        }
    }
}

/// See the module's page.
#[derive(Debug)]
pub struct Runtime(TokioRuntime);

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = SmallRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = OrderedWatch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        SmallRng::seed_from_u64(draw())
    }

    fn new(threads: usize) -> Self {
        Runtime(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }

    fn spawn_blocking<F, T>(f: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        TokioRuntime::spawn_blocking(f)
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn the_same_seed_draws_the_same() {
        let draws = |of: u64| {
            seed(of);
            [Runtime::thread_rng().next_u64(), Runtime::thread_rng().next_u64()]
        };
        assert_eq!(draws(7), draws(7));
        assert_ne!(draws(7), draws(8));
        SEED.set(None);
        assert_ne!(Runtime::thread_rng().next_u64(), Runtime::thread_rng().next_u64());
    }

    #[test]
    fn openraft_s_own_suite_holds() {
        openraft::testing::runtime::Suite::<Runtime>::test_all();
    }
}
