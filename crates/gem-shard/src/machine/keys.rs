//! The keys of the state family.
//!
//! ```text
//!  0x01 name                                   → the machine's own: applied, membership, lives, range
//!  0x02 position(8) topic                      → topic
//!  0x03 partition(16)                          → partition
//!  0x04 partition(16) base offset(8)           → batch
//!  0x05 partition(16) base offset(8)           → ids of a batch
//!  0x06 partition(16) producer(8)              → producer
//!  0x07 partition(16) group                    → group
//!  0x08 partition(16) length(1) group chunk(8) → chunk of a group
//! ```
//!
//! Integers are big-endian. Behind its tag every key but the first kind's begins with a ring
//! position (a partition's id does), so the rows of a shard's child are one range a table.

use bytes::Bytes;
use gem_types::{GroupName, Offset, PartitionId, TopicName};

use super::overlay::prefix_end;

pub(super) const META: u8 = 1;
pub(super) const TOPICS: u8 = 2;
pub(super) const PARTITIONS: u8 = 3;
pub(super) const BATCHES: u8 = 4;
pub(super) const IDS: u8 = 5;
pub(super) const PRODUCERS: u8 = 6;
pub(super) const GROUPS: u8 = 7;
pub(super) const CHUNKS: u8 = 8;

/// Tag, partition.
const HEAD_LEN: usize = 17;

fn key(tag: u8, parts: &[&[u8]]) -> Bytes {
    let mut out = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    out.push(tag);
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out.into()
}

pub(super) fn meta(name: u8) -> Bytes {
    key(META, &[&[name]])
}

pub(super) fn topic(name: &TopicName) -> Bytes {
    key(TOPICS, &[&name.position().0.to_be_bytes(), name.as_str().as_bytes()])
}

/// The name in a topic's key.
pub(super) fn topic_name(key: &[u8]) -> Option<TopicName> {
    TopicName::new(std::str::from_utf8(key.get(9..)?).ok()?).ok()
}

/// The key of a partition, or the head of its rows in another table.
pub(super) fn partition(tag: u8, partition: PartitionId) -> Bytes {
    key(tag, &[&partition.0])
}

/// The partition that a key begins with.
pub(super) fn partition_of(key: &[u8]) -> Option<PartitionId> {
    Some(PartitionId(*key.get(1..)?.first_chunk()?))
}

/// Everything of a partition in the table `tag`: `from..to`.
pub(super) fn partition_range(tag: u8, id: PartitionId) -> (Bytes, Bytes) {
    let from = partition(tag, id);
    let to = prefix_end(&from);
    (from, to)
}

/// Everything in the table `tag`.
pub(super) fn table(tag: u8) -> (Bytes, Bytes) {
    (key(tag, &[]), key(tag + 1, &[]))
}

pub(super) fn numbered(tag: u8, partition: PartitionId, number: u64) -> Bytes {
    key(tag, &[&partition.0, &number.to_be_bytes()])
}

/// The number at the end of a key made by [`numbered`].
pub(super) fn number_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(HEAD_LEN..)?.try_into().ok()?))
}

pub(super) fn group(partition: PartitionId, group: &GroupName) -> Bytes {
    key(GROUPS, &[&partition.0, group.as_str().as_bytes()])
}

/// The name in a group's key.
pub(super) fn group_name(key: &[u8]) -> Option<GroupName> {
    GroupName::new(std::str::from_utf8(key.get(HEAD_LEN..)?).ok()?).ok()
}

/// The head of a group's chunks. The name's length keeps apart groups that begin alike.
pub(super) fn chunks(partition: PartitionId, group: &GroupName) -> Bytes {
    // A group's name has at most 64 bytes.
    key(CHUNKS, &[&partition.0, &[group.as_str().len() as u8], group.as_str().as_bytes()])
}

pub(super) fn chunk(partition: PartitionId, group: &GroupName, number: u64) -> Bytes {
    let head = chunks(partition, group);
    key(head[0], &[&head[1..], &number.to_be_bytes()])
}

/// The number at the end of a chunk's key.
pub(super) fn chunk_number(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*key.last_chunk()?))
}

/// The first offset of the batch that a batch's or an id list's key names.
pub(super) fn base_of(key: &[u8]) -> Option<Offset> {
    number_of(key)
}
