//! The groups of a shard: loaded lazily with all their chunks, written back where they changed.

use std::collections::{BTreeMap, BTreeSet};

use gem_store::StoreError;
use gem_types::{GroupName, PartitionId};

use super::group_rows::{add_chunk, decode_group, encode_chunk, encode_group};
use super::groups::GroupState;
use super::keys;
use super::overlay::{Overlay, prefix_end};
use super::tables::damaged;
use crate::entry::Malformed;

/// How many clean groups are kept decoded.
const KEPT_MAX: usize = 4096;

/// A group's share in a partition.
pub(super) type GroupKey = (PartitionId, GroupName);

/// Decoded groups over the store.
#[derive(Debug, Default)]
pub(super) struct GroupTable {
    slots: BTreeMap<GroupKey, Slot>,
    dirty: BTreeSet<GroupKey>,
}

#[derive(Debug)]
struct Slot {
    state: GroupState,
    used: bool,
}

impl GroupTable {
    pub fn get(&mut self, store: &Overlay, key: &GroupKey) -> Result<Option<&GroupState>, StoreError> {
        Ok(self.load(store, key)?.map(|state| &*state))
    }

    /// The group, to be changed: what it notes as changed will be written.
    pub fn get_mut(&mut self, store: &Overlay, key: &GroupKey) -> Result<Option<&mut GroupState>, StoreError> {
        if self.load(store, key)?.is_none() {
            return Ok(None);
        }
        self.dirty.insert(key.clone());
        Ok(self.slots.get_mut(key).map(|slot| &mut slot.state))
    }

    pub fn insert(&mut self, key: GroupKey, state: GroupState) {
        self.dirty.insert(key.clone());
        self.slots.insert(key, Slot { state, used: true });
    }

    pub fn remove(&mut self, store: &mut Overlay, key: &GroupKey) -> Result<(), StoreError> {
        self.slots.remove(key);
        self.dirty.remove(key);
        store.delete(keys::group(key.0, &key.1));
        let chunks = keys::chunks(key.0, &key.1);
        let end = prefix_end(&chunks);
        store.clear(chunks, end)
    }

    /// Removes all groups of a partition.
    pub fn remove_partition(&mut self, store: &mut Overlay, partition: PartitionId) -> Result<(), StoreError> {
        self.slots.retain(|(of, _), _| *of != partition);
        self.dirty.retain(|(of, _)| *of != partition);
        for tag in [keys::GROUPS, keys::CHUNKS] {
            let (from, to) = keys::partition_range(tag, partition);
            store.clear(from, to)?;
        }
        Ok(())
    }

    /// The groups of a partition, in order of name.
    pub fn names(&mut self, store: &mut Overlay, partition: PartitionId) -> Result<Vec<GroupName>, StoreError> {
        self.write_back(store);
        let (from, to) = keys::partition_range(keys::GROUPS, partition);
        let mut names = Vec::new();
        store.each(&from, &to, |key, _| {
            names.push(keys::group_name(key).ok_or_else(|| damaged(Malformed("group key"), key))?);
            Ok(true)
        })?;
        Ok(names)
    }

    /// Every group of the shard, by partition and name.
    pub fn all(&mut self, store: &mut Overlay) -> Result<Vec<GroupKey>, StoreError> {
        self.write_back(store);
        let (from, to) = keys::table(keys::GROUPS);
        let mut all = Vec::new();
        store.each(&from, &to, |key, _| {
            let found = keys::partition_of(key).zip(keys::group_name(key));
            all.push(found.ok_or_else(|| damaged(Malformed("group key"), key))?);
            Ok(true)
        })?;
        Ok(all)
    }

    /// Encodes what changed into `store`.
    pub fn write_back(&mut self, store: &mut Overlay) {
        for key in std::mem::take(&mut self.dirty) {
            let Some(Slot { state, .. }) = self.slots.get_mut(&key) else { continue };
            let changed = std::mem::take(&mut state.changed);
            if changed.row {
                store.put(keys::group(key.0, &key.1), encode_group(state));
            }
            for number in changed.chunks {
                let row = keys::chunk(key.0, &key.1, number);
                match encode_chunk(state, number) {
                    Some(chunk) => {
                        store.put(row, chunk);
                        state.chunks.insert(number);
                    }
                    None if state.chunks.remove(&number) => store.delete(row),
                    None => {}
                }
            }
        }
    }

    /// Drops groups that were not used since the last sweep, where too many are kept.
    pub fn sweep(&mut self) {
        if self.slots.len() > KEPT_MAX && self.dirty.is_empty() {
            self.slots.retain(|_, slot| std::mem::take(&mut slot.used));
            if self.slots.len() > KEPT_MAX {
                self.slots.clear();
            }
        }
    }

    fn load(&mut self, store: &Overlay, key: &GroupKey) -> Result<Option<&mut GroupState>, StoreError> {
        if !self.slots.contains_key(key) {
            let Some(row) = store.get(&keys::group(key.0, &key.1))? else { return Ok(None) };
            let mut state = decode_group(&row)?;
            let chunks = keys::chunks(key.0, &key.1);
            store.each(&chunks, &prefix_end(&chunks), |chunk, bytes| {
                let number = keys::chunk_number(chunk).ok_or_else(|| damaged(Malformed("chunk key"), chunk))?;
                add_chunk(&mut state, number, bytes)?;
                Ok(true)
            })?;
            self.slots.insert(key.clone(), Slot { state, used: true });
        }
        Ok(self.slots.get_mut(key).map(|slot| {
            slot.used = true;
            &mut slot.state
        }))
    }
}
