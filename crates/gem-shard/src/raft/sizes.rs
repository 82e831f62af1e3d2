//! How many bytes of entries lie behind which index: so that a purge keeps what a replica that
//! lags a little will ask for, whatever the size of the entries.

use std::collections::VecDeque;

/// A sample is taken each so many bytes.
const STEP: u64 = 64 << 10;
/// The most samples kept: of 64 MiB at the least.
const SAMPLES_MAX: usize = 1_024;

/// Samples of (index, bytes of all entries up to it), since the log was opened.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    samples: VecDeque<(u64, u64)>,
    total: u64,
}

impl Sizes {
    /// An entry of `bytes` bytes was appended at `index`.
    pub fn push(&mut self, index: u64, bytes: u64) {
        self.truncate(index.saturating_sub(1));
        self.total += bytes;
        if self.samples.back().is_none_or(|(_, at)| self.total - at >= STEP) {
            if self.samples.len() == SAMPLES_MAX {
                self.samples.pop_front();
            }
            self.samples.push_back((index, self.total));
        }
    }

    /// All above `index` was discarded.
    pub fn truncate(&mut self, index: u64) {
        while self.samples.back().is_some_and(|(last, _)| *last > index) {
            self.samples.pop_back();
        }
    }

    /// All was replaced by a snapshot.
    pub fn clear(&mut self) {
        self.samples.clear();
    }

    /// About how many bytes of entries lie above `index`.
    pub fn above(&self, index: u64) -> u64 {
        let after = self.samples.partition_point(|(at, _)| *at <= index);
        let upto = after.checked_sub(1).and_then(|i| self.samples.get(i)).or(self.samples.front());
        upto.map_or(0, |(_, bytes)| self.total.saturating_sub(*bytes))
    }

    /// The highest sampled index behind which at least `bytes` lie; 0 where there is none.
    pub fn behind(&self, bytes: u64) -> u64 {
        let limit = self.total.saturating_sub(bytes);
        let found = self.samples.partition_point(|(_, at)| *at <= limit);
        found.checked_sub(1).and_then(|i| self.samples.get(i)).map_or(0, |(index, _)| *index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_behind_an_index_is_known_to_a_step() {
        let mut sizes = Sizes::default();
        assert_eq!(sizes.behind(0), 0);
        for index in 1..=100 {
            sizes.push(index, STEP);
        }
        assert_eq!(sizes.behind(0), 100);
        assert_eq!(sizes.behind(10 * STEP), 90);
        assert_eq!(sizes.behind(1_000 * STEP), 0);
        assert_eq!(sizes.above(90), 10 * STEP);
        assert_eq!(sizes.above(100), 0);
        sizes.truncate(50);
        sizes.push(51, 1);
        assert!(sizes.behind(0) <= 51);
    }
}
