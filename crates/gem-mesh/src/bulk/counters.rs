//! What the links have done: counted without locks, read as a snapshot.

use std::sync::atomic::{AtomicU64, Ordering};

/// What the links of a node have done since it started, and what is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BulkCounters {
    /// Bytes received, before TLS: frames and parcels.
    pub bytes_in: u64,
    /// Bytes sent, before TLS.
    pub bytes_out: u64,
    /// Calls made.
    pub calls: u64,
    /// Calls made that ended in an error.
    pub calls_failed: u64,
    /// Calls of others that were handed over.
    pub answers: u64,
    /// Links that this node dialled and that stand now.
    pub links_dialled: u64,
    /// Links that others dialled and that stand now.
    pub links_accepted: u64,
    /// Dials that failed.
    pub dials_failed: u64,
    /// Incoming connections that were refused or did not get past the handshake.
    pub refused: u64,
}

/// The counters themselves.
#[derive(Debug, Default)]
pub(super) struct Counting {
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) calls: AtomicU64,
    pub(super) calls_failed: AtomicU64,
    pub(super) answers: AtomicU64,
    pub(super) links_dialled: AtomicU64,
    pub(super) links_accepted: AtomicU64,
    pub(super) dials_failed: AtomicU64,
    pub(super) refused: AtomicU64,
}

impl Counting {
    pub(super) fn snapshot(&self) -> BulkCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BulkCounters {
            bytes_in: read(&self.bytes_in),
            bytes_out: read(&self.bytes_out),
            calls: read(&self.calls),
            calls_failed: read(&self.calls_failed),
            answers: read(&self.answers),
            links_dialled: read(&self.links_dialled),
            links_accepted: read(&self.links_accepted),
            dials_failed: read(&self.dials_failed),
            refused: read(&self.refused),
        }
    }
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// Counts one while it lives.
pub(super) struct Gauge<'a>(&'a AtomicU64);

impl<'a> Gauge<'a> {
    pub(super) fn new(counter: &'a AtomicU64) -> Self {
        add(counter, 1);
        Gauge(counter)
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
