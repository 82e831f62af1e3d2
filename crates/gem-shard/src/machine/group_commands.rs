//! The commands on groups.

use gem_store::StoreError;
use gem_types::{Error, GroupName, Offset, PartitionId};

use super::groups::GroupState;
use super::{Machine, Outcome, no_partition};
use crate::entry::Progress;
use crate::log::{GroupRef, Mode};

pub(crate) fn no_group(group: &GroupRef) -> Error {
    Error::not_found(format!(
        "topic {} has no group {}: pull from it to make it, or check the name",
        group.topic, group.group
    ))
}

fn key(group: &GroupRef) -> (PartitionId, GroupName) {
    (group.partition, group.group.clone())
}

impl Machine {
    /// A group's share in its partition.
    pub fn group(&mut self, group: &GroupRef) -> Result<Option<&GroupState>, StoreError> {
        self.groups.get(&self.rows, &key(group))
    }

    /// The groups of a partition, in order of name.
    pub fn group_names(&mut self, partition: PartitionId) -> Result<Vec<GroupName>, StoreError> {
        self.groups.names(&mut self.rows, partition)
    }

    /// Every group of the shard: what a new leader's dispatch begins with.
    pub fn all_groups(&mut self) -> Result<Vec<GroupRef>, StoreError> {
        let mut all = Vec::new();
        for (partition, group) in self.groups.all(&mut self.rows)? {
            if let Some(row) = self.partitions.get(&self.rows, &partition)? {
                all.push(GroupRef { topic: row.topic.clone(), partition, group });
            }
        }
        Ok(all)
    }

    pub(super) fn apply_create_group(
        &mut self,
        group: &GroupRef,
        mode: Mode,
        start: Offset,
    ) -> Result<Outcome, StoreError> {
        let Some(partition) = self.partitions.get(&self.rows, &group.partition)? else {
            return Ok(Outcome::Refused(no_partition(group.partition)));
        };
        let start = start.clamp(partition.earliest, partition.next);
        let new = self.groups.get(&self.rows, &key(group))?.is_none();
        if new {
            let life = self.meta.applied.map_or(0, |applied| applied.index);
            self.groups.insert(key(group), GroupState::new(mode, start, life));
        }
        Ok(Outcome::Group { group: group.clone(), new })
    }

    pub(super) fn apply_delete_group(&mut self, group: &GroupRef) -> Result<Outcome, StoreError> {
        if self.groups.get(&self.rows, &key(group))?.is_none() {
            return Ok(Outcome::Refused(no_group(group)));
        }
        self.groups.remove(&mut self.rows, &key(group))?;
        Ok(Outcome::GroupDeleted { group: group.clone() })
    }

    pub(super) fn apply_seek(&mut self, group: &GroupRef, offset: Offset) -> Result<Outcome, StoreError> {
        let Some(partition) = self.partitions.get(&self.rows, &group.partition)? else {
            return Ok(Outcome::Refused(no_partition(group.partition)));
        };
        let floor = offset.clamp(partition.earliest, partition.next);
        match self.groups.get_mut(&self.rows, &key(group))? {
            Some(state) => {
                state.seek(floor);
                Ok(Outcome::Sought { group: group.clone(), floor })
            }
            None => Ok(Outcome::Refused(no_group(group))),
        }
    }

    pub(super) fn apply_progress(&mut self, progress: &Progress) -> Result<Outcome, StoreError> {
        let group = &progress.group;
        let Some(partition) = self.partitions.get(&self.rows, &group.partition)? else {
            return Ok(Outcome::Refused(no_partition(group.partition)));
        };
        let next = partition.next;
        match self.groups.get_mut(&self.rows, &key(group))? {
            Some(state) => {
                state.progress(progress, next);
                Ok(Outcome::Progressed { group: group.clone(), floor: state.floor })
            }
            None => Ok(Outcome::Refused(no_group(group))),
        }
    }
}
