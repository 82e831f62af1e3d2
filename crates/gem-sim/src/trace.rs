//! The trace of a run: everything that happened, with virtual times, as a hash, and as text where
//! it is asked for.

use std::fmt::Write;

/// The hash of nothing.
pub const EMPTY: u64 = 0xcbf2_9ce4_8422_2325;

/// Takes lines in.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    lines: u64,
    is_printed: bool,
    line: String,
}

impl Trace {
    /// An empty trace, printed as it grows if `is_printed`.
    pub fn new(is_printed: bool) -> Trace {
        Trace { hash: EMPTY, lines: 0, is_printed, line: String::new() }
    }

    /// Adds what happened at virtual time `at_ms`.
    pub fn add(&mut self, at_ms: u64, what: &impl std::fmt::Debug) {
        self.line.clear();
        // Writing to a string does not fail.
        let _ = write!(self.line, "{}.{:03} {what:?}", at_ms / 1_000, at_ms % 1_000);
        self.hash = hash(self.hash, self.line.as_bytes());
        self.lines += 1;
        if self.is_printed {
            println!("{}", self.line);
        }
    }

    /// The hash of all so far: equal for equal runs.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many things happened.
    pub fn lines(&self) -> u64 {
        self.lines
    }
}

/// FNV-1a over `bytes`, going on from `from`.
pub fn hash(from: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(from, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
