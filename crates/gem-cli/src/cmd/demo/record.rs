//! What the publishers saw: when each event was sent, and which place was acknowledged.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::events::{Event, Events};

/// Microseconds since the Unix epoch.
#[expect(clippy::disallowed_methods, reason = "the demo's processes, Python among them, share the wall clock alone")]
pub fn now_us() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}

/// A place that was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub partition: u32,
    pub offset: u64,
}

/// What is known of one event.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    pub sent_us: Option<u64>,
    pub acked_us: Option<u64>,
    pub place: Option<Place>,
    /// The answer said that it had been stored before: by an earlier attempt.
    pub duplicate: bool,
}

/// Shared by all publishers.
#[derive(Debug)]
pub struct Record {
    events: Mutex<Vec<Sent>>,
    acked: AtomicU64,
    last_ack_us: AtomicU64,
    retries: AtomicU64,
    /// When the node was killed; `NEVER` before.
    killed_us: AtomicU64,
    /// When something that was sent after the kill was first acknowledged; `NEVER` before.
    resumed_us: AtomicU64,
}

const NEVER: u64 = u64::MAX;

impl Record {
    pub fn new(events: &Events) -> Record {
        Record {
            events: Mutex::new(vec![Sent::default(); events.all.len()]),
            acked: AtomicU64::new(0),
            last_ack_us: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            killed_us: AtomicU64::new(NEVER),
            resumed_us: AtomicU64::new(NEVER),
        }
    }

    /// The event goes out; a second attempt doesn't change when it was sent first.
    pub fn sent(&self, event: &Event, at_us: u64) {
        self.with(event, |sent| {
            sent.sent_us.get_or_insert(at_us);
        });
    }

    /// The event is acknowledged.
    pub fn acked(&self, event: &Event, place: Place, duplicate: bool, at_us: u64) {
        let killed_us = self.killed_us.load(Ordering::Relaxed);
        self.with(event, |sent| {
            sent.acked_us = Some(at_us);
            sent.place = Some(place);
            sent.duplicate = duplicate;
            // Answers that were under way when the node died come in after it, and say nothing.
            if sent.sent_us.is_some_and(|sent_us| sent_us > killed_us) {
                self.resumed_us.fetch_min(at_us, Ordering::Relaxed);
            }
        });
        self.acked.fetch_add(1, Ordering::Relaxed);
        self.last_ack_us.fetch_max(at_us, Ordering::Relaxed);
    }

    /// The node is being killed.
    pub fn killed(&self, at_us: u64) {
        self.killed_us.store(at_us, Ordering::Relaxed);
    }

    /// When the node was killed.
    pub fn killed_us(&self) -> Option<u64> {
        Some(self.killed_us.load(Ordering::Relaxed)).filter(|at_us| *at_us != NEVER)
    }

    /// From the kill to the first acknowledgement of something that was sent after it.
    pub fn recovery(&self) -> Option<Duration> {
        let resumed_us = Some(self.resumed_us.load(Ordering::Relaxed)).filter(|at_us| *at_us != NEVER)?;
        Some(Duration::from_micros(resumed_us.saturating_sub(self.killed_us()?)))
    }

    /// A request is repeated.
    pub fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub fn acked_count(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    pub fn last_ack_us(&self) -> u64 {
        self.last_ack_us.load(Ordering::Relaxed)
    }

    pub fn retry_count(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// What is known of each event, by its index.
    pub fn snapshot(&self) -> Vec<Sent> {
        self.events.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn with(&self, event: &Event, change: impl FnOnce(&mut Sent)) {
        let mut events = self.events.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(sent) = events.get_mut(event.index as usize) {
            change(sent);
        }
    }
}
