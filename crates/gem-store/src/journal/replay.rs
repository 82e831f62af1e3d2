//! Replaying files in the order in which they were written: from heads, footers and scanned
//! records to every group's log.

use std::collections::BTreeMap;

use bytes::Bytes;
use gem_types::GroupId;

use super::entries::{GroupLog, Leaders, Slot};
use super::footer::Item;
use super::head::Table;
use super::layout::Kind;
use super::scan::Found;
use super::segment::file_name;
use super::types::GroupMarks;
use crate::StoreError;

#[derive(Debug, Default)]
struct Group {
    marks: GroupMarks,
    /// Sparse while older files are missing whose entries were copied forward.
    entries: BTreeMap<u64, Slot>,
    /// The last index; the purge mark's where no entry is left.
    last: Option<u64>,
}

impl Group {
    fn purge(&mut self, index: u64) {
        self.entries = self.entries.split_off(&index.saturating_add(1));
        self.last = self.last.max(Some(index));
    }
}

/// The state that replay has reached.
#[derive(Debug, Default)]
pub(super) struct Replay {
    groups: BTreeMap<GroupId, Group>,
    pub leaders: Leaders,
    /// Files in use: number → generation.
    pub files: BTreeMap<u64, u64>,
}

impl Replay {
    /// Comes to a head or the end of a footer: the marks are what the table says, and what lies
    /// above its last entries is gone. (The truncation that said so may lie in a file that has been
    /// recycled.)
    pub(super) fn table(&mut self, table: Table) {
        self.files = table.files;
        for (id, marks) in table.groups {
            let group = self.groups.entry(id).or_default();
            group.last = marks.last.map(|last| last.index);
            match group.last {
                Some(last) => drop(group.entries.split_off(&last.saturating_add(1))),
                None => group.entries.clear(),
            }
            if let Some(purged) = marks.purged {
                group.purge(purged.index);
            }
            group.marks = marks;
        }
    }

    /// One record that changes which entries lie where.
    pub(super) fn item(&mut self, file: u64, item: &Item) {
        let leader = self.leaders.number(&item.id);
        let group = self.groups.entry(item.group).or_default();
        // File numbers above 32 bits are not opened.
        let slot = Slot { file: file as u32, position: item.position, length: item.length, leader };
        let index = item.id.index;
        match item.kind {
            Kind::Append => {
                group.entries.split_off(&index);
                group.entries.insert(index, slot);
                group.last = Some(index);
            }
            Kind::Carry => {
                // The writer wrote it only because this very entry stood.
                group.entries.insert(index, slot);
            }
            Kind::Truncate => {
                group.entries.split_off(&index);
                let purged = group.marks.purged.map(|purged| purged.index);
                group.last = group.last.min(index.checked_sub(1)).max(purged);
            }
            _ => {}
        }
    }

    /// One scanned record, with its payload.
    pub(super) fn record(&mut self, file: u64, found: &Found, payload: &[u8]) {
        let head = &found.head;
        let id = head.id;
        match head.kind {
            Kind::Append | Kind::Carry | Kind::Truncate => {
                let position = found.position as u32;
                self.item(file, &Item { kind: head.kind, group: head.group, id, position, length: head.length });
                return;
            }
            Kind::Recycled => {
                if self.files.get(&id.index) == Some(&id.term) {
                    self.files.remove(&id.index);
                }
                return;
            }
            _ => {}
        }
        let group = self.groups.entry(head.group).or_default();
        match head.kind {
            Kind::Vote => group.marks.vote = Some(Bytes::copy_from_slice(payload)),
            Kind::Create => group.marks.create(&Bytes::copy_from_slice(payload)),
            Kind::Commit => group.marks.committed = Some(id),
            Kind::Purge if group.marks.purged.is_none_or(|purged| purged.index < id.index) => {
                group.marks.purged = Some(id);
                group.purge(id.index);
            }
            Kind::Tombstone => {
                *group = Group { marks: GroupMarks { tombstone: true, ..Default::default() }, ..Default::default() };
            }
            _ => {}
        }
    }

    /// Every group's log; [`StoreError::Corrupt`] where an entry is missing that must be there.
    pub(super) fn finish(self, newest: u64) -> Result<(BTreeMap<GroupId, GroupLog>, Leaders), StoreError> {
        let mut logs = BTreeMap::new();
        for (id, group) in self.groups {
            let purged = group.marks.purged;
            let first = match (purged, group.entries.first_key_value()) {
                (Some(purged), _) => purged.index.saturating_add(1),
                (None, Some((first, _))) => *first,
                (None, None) => 0,
            };
            let count = group.entries.len() as u64;
            let wanted = group.last.map_or(0, |last| last.saturating_add(1).saturating_sub(first));
            let missing =
                (first..first.saturating_add(wanted)).zip(group.entries.keys()).find(|(want, have)| want != *have);
            if count != wanted || missing.is_some() {
                let at = missing.map_or(first + count.min(wanted), |(want, _)| want);
                return Err(StoreError::Corrupt {
                    file: file_name(newest),
                    position: 0,
                    what: format!(
                        "group {id} has {count} of the {wanted} entries from {first} on: entry {at} is missing"
                    ),
                });
            }
            let mut marks = group.marks;
            marks.last = match group.entries.last_key_value() {
                Some((index, slot)) => Some(self.leaders.pos(slot.leader, *index)),
                None => purged,
            };
            logs.insert(id, GroupLog::recovered(marks, first, group.entries.into_values().collect()));
        }
        Ok((logs, self.leaders))
    }
}
