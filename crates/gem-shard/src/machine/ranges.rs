//! Sets of offsets as ranges.

use std::collections::BTreeMap;
use std::ops::Range;

use gem_types::Offset;

/// A set of offsets, kept as ranges that neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// Start to end, the end excluded.
    ranges: BTreeMap<Offset, Offset>,
    len: u64,
}

impl Ranges {
    /// The empty set.
    pub fn new() -> Self {
        Ranges::default()
    }

    /// How many offsets are in it.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether no offset is in it.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether `offset` is in it.
    pub fn contains(&self, offset: Offset) -> bool {
        self.ranges.range(..=offset).next_back().is_some_and(|(_, end)| offset < *end)
    }

    /// The range that holds `offset`.
    pub fn around(&self, offset: Offset) -> Option<Range<Offset>> {
        let (start, end) = self.ranges.range(..=offset).next_back()?;
        (offset < *end).then_some(*start..*end)
    }

    /// The first range.
    pub fn first(&self) -> Option<Range<Offset>> {
        self.ranges.first_key_value().map(|(start, end)| *start..*end)
    }

    /// All ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = Range<Offset>> {
        self.ranges.iter().map(|(start, end)| *start..*end)
    }

    /// What of it lies within `range`, in order.
    pub fn within(&self, range: Range<Offset>) -> impl Iterator<Item = Range<Offset>> {
        let first = self.around(range.start).map_or(range.start, |around| around.start);
        let (from, to) = (range.start, range.end);
        self.ranges.range(first..to.max(first)).map(move |(start, end)| (*start).max(from)..(*end).min(to))
    }

    /// Adds a range; answers which parts of it are new, in order.
    pub fn insert(&mut self, range: Range<Offset>) -> Vec<Range<Offset>> {
        if range.is_empty() {
            return Vec::new();
        }
        // Whatever touches the new range becomes one with it.
        let mut merged = range.clone();
        let mut new = Vec::new();
        let mut gap_from = range.start;
        let first = match self.ranges.range(..range.start).next_back() {
            Some((start, end)) if *end >= range.start => *start,
            _ => range.start,
        };
        let touched: Vec<_> = self.ranges.range(first..=range.end).map(|(start, end)| (*start, *end)).collect();
        for (start, end) in touched {
            if start > gap_from {
                new.push(gap_from..start);
            }
            gap_from = gap_from.max(end);
            merged = merged.start.min(start)..merged.end.max(end);
            self.ranges.remove(&start);
        }
        if gap_from < range.end {
            new.push(gap_from..range.end);
        }
        self.len += new.iter().map(|gap| gap.end - gap.start).sum::<u64>();
        self.ranges.insert(merged.start, merged.end);
        new
    }

    /// Removes all below `floor`.
    pub fn remove_below(&mut self, floor: Offset) {
        while let Some(first) = self.first() {
            if first.start >= floor {
                return;
            }
            self.ranges.remove(&first.start);
            self.len -= first.end.min(floor) - first.start;
            if first.end > floor {
                self.ranges.insert(floor, first.end);
            }
        }
    }

    /// Removes all.
    pub fn clear(&mut self) {
        *self = Ranges::default();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_are_a_set(steps in prop::collection::vec((0u64..60, 0u64..12, any::<bool>()), 0..40)) {
            let mut ranges = Ranges::new();
            let mut model = BTreeSet::new();
            for (from, len, cut) in steps {
                if cut && len < 3 {
                    ranges.remove_below(from);
                    model = model.split_off(&from);
                } else {
                    let new: Vec<u64> = ranges.insert(from..from + len).into_iter().flatten().collect();
                    let expected: Vec<u64> = (from..from + len).filter(|offset| model.insert(*offset)).collect();
                    prop_assert_eq!(new, expected);
                }
                prop_assert_eq!(ranges.len(), model.len() as u64);
                prop_assert_eq!(ranges.iter().flatten().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
                let within: Vec<u64> = ranges.within(10..30).flatten().collect();
                prop_assert_eq!(within, model.range(10..30).copied().collect::<Vec<_>>());
                for offset in 0..72 {
                    prop_assert_eq!(ranges.contains(offset), model.contains(&offset));
                }
                for pair in ranges.iter().collect::<Vec<_>>().windows(2) {
                    prop_assert!(pair[0].end < pair[1].start, "ranges touch");
                }
            }
        }
    }
}
