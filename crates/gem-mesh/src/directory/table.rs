//! The descriptors that a node knows.
//!
//! What it is: a bounded map from group to its newest known descriptor, that finds the shard of a
//! position by its longest known prefix, and keeps a checksum of its content, in parts, for the
//! exchange with other nodes.
//!
//! What it is not: the truth. Each entry is a hint that may be old; prefixes may overlap or leave
//! gaps.
//!
//! Invariants:
//! - One entry a group, never replaced by an older one; a retired group stays away.
//! - At most `limit` entries. Those of shards of which this node has a replica are never given up;
//!   of the others, those confirmed longest ago go first, of those of one minute the farthest
//!   (by XOR of ring positions) from this node.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gem_types::{GroupId, NodeId, Position, Prefix};
use serde::{Deserialize, Serialize};

use super::Descriptor;

/// The most entries of a table, unless told otherwise.
pub const TABLE_ENTRIES: usize = 65_536;
/// The most replicas of a descriptor that is believed.
pub const SEATS_MAX: usize = 16;
/// The parts in which a table's checksum is kept.
pub const PARTS: usize = 256;
/// The most retired groups that are remembered.
pub const RETIRED_MAX: usize = 4096;
/// How long a retired group is remembered.
pub const RETIRED_FOR: Duration = Duration::from_secs(24 * 3600);

/// How new a descriptor is: what [`Descriptor::is_newer_than`] compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rank {
    /// See [`Descriptor::epoch`].
    pub epoch: u64,
    /// See [`Descriptor::term`].
    pub term: u64,
    /// Whether it names a leader.
    pub has_leader: bool,
}

impl Rank {
    /// The rank of `descriptor`.
    pub fn of(descriptor: &Descriptor) -> Self {
        Rank { epoch: descriptor.epoch, term: descriptor.term, has_leader: descriptor.leader.is_some() }
    }
}

#[derive(Debug)]
struct Entry {
    descriptor: Descriptor,
    confirmed: Duration,
}

/// Whether `descriptor` can be believed: its prefix is one, and its seats are not too many.
pub fn is_sound(descriptor: &Descriptor) -> bool {
    let prefix = descriptor.prefix;
    descriptor.seats.len() <= SEATS_MAX && Prefix::new(prefix.first().0, prefix.length()) == Some(prefix)
}

/// See the module.
#[derive(Debug)]
pub struct Table {
    me: NodeId,
    home: u64,
    limit: usize,
    entries: BTreeMap<GroupId, Entry>,
    by_prefix: BTreeMap<Prefix, BTreeSet<GroupId>>,
    /// Prefixes of each length, so that a search skips lengths that no one has.
    lengths: [u32; 65],
    /// Entries that may be given up, in the order in which they would be.
    spare: BTreeSet<(u64, Reverse<u64>, GroupId)>,
    retired: BTreeMap<GroupId, Duration>,
    parts: [u64; PARTS],
}

impl Table {
    /// An empty table of node `me`, of at most `limit` entries.
    pub fn new(me: NodeId, limit: usize) -> Self {
        Table {
            me,
            home: home(me),
            limit: limit.max(1),
            entries: BTreeMap::new(),
            by_prefix: BTreeMap::new(),
            lengths: [0; 65],
            spare: BTreeSet::new(),
            retired: BTreeMap::new(),
            parts: [0; PARTS],
        }
    }

    /// Takes note of `descriptor` at `now`; returns whether it was news. Hearing the same again
    /// confirms it. Refused are retired groups, what is not sound, and, where the table
    /// is full of this node's own shards, all others.
    pub fn learn(&mut self, descriptor: Descriptor, now: Duration) -> bool {
        if self.retired.contains_key(&descriptor.group) || !is_sound(&descriptor) {
            return false;
        }
        let group = descriptor.group;
        if let Some(known) = self.entries.get(&group) {
            if !descriptor.is_newer_than(&known.descriptor) {
                if Rank::of(&descriptor) == Rank::of(&known.descriptor) {
                    self.confirm(group, now);
                }
                return false;
            }
            self.take_out(group);
        } else if self.entries.len() >= self.limit {
            let Some((_, _, oldest)) = self.spare.first().copied() else { return false };
            self.take_out(oldest);
        }
        self.put_in(Entry { descriptor, confirmed: now });
        true
    }

    /// Forgets `group` for good: it was merged away or removed, and what others still say of it is
    /// not believed for [`RETIRED_FOR`].
    pub fn retire(&mut self, group: GroupId, now: Duration) {
        self.take_out(group);
        self.retired.retain(|_, at| now.saturating_sub(*at) < RETIRED_FOR);
        if self.retired.len() >= RETIRED_MAX {
            let oldest = self.retired.iter().min_by_key(|(group, at)| (**at, **group)).map(|(group, _)| *group);
            oldest.map(|oldest| self.retired.remove(&oldest));
        }
        self.retired.insert(group, now);
    }

    /// The shard with the longest known prefix that holds `position`.
    pub fn find(&self, position: Position) -> Option<&Descriptor> {
        self.ancestors(position, 64).next()
    }

    /// All known shards that overlap `prefix`: the nearest that holds it whole, then those inside,
    /// in ring order.
    pub fn covering(&self, prefix: Prefix) -> Vec<&Descriptor> {
        let above = prefix.length().checked_sub(1).and_then(|most| self.ancestors(prefix.first(), most).next());
        let last = Prefix::new(prefix.last().0, 64).unwrap_or(prefix);
        let inside = self.by_prefix.range(prefix..=last).flat_map(|(_, groups)| groups);
        above.into_iter().chain(inside.filter_map(|group| self.get(*group))).collect()
    }

    /// What is known of `group`.
    pub fn get(&self, group: GroupId) -> Option<&Descriptor> {
        self.entries.get(&group).map(|e| &e.descriptor)
    }

    /// All descriptors, by group.
    pub fn all(&self) -> impl Iterator<Item = &Descriptor> {
        self.entries.values().map(|e| &e.descriptor)
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the next new group displaces another.
    pub fn is_full(&self) -> bool {
        self.entries.len() >= self.limit
    }

    /// Whether `group` was retired, and is still remembered as such.
    pub fn is_retired(&self, group: GroupId) -> bool {
        self.retired.contains_key(&group)
    }

    /// A checksum of groups and ranks for each part: two tables whose sums agree hold the same.
    pub fn parts(&self) -> &[u64; PARTS] {
        &self.parts
    }

    /// The groups of one part and how new they are.
    pub fn part(&self, part: u8) -> impl Iterator<Item = (GroupId, Rank)> + '_ {
        let (mut low, mut high) = ([0; 16], [0xff; 16]);
        low[0] = part;
        high[0] = part;
        self.entries.range(GroupId(low)..=GroupId(high)).map(|(group, e)| (*group, Rank::of(&e.descriptor)))
    }

    fn ancestors(&self, position: Position, most: u8) -> impl Iterator<Item = &Descriptor> {
        let lengths = (0..=most).rev().filter(|n| self.lengths[usize::from(*n)] > 0);
        let prefixes = lengths.filter_map(move |n| Prefix::new(position.0, n));
        // Two groups can have had one prefix in the life of a mesh: the one confirmed last is right.
        prefixes.filter_map(|prefix| {
            let groups = self.by_prefix.get(&prefix)?.iter();
            let entries = groups.filter_map(|group| self.entries.get(group));
            entries.max_by_key(|e| (e.confirmed, e.descriptor.epoch, e.descriptor.group)).map(|e| &e.descriptor)
        })
    }

    fn confirm(&mut self, group: GroupId, now: Duration) {
        if let Some(mut entry) = self.take_out(group) {
            entry.confirmed = entry.confirmed.max(now);
            self.put_in(entry);
        }
    }

    fn take_out(&mut self, group: GroupId) -> Option<Entry> {
        let entry = self.entries.remove(&group)?;
        let prefix = entry.descriptor.prefix;
        if let Some(groups) = self.by_prefix.get_mut(&prefix) {
            groups.remove(&group);
            if groups.is_empty() {
                self.by_prefix.remove(&prefix);
                self.lengths[usize::from(prefix.length())] -= 1;
            }
        }
        self.spare.remove(&self.age(&entry));
        self.parts[usize::from(group.0[0])] ^= checksum(&entry.descriptor);
        Some(entry)
    }

    fn put_in(&mut self, entry: Entry) {
        let Descriptor { group, prefix, .. } = entry.descriptor;
        let groups = self.by_prefix.entry(prefix).or_insert_with(|| {
            self.lengths[usize::from(prefix.length())] += 1;
            BTreeSet::new()
        });
        groups.insert(group);
        if !entry.descriptor.seats.iter().any(|seat| seat.replica.node == self.me) {
            self.spare.insert(self.age(&entry));
        }
        self.parts[usize::from(group.0[0])] ^= checksum(&entry.descriptor);
        self.entries.insert(group, entry);
    }

    fn age(&self, entry: &Entry) -> (u64, Reverse<u64>, GroupId) {
        let distance = entry.descriptor.prefix.first().0 ^ self.home;
        (entry.confirmed.as_secs() / 60, Reverse(distance), entry.descriptor.group)
    }
}

/// Where on the ring a node stands: the centre of what it remembers longest.
fn home(node: NodeId) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&node.0[..8]);
    u64::from_be_bytes(first)
}

fn checksum(descriptor: &Descriptor) -> u64 {
    let rank = Rank::of(descriptor);
    let parts: [&[u8]; 4] =
        [&descriptor.group.0, &rank.epoch.to_be_bytes(), &rank.term.to_be_bytes(), &[u8::from(rank.has_leader)]];
    Position::of(&parts).0
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
