//! A sealed file's footer: what lies where, so that a start need not read the file itself.
//!
//! It stands behind the last flush; the file's last sector, the *seal*, says where.
//!
//! ```text
//! footer
//!  0 magic      8   "GEMJFOOT"
//!  8 crc        4   of all that follows, salted with generation and position
//! 12 version    4
//! 16 generation 8
//! 24 sequence   8   of the next flush, which goes to the next file
//! 32 u32 leaders, each: term 8, node 32, incarnation 8
//!    u32 groups, each: id 16
//!    u32 items, each 28 bytes: kind 1, zero 3, group u32, leader u32, index 8, position u32, length u32
//!    a table, as in a head: the marks as of the file's end
//!
//! seal, in the last sector
//!  0 magic      8   "GEMJSEAL"
//!  8 crc        4   of all that follows, salted with generation and position
//! 12 zero       4
//! 16 generation 8
//! 24 position   8   of the footer
//! 32 length     8   of the footer
//! ```
//!
//! Items keep the order of their records, of those kinds that change what is where: an append
//! discards what stands at its index and above, a carry only replaces its own index, a truncation
//! discards from its index on.

use std::collections::BTreeMap;

use crc32c::crc32c_append;
use gem_types::{GroupId, ReplicaId};

use super::codec::{Input, Output};
use super::head::{FORMAT_VERSION, Table};
use super::layout::{Kind, SECTOR, salt};
use super::types::LogPos;

const MAGIC: &[u8; 8] = b"GEMJFOOT";
const SEAL_MAGIC: &[u8; 8] = b"GEMJSEAL";
const ITEM: usize = 28;
const FIXED: usize = 44;

/// What one record did, and where it lies (its payload).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub kind: Kind,
    pub group: GroupId,
    pub id: LogPos,
    pub position: u32,
    pub length: u32,
}

/// Collects a file's items while it is being written, in the form in which they are stored.
#[derive(Debug, Default)]
pub(super) struct FooterBuilder {
    leaders: BTreeMap<(u64, ReplicaId), u32>,
    leaders_out: Vec<u8>,
    groups: BTreeMap<GroupId, u32>,
    groups_out: Vec<u8>,
    items: Vec<u8>,
}

impl FooterBuilder {
    pub(super) fn push(&mut self, item: &Item) {
        let next = self.leaders.len() as u32;
        let leader = *self.leaders.entry((item.id.term, item.id.leader)).or_insert_with(|| {
            self.leaders_out.put_leader(item.id.term, &item.id.leader);
            next
        });
        let next = self.groups.len() as u32;
        let group = *self.groups.entry(item.group).or_insert_with(|| {
            self.groups_out.put(&item.group.0);
            next
        });
        self.items.put(&[item.kind as u8, 0, 0, 0]);
        self.items.put_u32(group);
        self.items.put_u32(leader);
        self.items.put_u64(item.id.index);
        self.items.put_u32(item.position);
        self.items.put_u32(item.length);
    }

    /// The most that footer and seal take once `more` items (each of a new group and leader, to be
    /// safe) and a table of `table` bytes are added.
    pub(super) fn bound(&self, more: usize, table: usize) -> u64 {
        let now = FIXED + self.leaders_out.len() + self.groups_out.len() + self.items.len();
        ((now + more * (ITEM + 48 + 16) + table) as u64).next_multiple_of(SECTOR) + SECTOR
    }

    /// The footer's bytes, padded to a sector.
    pub(super) fn encode(&self, generation: u64, position: u64, sequence: u64, table: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bound(0, table.len()) as usize);
        out.put(MAGIC);
        out.put_u32(0);
        out.put_u32(FORMAT_VERSION);
        out.put_u64(generation);
        out.put_u64(sequence);
        out.put_u32(self.leaders.len() as u32);
        out.put(&self.leaders_out);
        out.put_u32(self.groups.len() as u32);
        out.put(&self.groups_out);
        out.put_u32((self.items.len() / ITEM) as u32);
        out.put(&self.items);
        out.put(table);
        let crc = crc32c_append(salt(generation, position), &out[12..]);
        out[8..12].copy_from_slice(&crc.to_le_bytes());
        out
    }
}

/// A footer that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub sequence: u64,
    pub items: Vec<Item>,
    pub table: Table,
}

impl Footer {
    /// Reads and checks a footer; `None` for damage of any kind.
    pub(super) fn decode(bytes: &[u8], generation: u64, position: u64) -> Option<Footer> {
        let (crc, body) = (bytes.get(8..12)?, bytes.get(12..)?);
        if !bytes.starts_with(MAGIC) || crc32c_append(salt(generation, position), body).to_le_bytes() != *crc {
            return None;
        }
        Footer::decode_unchecked(bytes)
    }

    /// Reads a footer whose CRC was checked.
    pub(super) fn decode_unchecked(bytes: &[u8]) -> Option<Footer> {
        let mut input = Input(bytes.get(24..)?);
        let sequence = input.u64()?;
        let mut leaders = Vec::new();
        for _ in 0..input.u32()? {
            leaders.push(input.leader()?);
        }
        let mut groups = Vec::new();
        for _ in 0..input.u32()? {
            groups.push(input.group()?);
        }
        let mut items = Vec::new();
        for _ in 0..input.u32()? {
            let [kind, ..] = input.array::<4>()?;
            let group = *groups.get(input.u32()? as usize)?;
            let (term, leader) = *leaders.get(input.u32()? as usize)?;
            let id = LogPos { term, leader, index: input.u64()? };
            items.push(Item { kind: Kind::of(kind)?, group, id, position: input.u32()?, length: input.u32()? });
        }
        Some(Footer { sequence, items, table: Table::read(&mut input)? })
    }
}

/// Where a sealed file's footer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seal {
    pub position: u64,
    pub length: u64,
}

impl Seal {
    /// The last sector of a file, `at` its position.
    pub(super) fn encode(&self, generation: u64, at: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(SECTOR as usize);
        out.put(SEAL_MAGIC);
        out.put_u32(0);
        out.put_u32(0);
        out.put_u64(generation);
        out.put_u64(self.position);
        out.put_u64(self.length);
        let crc = crc32c_append(salt(generation, at), &out[12..]);
        out[8..12].copy_from_slice(&crc.to_le_bytes());
        out.resize(SECTOR as usize, 0);
        out
    }

    /// Reads a seal; `None` where the file is not sealed under `generation`.
    pub(super) fn decode(bytes: &[u8], generation: u64, at: u64) -> Option<Seal> {
        let (crc, body) = (bytes.get(8..12)?, bytes.get(12..40)?);
        if !bytes.starts_with(SEAL_MAGIC) || crc32c_append(salt(generation, at), body).to_le_bytes() != *crc {
            return None;
        }
        let mut input = Input(&body[4..]);
        let legal = input.u64()? == generation;
        let seal = Seal { position: input.u64()?, length: input.u64()? };
        legal.then_some(seal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::head::put_table;
    use crate::journal::types::GroupMarks;

    #[test]
    fn a_footer_reads_as_it_was_written() {
        let mut builder = FooterBuilder::default();
        let item = |n: u64, kind| Item {
            kind,
            group: GroupId([n as u8 % 3; 16]),
            id: LogPos { term: n % 2, index: n, ..Default::default() },
            position: n as u32 * 100,
            length: n as u32,
        };
        let items: Vec<_> = (0..20).map(|n| item(n, if n == 7 { Kind::Truncate } else { Kind::Append })).collect();
        items.iter().for_each(|item| builder.push(item));
        let mut table = Table::default();
        let marks = GroupMarks { vote: Some("v".into()), last: Some(items[3].id), ..Default::default() };
        table.groups.insert(GroupId([1; 16]), marks);
        table.files.insert(4, 9);
        let mut bytes = Vec::new();
        put_table(&mut bytes, table.groups.iter(), &table.files);
        let out = builder.encode(9, 4096, 77, &bytes);
        assert!(out.len() as u64 <= builder.bound(0, bytes.len()));
        let footer = Footer::decode(&out, 9, 4096).unwrap();
        assert_eq!((footer.sequence, &footer.items, &footer.table), (77, &items, &table));
        assert_eq!(Footer::decode(&out, 8, 4096), None);
        assert_eq!(Footer::decode(&out, 9, 4608), None);
        let seal = Seal { position: 4096, length: out.len() as u64 };
        assert_eq!(Seal::decode(&seal.encode(9, 512), 9, 512), Some(seal));
        assert_eq!(Seal::decode(&seal.encode(9, 512), 10, 512), None);
    }
}
