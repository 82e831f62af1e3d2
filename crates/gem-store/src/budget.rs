//! One memory budget for the node.
//!
//! Whoever keeps bytes that grow with load holds a [`Charge`] for them and gives it back by
//! dropping it. When the total is reached, caches give way first ([`Shrink`]), then charges wait
//! their turn, and what waited too long is refused: so memory bounds what is taken in, and no
//! buffer needs a bound of its own.
//!
//! - The sum of all charges never exceeds the total, but for [`Budget::charge_now`].
//! - Waiters are served in the order in which they came; one that is held up only by its own
//!   class's bound holds up none of the other classes.
//! - A cache never waits, never pushes out another cache, and takes nothing that others wait for.
//! - A waiter that is dropped, before or after it was served, leaks nothing.
//!
//! The lock is held for a few instructions, never across a shrink hook or a wake-up.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::oneshot;

/// What memory is held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Requests in flight, from the socket to the answer.
    Requests,
    /// Raft entries on their way to the journal and back, and what the shards keep of them.
    Raft,
    /// Recent batches kept for readers. Gives way.
    TailCache,
    /// RocksDB's write buffers and block cache.
    Index,
    /// Tables of message ids and producers.
    Dedup,
    /// Leases and delivery state.
    Leases,
    /// Connections and their windows.
    Connections,
    /// Gathering journal files into objects.
    Gather,
    /// Answers on streams that their clients have not taken.
    Answers,
}

impl Class {
    /// Every class, in the order of [`Class::name`]'s table.
    pub const ALL: [Class; 9] = [
        Class::Requests,
        Class::Raft,
        Class::TailCache,
        Class::Index,
        Class::Dedup,
        Class::Leases,
        Class::Connections,
        Class::Gather,
        Class::Answers,
    ];

    /// The class as it stands in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Class::Requests => "requests",
            Class::Raft => "raft",
            Class::TailCache => "tail_cache",
            Class::Index => "index",
            Class::Dedup => "dedup",
            Class::Leases => "leases",
            Class::Connections => "connections",
            Class::Gather => "gather",
            Class::Answers => "answers",
        }
    }

    fn is_cache(self) -> bool {
        matches!(self, Class::TailCache)
    }
}

/// A cache that gives way to other charges.
pub trait Shrink: Send + Sync {
    /// Drops at least `bytes` worth of charges where it holds as many.
    fn shrink(&self, bytes: u64);
}

/// No room in the budget, within the time that the caller had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room for {bytes} bytes of {}: the memory budget is {total} bytes", class.name())]
pub struct OverBudget {
    /// What the bytes were for.
    pub class: Class,
    /// How many they were.
    pub bytes: u64,
    /// The budget, in bytes.
    pub total: u64,
}

/// The memory budget of a node. Clones share it.
#[derive(Clone)]
pub struct Budget {
    inner: Arc<Inner>,
}

struct Inner {
    total: u64,
    bounds: [u64; Class::ALL.len()],
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    used: [u64; Class::ALL.len()],
    sum: u64,
    waiting: VecDeque<Waiter>,
    next_waiter: u64,
    caches: Vec<Weak<dyn Shrink>>,
}

struct Waiter {
    number: u64,
    class: Class,
    bytes: u64,
    grant: oneshot::Sender<Charge>,
}

/// Bytes held; given back when dropped.
#[must_use = "dropping a charge gives its bytes back"]
pub struct Charge {
    inner: Arc<Inner>,
    class: Class,
    bytes: u64,
}

impl Budget {
    /// A budget of `total` bytes, of which each class of `bounds` may hold only so many.
    pub fn new(total: u64, bounds: &[(Class, u64)]) -> Budget {
        let mut all = [total; Class::ALL.len()];
        for &(class, bound) in bounds {
            all[class as usize] = bound.min(total);
        }
        Budget { inner: Arc::new(Inner { total, bounds: all, state: Mutex::default() }) }
    }

    /// The budget in bytes.
    pub fn total(&self) -> u64 {
        self.inner.total
    }

    /// Bytes held in all.
    pub fn used(&self) -> u64 {
        self.inner.lock().sum
    }

    /// Bytes held by `class`.
    pub fn used_by(&self, class: Class) -> u64 {
        self.inner.lock().used[class as usize]
    }

    /// Bytes that `class` may still take within its bound.
    pub fn left_to(&self, class: Class) -> u64 {
        self.inner.bounds[class as usize].saturating_sub(self.used_by(class))
    }

    /// Charges that wait.
    pub fn waiting(&self) -> usize {
        self.inner.lock().waiting.len()
    }

    /// Has `cache` give way from now on, as long as it lives.
    pub fn register_cache(&self, cache: Weak<dyn Shrink>) {
        let mut state = self.inner.lock();
        state.caches.retain(|cache| cache.strong_count() > 0);
        state.caches.push(cache);
    }

    /// Takes `bytes` if there is room and nobody waits for it, pushing out cached bytes if need be.
    pub fn try_charge(&self, class: Class, bytes: u64) -> Option<Charge> {
        if !class.is_cache() {
            self.make_room(bytes);
        }
        let mut state = self.inner.lock();
        let blocked = state.waiting.iter().any(|w| class.is_cache() || self.inner.class_has_room(&state, w));
        if blocked || !self.inner.fits(&state, class, bytes) {
            return None;
        }
        Some(self.inner.take(&mut state, class, bytes))
    }

    /// Takes `bytes`, waiting for them at most `deadline`.
    pub async fn charge(&self, class: Class, bytes: u64, deadline: Duration) -> Result<Charge, OverBudget> {
        let over = OverBudget { class, bytes, total: self.inner.total };
        if bytes > self.inner.bounds[class as usize] {
            return Err(over);
        }
        if let Some(charge) = self.try_charge(class, bytes) {
            return Ok(charge);
        }
        let (grant, granted) = oneshot::channel();
        let number = {
            let mut state = self.inner.lock();
            let number = state.next_waiter;
            state.next_waiter += 1;
            state.waiting.push_back(Waiter { number, class, bytes, grant });
            number
        };
        // What was given back between the attempt and the queueing has woken nobody.
        self.inner.serve();
        let place = Place { inner: &self.inner, number };
        let charge = tokio::time::timeout(deadline, granted).await;
        drop(place);
        match charge {
            Ok(Ok(charge)) => Ok(charge),
            _ => Err(over),
        }
    }

    /// Takes `bytes` at once, over the total if need be: for what is there already and can't be
    /// refused, such as RocksDB's buffers or the entries of a log that is read back.
    pub fn charge_now(&self, class: Class, bytes: u64) -> Charge {
        if !class.is_cache() {
            self.make_room(bytes);
        }
        let mut state = self.inner.lock();
        self.inner.take(&mut state, class, bytes)
    }

    /// Asks the caches for what is missing to take `bytes` once all who wait are served.
    fn make_room(&self, bytes: u64) {
        let (missing, caches) = {
            let state = self.inner.lock();
            let waiting = state.waiting.iter().fold(bytes, |sum, waiter| sum.saturating_add(waiter.bytes));
            let missing = state.sum.saturating_add(waiting).saturating_sub(self.inner.total);
            let caches = if missing > 0 { state.caches.clone() } else { Vec::new() };
            (missing, caches)
        };
        let mut left = missing;
        for cache in caches.iter().filter_map(Weak::upgrade) {
            if left == 0 {
                break;
            }
            let before = self.used();
            cache.shrink(left);
            left = left.saturating_sub(before.saturating_sub(self.used()));
        }
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.inner.lock();
        f.debug_struct("Budget")
            .field("total", &self.inner.total)
            .field("used", &state.sum)
            .field("waiting", &state.waiting.len())
            .finish()
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two halves of a change of the counters.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fits(&self, state: &State, class: Class, bytes: u64) -> bool {
        let in_total = state.sum.checked_add(bytes).is_some_and(|sum| sum <= self.total);
        let used = state.used[class as usize];
        in_total && used.checked_add(bytes).is_some_and(|used| used <= self.bounds[class as usize])
    }

    /// Whether nothing but the total holds the waiter up.
    fn class_has_room(&self, state: &State, waiter: &Waiter) -> bool {
        let bound = self.bounds[waiter.class as usize];
        bound >= self.total || state.used[waiter.class as usize].saturating_add(waiter.bytes) <= bound
    }

    fn take(self: &Arc<Self>, state: &mut State, class: Class, bytes: u64) -> Charge {
        state.used[class as usize] += bytes;
        state.sum += bytes;
        Charge { inner: self.clone(), class, bytes }
    }

    /// Grants what fits, in order.
    fn serve(self: &Arc<Self>) {
        loop {
            let (grant, charge) = {
                let mut state = self.lock();
                let first = state.waiting.iter().position(|w| self.class_has_room(&state, w));
                let Some(at) = first.filter(|&at| self.fits_waiter(&state, at)) else { return };
                let Some(waiter) = state.waiting.remove(at) else { return };
                (waiter.grant, self.take(&mut state, waiter.class, waiter.bytes))
            };
            // A waiter that is gone gives its charge back right here, and the loop goes on.
            if let Err(mut unwanted) = grant.send(charge) {
                unwanted.give_back();
            }
        }
    }

    fn fits_waiter(&self, state: &State, at: usize) -> bool {
        state.waiting.get(at).is_some_and(|w| self.fits(state, w.class, w.bytes))
    }
}

/// A waiter's place in the queue: left when the wait ends, however it ends.
struct Place<'a> {
    inner: &'a Arc<Inner>,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let left = {
            let mut state = self.inner.lock();
            let at = state.waiting.iter().position(|w| w.number == self.number);
            at.and_then(|at| state.waiting.remove(at))
        };
        // Whoever stood behind may fit where this one did not.
        if left.is_some() {
            self.inner.serve();
        }
    }
}

impl Charge {
    /// The bytes held.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What they are held for.
    pub fn class(&self) -> Class {
        self.class
    }

    /// Gives back all but `bytes`.
    pub fn reduce_to(&mut self, bytes: u64) {
        let rest = Charge { inner: self.inner.clone(), class: self.class, bytes: self.bytes.saturating_sub(bytes) };
        self.bytes -= rest.bytes;
        drop(rest);
    }

    /// Splits `bytes` (at most all) off into a charge of their own.
    pub fn split(&mut self, bytes: u64) -> Charge {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Charge { inner: self.inner.clone(), class: self.class, bytes }
    }

    fn give_back(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut state = self.inner.lock();
        state.used[self.class as usize] -= bytes;
        state.sum -= bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.give_back();
            self.inner.serve();
        }
    }
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Charge({} bytes of {})", self.bytes, self.class.name())
    }
}

#[cfg(test)]
#[path = "budget_tests.rs"]
mod tests;
