//! The ranges of what a request may ask for: the same on every interface.

use gem_types::{Error, Result};

/// A number with a default and bounds.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    name: &'static str,
    min: u64,
    max: u64,
    default: Option<u64>,
}

/// Messages of one read or pull.
pub const MESSAGES: Range =
    Range { name: "the number of messages (limit, max)", min: 1, max: 10_000, default: Some(100) };
/// Topics of one page.
pub const TOPICS: Range = Range { name: "limit", min: 1, max: 10_000, default: Some(100) };
/// How long a read waits.
pub const READ_WAIT_MS: Range = Range { name: "wait_ms", min: 0, max: 60_000, default: Some(0) };
/// How long a pull waits.
pub const PULL_WAIT_MS: Range = Range { name: "wait_ms", min: 0, max: 60_000, default: Some(5_000) };
/// How long a nacked message waits: at most a week.
pub const DELAY_MS: Range = Range { name: "delay_ms", min: 0, max: 7 * 86_400_000, default: Some(0) };
/// By how much a lease is extended: at most a day.
pub const BY_MS: Range = Range { name: "by_ms", min: 1, max: 86_400_000, default: None };
/// The most tokens of one request.
pub const TOKENS_MAX: usize = 10_000;

impl Range {
    /// The value given, or the default; refused outside the bounds.
    pub fn of(&self, given: Option<u64>) -> Result<u64> {
        match given.or(self.default) {
            Some(value) if (self.min..=self.max).contains(&value) => Ok(value),
            Some(value) => {
                Err(Error::invalid(format!("{} is {value}; allowed are {} to {}", self.name, self.min, self.max)))
            }
            None => Err(Error::invalid(format!("{} is missing; allowed are {} to {}", self.name, self.min, self.max))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_bounds() {
        assert_eq!(MESSAGES.of(None).unwrap(), 100);
        assert!(MESSAGES.of(Some(0)).is_err());
        assert!(MESSAGES.of(Some(10_001)).is_err());
        assert!(BY_MS.of(None).is_err());
    }
}
