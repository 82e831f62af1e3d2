//! A journal as a plain map: what a start must find.

use std::collections::BTreeMap;

use bytes::Bytes;
use gem_types::GroupId;

use super::{Chance, append, group, pos};
use crate::StoreError;
use crate::journal::{GroupMarks, Journal, JournalOp, LogPos};

#[derive(Clone, Debug, Default)]
pub(super) struct ModelGroup {
    pub marks: GroupMarks,
    pub entries: BTreeMap<u64, (LogPos, Bytes)>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub groups: BTreeMap<GroupId, ModelGroup>,
}

impl Model {
    pub(super) fn apply(&mut self, op: &JournalOp) {
        let group = self.groups.entry(op.group()).or_default();
        match op {
            JournalOp::Append { id, parts, .. } => {
                group.entries.split_off(&id.index);
                group.entries.insert(id.index, (*id, parts.concat().into()));
                group.marks.last = Some(*id);
            }
            JournalOp::Vote { vote, .. } => group.marks.vote = Some(vote.clone()),
            JournalOp::Commit { id, .. } => group.marks.committed = Some(*id),
            JournalOp::Truncate { after, .. } => {
                group.entries.split_off(&after.map_or(0, |after| after + 1));
                group.marks.last = group.entries.values().next_back().map(|(id, _)| *id).or(group.marks.purged);
            }
            JournalOp::Purge { id, .. } => {
                if group.marks.purged.is_none_or(|purged| purged.index < id.index) {
                    group.entries = group.entries.split_off(&(id.index + 1));
                    group.marks.purged = Some(*id);
                    group.marks.last = group.entries.values().next_back().map_or(Some(*id), |(id, _)| Some(*id));
                }
            }
            JournalOp::Create { bytes, .. } => {
                group.marks.created = Some(bytes.clone());
                group.marks.tombstone = false;
            }
            JournalOp::Tombstone { .. } => {
                *group = ModelGroup::default();
                group.marks.tombstone = true;
            }
        }
    }

    /// An operation that a correct caller might submit now.
    pub(super) fn draw(&self, chance: &mut Chance) -> JournalOp {
        let id = group(chance.below(4) as u8);
        let empty = ModelGroup::default();
        let model = self.groups.get(&id).unwrap_or(&empty);
        if model.marks.tombstone && chance.below(3) == 0 {
            return JournalOp::Create { group: id, bytes: Bytes::from_static(b"again") };
        }
        if model.marks.tombstone {
            // Groups 3 and above are dropped now and then, and another takes its turn.
            return JournalOp::Vote { group: group(0), vote: chance.below(1 << 40).to_le_bytes().to_vec().into() };
        }
        let last = model.marks.last;
        let term = last.map_or(1, |last| last.term);
        let next = last.map_or(0, |last| last.index + 1);
        let floor = model.marks.purged.map_or(0, |purged| purged.index + 1);
        match chance.below(24) {
            0..12 => {
                let (term, index) = if chance.below(6) == 0 {
                    (term + chance.below(3), next.saturating_sub(chance.below(4)).max(floor))
                } else {
                    (term, next)
                };
                let payload = vec![chance.below(256) as u8; chance.below(3000) as usize];
                append(id, term, index, &payload)
            }
            12..15 => JournalOp::Vote { group: id, vote: chance.below(1 << 40).to_le_bytes().to_vec().into() },
            15..18 => JournalOp::Commit { group: id, id: last.unwrap_or_default() },
            18 => {
                let from = next.saturating_sub(chance.below(4)).max(floor);
                JournalOp::Truncate { group: id, after: from.checked_sub(1) }
            }
            19..22 => {
                let index = floor + chance.below(next.saturating_sub(floor) + 1);
                let beyond = if chance.below(10) == 0 { 5 } else { 0 };
                let id_there = model.entries.get(&(index + beyond)).map(|(id, _)| *id);
                JournalOp::Purge { group: id, id: id_there.unwrap_or(pos(term, index + beyond)) }
            }
            22 => JournalOp::Create { group: id, bytes: Bytes::from_static(b"prefix") },
            _ if id == group(3) && chance.below(20) == 0 => JournalOp::Tombstone { group: id },
            _ => JournalOp::Commit { group: id, id: last.unwrap_or_default() },
        }
    }

    /// Whether `journal` shows exactly this.
    pub(super) fn matches(&self, journal: &Journal) -> Result<(), String> {
        for n in 0..4 {
            let id = group(n);
            let empty = ModelGroup::default();
            let model = self.groups.get(&id).unwrap_or(&empty);
            let marks = journal.marks(id);
            if marks != model.marks {
                return Err(format!("group {id}: {marks:?} for {:?}", model.marks));
            }
            let first = model.entries.keys().next().copied().unwrap_or(0);
            let end = model.marks.last.map_or(0, |last| last.index + 1);
            for index in first.saturating_sub(2)..end + 2 {
                match (model.entries.get(&index), journal.read_entry(id, index)) {
                    (Some((pos, payload)), Ok((found, bytes))) if *pos == found && *payload == bytes => {}
                    (None, Err(StoreError::Missing { .. })) => {}
                    (want, found) => {
                        let want = want.map(|(pos, payload)| (pos, payload.len()));
                        let found = found.map(|(pos, payload)| (pos, payload.len()));
                        return Err(format!("group {id} index {index}: {found:?} for {want:?}"));
                    }
                }
            }
        }
        Ok(())
    }
}
