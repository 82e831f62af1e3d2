//! One group's log in memory: where each entry above the purge mark lies, and on top of it what
//! was submitted but not flushed yet, so that an entry can be read the moment it was submitted.
//!
//! Two views, advanced in the same order: *seen* moves when an operation is submitted, *flushed*
//! when the flush that covers it has succeeded. Between the two, a truncation hides flushed
//! entries (`cut`), and appended entries wait with their bytes (`pending`).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use gem_types::ReplicaId;

use super::types::{GroupMarks, LogPos};
use crate::StoreError;

/// Where an entry lies: 16 bytes an entry in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub file: u32,
    /// Of the payload.
    pub position: u32,
    pub length: u32,
    /// Into [`Leaders`].
    pub leader: u32,
}

/// The leaders that entries name: a handful a term, so entries hold a number instead.
#[derive(Debug, Default)]
pub(super) struct Leaders {
    list: Vec<(u64, ReplicaId)>,
    numbers: BTreeMap<(u64, ReplicaId), u32>,
}

impl Leaders {
    pub(super) fn number(&mut self, id: &LogPos) -> u32 {
        let key = (id.term, id.leader);
        *self.numbers.entry(key).or_insert_with(|| {
            self.list.push(key);
            (self.list.len() - 1) as u32
        })
    }

    /// The entry at `index` whose leader is number `leader`.
    pub(super) fn pos(&self, leader: u32, index: u64) -> LogPos {
        // Numbers only come from `number` above, and leaders are never removed.
        let (term, leader) = self.list[leader as usize];
        LogPos { term, leader, index }
    }
}

#[derive(Debug)]
struct Pending {
    id: LogPos,
    parts: Vec<Bytes>,
    ticket: u64,
}

/// An entry as it can be read now.
pub(super) enum Found {
    /// Flushed.
    Stored(LogPos, Slot),
    /// Submitted, still in memory.
    Queued(LogPos, Vec<Bytes>),
}

#[derive(Debug, Default)]
pub(super) struct GroupLog {
    /// As of the last flush.
    pub flushed: GroupMarks,
    /// As submitted.
    pub seen: GroupMarks,
    /// The index of `slots[0]`.
    first: u64,
    slots: VecDeque<Slot>,
    pending: VecDeque<Pending>,
    /// Flushed entries from here on are hidden.
    cut: Option<u64>,
    /// Submitted, unflushed operations that cut.
    cuts: u32,
}

impl GroupLog {
    /// A log as a start found it: `slots` from index `first` on.
    pub(super) fn recovered(marks: GroupMarks, first: u64, slots: VecDeque<Slot>) -> Self {
        GroupLog { flushed: marks.clone(), seen: marks, first, slots, ..Default::default() }
    }

    /// The index that the next append should have; `None`: any (the log is empty and unpurged).
    pub(super) fn next_index(&self) -> Option<u64> {
        self.seen.last.map(|last| last.index.saturating_add(1))
    }

    /// The entry at `index`, as submitted.
    pub(super) fn find(&self, leaders: &Leaders, index: u64) -> Option<Found> {
        if self.seen.purged.is_some_and(|purged| index <= purged.index) {
            return None;
        }
        if let Some(front) = self.pending.front()
            && index >= front.id.index
        {
            let entry = self.pending.get((index - front.id.index) as usize)?;
            return Some(Found::Queued(entry.id, entry.parts.clone()));
        }
        if self.cut.is_some_and(|cut| index >= cut) {
            return None;
        }
        let slot = *self.slots.get(index.checked_sub(self.first)? as usize)?;
        Some(Found::Stored(leaders.pos(slot.leader, index), slot))
    }

    fn find_id(&self, leaders: &Leaders, index: u64) -> Option<LogPos> {
        match self.find(leaders, index)? {
            Found::Stored(id, _) | Found::Queued(id, _) => Some(id),
        }
    }

    /// Hides everything from `from` on.
    fn hide(&mut self, leaders: &Leaders, from: u64) {
        while self.pending.back().is_some_and(|entry| entry.id.index >= from) {
            self.pending.pop_back();
        }
        self.cut = Some(self.cut.unwrap_or(u64::MAX).min(from));
        self.cuts += 1;
        self.seen.last = from.checked_sub(1).and_then(|last| self.find_id(leaders, last)).or(self.seen.purged);
    }

    // ---- As submitted.

    /// Takes in an append; says whether it cuts.
    pub(super) fn see_append(
        &mut self,
        leaders: &Leaders,
        id: LogPos,
        parts: Vec<Bytes>,
        ticket: u64,
    ) -> Result<bool, StoreError> {
        if self.seen.purged.is_some_and(|purged| id.index <= purged.index) {
            return Err(StoreError::Refused(format!("entry {id} lies below the purge mark")));
        }
        let cuts = match self.next_index() {
            Some(next) if id.index > next => {
                return Err(StoreError::Refused(format!("entry {id} would leave a gap: the next is {next}")));
            }
            Some(next) if id.index < next => {
                self.hide(leaders, id.index);
                true
            }
            _ => false,
        };
        self.pending.push_back(Pending { id, parts, ticket });
        self.seen.last = Some(id);
        Ok(cuts)
    }

    /// Takes in a truncation of everything from `from` on.
    pub(super) fn see_truncate(&mut self, leaders: &Leaders, from: u64) {
        // Beyond the end there is nothing to hide, but the flushed view will count one cut.
        self.hide(leaders, self.next_index().map_or(from, |next| from.min(next)));
    }

    pub(super) fn see_purge(&mut self, id: LogPos) {
        if self.seen.purged.is_some_and(|purged| purged.index >= id.index) {
            return;
        }
        self.seen.purged = Some(id);
        while self.pending.front().is_some_and(|entry| entry.id.index <= id.index) {
            self.pending.pop_front();
        }
        if self.seen.last.is_none_or(|last| last.index <= id.index) {
            self.seen.last = Some(id);
        }
    }

    pub(super) fn see_tombstone(&mut self) {
        self.pending.clear();
        self.cut = Some(0);
        self.cuts += 1;
        self.seen = GroupMarks { tombstone: true, ..Default::default() };
    }

    // ---- As flushed. `gone` is told of every entry that no longer lies where it did.

    pub(super) fn flush_append(
        &mut self,
        id: LogPos,
        slot: Slot,
        ticket: u64,
        cuts: bool,
        gone: &mut impl FnMut(Slot),
    ) {
        self.drop_from(id.index, gone);
        if self.slots.is_empty() {
            self.first = id.index;
        }
        // `see_append` let in no gap, and truncations are flushed in the order they were seen.
        assert_eq!(self.first + self.slots.len() as u64, id.index, "an append leaves a gap");
        self.slots.push_back(slot);
        self.flushed.last = Some(id);
        if self.pending.front().is_some_and(|entry| entry.ticket == ticket) {
            self.pending.pop_front();
            self.cut = self.cut.map(|cut| cut.max(id.index + 1));
        }
        self.settle_cut(cuts);
    }

    pub(super) fn flush_truncate(&mut self, leaders: &Leaders, from: u64, gone: &mut impl FnMut(Slot)) {
        self.drop_from(from, gone);
        self.flushed.last = self.stored_last(leaders);
        self.settle_cut(true);
    }

    pub(super) fn flush_purge(&mut self, id: LogPos, gone: &mut impl FnMut(Slot)) {
        if self.flushed.purged.is_some_and(|purged| purged.index >= id.index) {
            return;
        }
        self.flushed.purged = Some(id);
        while self.first <= id.index
            && let Some(slot) = self.slots.pop_front()
        {
            self.first += 1;
            gone(slot);
        }
        if self.flushed.last.is_none_or(|last| last.index <= id.index) {
            self.flushed.last = Some(id);
        }
    }

    /// An entry was copied forward: it lies at `slot` now, unless it is gone by now.
    pub(super) fn flush_carry(&mut self, id: LogPos, slot: Slot, gone: &mut impl FnMut(Slot)) -> bool {
        let index = id.index.checked_sub(self.first);
        match index.and_then(|i| self.slots.get_mut(i as usize)) {
            Some(old) if old.leader == slot.leader => {
                gone(*old);
                *old = slot;
                true
            }
            _ => false,
        }
    }

    pub(super) fn flush_tombstone(&mut self, gone: &mut impl FnMut(Slot)) {
        self.drop_from(0, gone);
        self.flushed = GroupMarks { tombstone: true, ..Default::default() };
        self.settle_cut(true);
    }

    fn settle_cut(&mut self, cuts: bool) {
        if cuts {
            self.cuts = self.cuts.saturating_sub(1);
        }
        if self.cuts == 0 {
            self.cut = None;
        }
    }

    fn drop_from(&mut self, from: u64, gone: &mut impl FnMut(Slot)) {
        let keep = from.saturating_sub(self.first).min(self.slots.len() as u64);
        self.slots.drain(keep as usize..).for_each(gone);
    }

    fn stored_last(&self, leaders: &Leaders) -> Option<LogPos> {
        match self.slots.back() {
            Some(slot) => Some(leaders.pos(slot.leader, self.first + self.slots.len() as u64 - 1)),
            None => self.flushed.purged,
        }
    }

    /// The flushed entries that lie in file `file`.
    pub(super) fn in_file<'a>(&'a self, leaders: &'a Leaders, file: u32) -> impl Iterator<Item = (LogPos, Slot)> + 'a {
        let numbered = self.slots.iter().enumerate().filter(move |(_, slot)| slot.file == file);
        numbered.map(move |(i, slot)| (leaders.pos(slot.leader, self.first + i as u64), *slot))
    }

    /// Whether `id` is a flushed entry.
    pub(super) fn holds(&self, leaders: &Leaders, id: &LogPos) -> bool {
        let slot = id.index.checked_sub(self.first).and_then(|i| self.slots.get(i as usize));
        slot.is_some_and(|slot| leaders.pos(slot.leader, id.index) == *id)
    }

    /// All flushed entries.
    pub(super) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Append(u64),
        Truncate(u64),
        Purge(u64),
        Flush(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (0u64..3).prop_map(Step::Append),
            1 => (0u64..8).prop_map(Step::Truncate),
            1 => (0u64..8).prop_map(Step::Purge),
            4 => (1usize..6).prop_map(Step::Flush),
        ];
        proptest::collection::vec(step, 1..80)
    }

    enum Op {
        Append(LogPos, u64, bool),
        Truncate(u64),
        Purge(LogPos),
    }

    proptest! {
        /// Whatever is in flight, what is seen is what a plain log would show, and once all is
        /// flushed both views agree.
        #[test]
        fn what_is_seen_does_not_wait_for_flushes(steps in steps()) {
            let mut leaders = Leaders::default();
            let mut log = GroupLog::default();
            let mut model: BTreeMap<u64, LogPos> = BTreeMap::new();
            let (mut purged, mut term, mut ticket) = (None::<LogPos>, 0, 0);
            let mut queue: VecDeque<Op> = VecDeque::new();
            let mut stored: Vec<Slot> = Vec::new();
            for step in steps.into_iter().chain([Step::Flush(usize::MAX)]) {
                let last = model.last_key_value().map(|(_, id)| *id).or(purged);
                match step {
                    Step::Append(back) => {
                        let next = last.map_or(0, |last| last.index + 1);
                        let floor = purged.map_or(0, |purged| purged.index + 1);
                        let index = next.saturating_sub(back).max(floor);
                        (term, ticket) = (term + back, ticket + 1);
                        let id = LogPos { term, index, ..Default::default() };
                        leaders.number(&id);
                        let cuts = log.see_append(&leaders, id, vec![], ticket).unwrap();
                        model.split_off(&index);
                        model.insert(index, id);
                        queue.push_back(Op::Append(id, ticket, cuts));
                    }
                    Step::Truncate(back) => {
                        let floor = purged.map_or(0, |purged| purged.index + 1);
                        let from = (last.map_or(0, |last| last.index + 1)).saturating_sub(back).max(floor);
                        log.see_truncate(&leaders, from);
                        model.split_off(&from);
                        queue.push_back(Op::Truncate(from));
                    }
                    Step::Purge(ahead) => {
                        let first = purged.map_or(0, |purged| purged.index + 1);
                        let index = first + ahead / 2;
                        let id = model.get(&index).copied().unwrap_or(LogPos { term, index, ..Default::default() });
                        leaders.number(&id);
                        log.see_purge(id);
                        model = model.split_off(&(index + 1));
                        purged = Some(id);
                        queue.push_back(Op::Purge(id));
                    }
                    Step::Flush(n) => {
                        for op in queue.drain(..n.min(queue.len())) {
                            let mut gone = Vec::new();
                            match op {
                                Op::Append(id, ticket, cuts) => {
                                    let slot = Slot { file: 1, position: ticket as u32, length: 0, leader: leaders.number(&id) };
                                    stored.push(slot);
                                    log.flush_append(id, slot, ticket, cuts, &mut |slot| gone.push(slot));
                                }
                                Op::Truncate(from) => log.flush_truncate(&leaders, from, &mut |slot| gone.push(slot)),
                                Op::Purge(id) => log.flush_purge(id, &mut |slot| gone.push(slot)),
                            }
                            stored.retain(|slot| !gone.contains(slot));
                        }
                    }
                }
                let last = model.last_key_value().map(|(_, id)| *id).or(purged);
                prop_assert_eq!(log.seen.last, last);
                for index in 0..last.map_or(0, |last| last.index) + 3 {
                    prop_assert_eq!(log.find_id(&leaders, index), model.get(&index).copied(), "index {}", index);
                }
            }
            prop_assert_eq!(log.flushed.last, log.seen.last);
            prop_assert_eq!(log.slots().copied().collect::<Vec<_>>(), stored);
            prop_assert!(log.cut.is_none() && log.pending.is_empty());
        }
    }
}
