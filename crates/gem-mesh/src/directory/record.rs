//! What the DHT holds of a prefix.

use gem_types::Prefix;
use serde::{Deserialize, Serialize};

use super::Descriptor;
use super::table::is_sound;

/// Under a prefix's key: its shard, or a marker that it has been split, which tells a search that
/// shards lie deeper (Prefix Hash Trees, Ramabhadran et al. 2004).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// A shard has this prefix.
    Leaf(Descriptor),
    /// Shards lie below it, since the split of that epoch.
    Internal {
        /// The prefix that was split.
        prefix: Prefix,
        /// The epoch of the split, or of a shard below.
        epoch: u64,
    },
}

impl Record {
    /// The prefix that it is about.
    pub fn prefix(&self) -> Prefix {
        match self {
            Record::Leaf(descriptor) => descriptor.prefix,
            Record::Internal { prefix, .. } => *prefix,
        }
    }

    /// Whether this replaces `other` of the same prefix: the higher epoch wins; of one epoch the
    /// marker does, then the later term.
    pub fn is_newer_than(&self, other: &Record) -> bool {
        let rank = |record: &Record| match record {
            Record::Leaf(d) => (d.epoch, false, d.term, d.leader.is_some()),
            Record::Internal { epoch, .. } => (*epoch, true, 0, false),
        };
        rank(self) > rank(other)
    }

    /// Whether it can be believed at all.
    pub fn is_sound(&self) -> bool {
        match self {
            Record::Leaf(descriptor) => is_sound(descriptor),
            Record::Internal { prefix, .. } => Prefix::new(prefix.first().0, prefix.length()) == Some(*prefix),
        }
    }

    /// What the leader of `shard` publishes: the shard itself, and the markers above it.
    pub fn of_shard(shard: &Descriptor) -> Vec<Record> {
        let above = (0..shard.prefix.length()).filter_map(|length| Prefix::new(shard.prefix.first().0, length));
        let markers = above.map(|prefix| Record::Internal { prefix, epoch: shard.epoch });
        std::iter::once(Record::Leaf(shard.clone())).chain(markers).collect()
    }
}
