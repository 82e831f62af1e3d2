//! Finding the shard of a position among records by prefix: a binary search on the prefix's length
//! (Prefix Hash Trees, Ramabhadran et al. 2004, section 3).
//!
//! Of the prefixes of a position exactly one is a shard's; the shorter ones are marked as split, of
//! the longer ones there is no record. So each answer says which way to go.
//!
//! Invariant: at most six gets for the lengths 0 to [`LENGTH_MAX`].

use gem_types::{Position, Prefix};

use super::Descriptor;
use super::record::Record;

/// The longest prefix that is looked for: a mesh has no two to the sixty-third shards.
pub const LENGTH_MAX: u8 = 62;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    position: Position,
    low: u8,
    high: u8,
}

/// What a search does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Get the record of this prefix, and hand it to [`Search::heard`].
    Get(Prefix),
    /// This shard holds the position.
    Found(Descriptor),
    /// The records contradict each other or are missing.
    Lost,
}

impl Search {
    /// A search for the shard of `position`.
    pub fn new(position: Position) -> Self {
        Search { position, low: 0, high: LENGTH_MAX }
    }

    /// What it looks for.
    pub fn position(&self) -> Position {
        self.position
    }

    /// How it begins, or goes on.
    pub fn step(&self) -> Step {
        let length = self.low.midpoint(self.high);
        Prefix::new(self.position.0, length).map_or(Step::Lost, Step::Get)
    }

    /// Takes what was found for the last step's prefix: a record, or none.
    pub fn heard(&mut self, record: Option<&Record>) -> Step {
        let length = self.low.midpoint(self.high);
        match record {
            Some(Record::Leaf(shard)) if shard.holds(self.position) => return Step::Found(shard.clone()),
            Some(Record::Internal { .. }) if length < self.high => self.low = length + 1,
            None if length > self.low => self.high = length - 1,
            _ => return Step::Lost,
        }
        self.step()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use gem_types::GroupId;
    use proptest::prelude::*;

    use super::*;

    fn leaf(prefix: Prefix) -> Record {
        Record::Leaf(Descriptor { prefix, group: GroupId([0; 16]), epoch: 1, seats: vec![], leader: None, term: 0 })
    }

    proptest! {
        /// Trees grown by random splits, against the tree itself.
        #[test]
        fn finds_the_shard_in_six_gets(splits in prop::collection::vec(any::<u64>(), 0..60), position: u64, deep: bool) {
            let mut records = BTreeMap::from([(Prefix::ROOT, leaf(Prefix::ROOT))]);
            let position = Position(position);
            for split in splits {
                // Towards the position half the time, so that deep leaves are tried too.
                let towards = if deep { position } else { Position(split) };
                let found = (0..=LENGTH_MAX).filter_map(|n| Prefix::new(towards.0, n))
                    .find(|p| matches!(records.get(p), Some(Record::Leaf(_))));
                let Some(prefix) = found.filter(|p| p.length() < LENGTH_MAX) else { continue };
                let (left, right) = prefix.children().unwrap();
                records.extend([(prefix, Record::Internal { prefix, epoch: 1 }), (left, leaf(left)), (right, leaf(right))]);
            }
            let mut search = Search::new(position);
            let (mut gets, mut step) = (0, search.step());
            while let Step::Get(prefix) = step {
                gets += 1;
                prop_assert!(prefix.contains(position));
                step = search.heard(records.get(&prefix));
            }
            prop_assert!(gets <= 6, "{} gets", gets);
            let Step::Found(found) = step else { panic!("lost") };
            prop_assert!(found.holds(position) && records[&found.prefix] == leaf(found.prefix));
        }

        #[test]
        fn ends_whatever_it_hears(position: u64, answers in prop::collection::vec(0u8..3, 7)) {
            let mut search = Search::new(Position(position));
            let mut step = search.step();
            for answer in answers {
                let Step::Get(prefix) = step else { return Ok(()) };
                let record = match answer {
                    0 => None,
                    1 => Some(Record::Internal { prefix, epoch: 0 }),
                    _ => Some(leaf(Prefix::new(!position, 64).unwrap())),
                };
                step = search.heard(record.as_ref());
            }
            prop_assert!(!matches!(step, Step::Get(_)));
        }
    }
}
