//! The seams through which time and chance enter: the simulator replaces both.

use std::time::Duration;

/// Time as a node sees it.
pub trait Clock: Send + Sync + 'static {
    /// Wall-clock time in milliseconds since the Unix epoch. May jump.
    fn wall_ms(&self) -> i64;
    /// Time since some fixed instant. Never falls.
    fn monotonic(&self) -> Duration;
}

/// Chance as a node sees it.
pub trait Random: Send + Sync + 'static {
    /// Fills `out` with bytes that are unpredictable outside a simulation.
    fn fill(&self, out: &mut [u8]);

    /// A number drawn evenly.
    fn u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}

/// The operating system's clocks.
#[derive(Debug)]
pub struct SystemClock {
    started: std::time::Instant,
}

impl SystemClock {
    /// A clock whose monotonic time counts from now.
    #[expect(clippy::disallowed_methods, reason = "this is the module that owns the real clock")]
    pub fn new() -> Self {
        SystemClock { started: std::time::Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the module that owns the real clock")]
    fn wall_ms(&self) -> i64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        // A clock before 1970 reads as 1970: the skew checks refuse to cut by it.
        since.map_or(0, |d| d.as_millis() as i64)
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

/// The operating system's source of randomness.
#[derive(Debug, Default)]
pub struct OsRandom;

impl Random for OsRandom {
    #[expect(clippy::disallowed_methods, reason = "this is the module that owns real randomness")]
    fn fill(&self, out: &mut [u8]) {
        // Without randomness no key, id or token is safe: there is nothing to fall back to.
        getrandom::fill(out).expect("the operating system gives random bytes");
    }
}
