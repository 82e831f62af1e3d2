//! What the journal counts, for metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Totals since the start. Every field only rises.
#[derive(Debug, Default)]
pub struct Counters {
    flushes: AtomicU64,
    operations: AtomicU64,
    bytes: AtomicU64,
    flush_nanos: AtomicU64,
    files_created: AtomicU64,
    files_recycled: AtomicU64,
    flush_buckets: [AtomicU64; Counters::FLUSH_SECONDS.len()],
}

impl Counters {
    /// Upper bounds, in seconds, of the buckets of [`flush_histogram`](Self::flush_histogram).
    pub const FLUSH_SECONDS: [f64; 14] =
        [0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, f64::INFINITY];

    /// Flushes that carried operations.
    pub fn flushes(&self) -> u64 {
        self.flushes.load(Relaxed)
    }

    /// Operations made durable.
    pub fn operations(&self) -> u64 {
        self.operations.load(Relaxed)
    }

    /// Bytes written by flushes, heads and padding included.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Time spent writing and flushing, in seconds.
    pub fn flush_seconds(&self) -> f64 {
        Duration::from_nanos(self.flush_nanos.load(Relaxed)).as_secs_f64()
    }

    /// How many flushes took at most each of [`FLUSH_SECONDS`](Self::FLUSH_SECONDS) and longer than
    /// the bound before it.
    pub fn flush_histogram(&self) -> [u64; Self::FLUSH_SECONDS.len()] {
        std::array::from_fn(|i| self.flush_buckets[i].load(Relaxed))
    }

    /// Files created.
    pub fn files_created(&self) -> u64 {
        self.files_created.load(Relaxed)
    }

    /// Files recycled.
    pub fn files_recycled(&self) -> u64 {
        self.files_recycled.load(Relaxed)
    }

    pub(super) fn flushed(&self, operations: usize, bytes: u64, took: Duration) {
        self.flushes.fetch_add(1, Relaxed);
        self.operations.fetch_add(operations as u64, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        self.flush_nanos.fetch_add(took.as_nanos() as u64, Relaxed);
        let seconds = took.as_secs_f64();
        if let Some(i) = Self::FLUSH_SECONDS.iter().position(|bound| seconds <= *bound) {
            self.flush_buckets[i].fetch_add(1, Relaxed);
        }
    }

    pub(super) fn created(&self) {
        self.files_created.fetch_add(1, Relaxed);
    }

    pub(super) fn recycled(&self) {
        self.files_recycled.fetch_add(1, Relaxed);
    }
}
