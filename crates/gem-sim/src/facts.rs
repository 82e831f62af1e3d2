//! What more than one invariant needs to know of a run: partitions, messages, groups' seeks.

use std::collections::{BTreeMap, BTreeSet};

use gem_shard::log::{GroupRef, TopicConfig};
use gem_types::{GroupName, Offset, PartitionId, TopicName};

use crate::event::{Event, Kind, MessageId, OpId};

/// When something happened.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Virtual milliseconds since the run began.
    pub ms: u64,
    /// Which life of the node.
    pub life: u32,
}

/// A partition.
#[derive(Clone, Debug)]
pub struct Partition {
    /// Its topic.
    pub topic: TopicName,
    /// The topic's configuration.
    pub config: TopicConfig,
    /// Its deletion was asked for.
    pub is_going: bool,
    /// It was deleted.
    pub is_gone: bool,
    /// Purges that have not ended.
    pub purging: u32,
    /// Whether a purge was ever asked for.
    pub was_purged: bool,
    /// Nothing at or above this offset may have been forgotten by a purge that ended.
    pub trimmed_to: Offset,
}

impl Partition {
    /// Whether messages may be forgotten before their time.
    pub fn may_trim(&self) -> bool {
        self.was_purged || self.config.retention_bytes.is_some()
    }
}

/// A message that was sent.
#[derive(Clone, Debug)]
pub struct Message {
    /// What its producer does about duplicates.
    pub kind: Kind,
}

/// The seeks of a group.
#[derive(Clone, Debug, Default)]
pub struct Seeks {
    /// Begun so far.
    pub begun: u64,
    /// Begun and not ended.
    pub open: u64,
    /// When the last one ended, in virtual milliseconds.
    pub ended_ms: u64,
}

/// A group, as a map's key.
pub type GroupKey = (PartitionId, GroupName);

/// The key of a group.
pub fn key(group: &GroupRef) -> GroupKey {
    (group.partition, group.group.clone())
}

/// What is known.
#[derive(Debug, Default)]
pub struct Facts {
    /// Answers reach clients in another order than they were given, and some never.
    pub is_mesh: bool,
    /// Every partition that ever was.
    pub partitions: BTreeMap<PartitionId, Partition>,
    /// Every message that was ever sent.
    pub messages: BTreeMap<MessageId, Message>,
    /// Messages of whose publishes one ended without an answer, or with none that says anything.
    pub unsure: BTreeSet<MessageId>,
    /// Where each publish went, and what was in it.
    pub publishes: BTreeMap<OpId, (PartitionId, Vec<MessageId>)>,
    /// Groups that were sought.
    pub seeks: BTreeMap<GroupKey, Seeks>,
    seek_ops: BTreeMap<OpId, GroupKey>,
}

impl Facts {
    /// Nothing is known yet.
    pub fn new(is_mesh: bool) -> Facts {
        Facts { is_mesh, ..Facts::default() }
    }

    /// Takes in what happened, before the invariants do.
    pub fn observe(&mut self, at: &Moment, event: &Event) {
        match event {
            Event::Partition { partition, topic, config } => {
                self.partitions.insert(
                    *partition,
                    Partition {
                        topic: topic.clone(),
                        config: config.clone(),
                        is_going: false,
                        is_gone: false,
                        purging: 0,
                        was_purged: false,
                        trimmed_to: 0,
                    },
                );
            }
            Event::Deleting(partition) => self.change(partition, |p| p.is_going = true),
            Event::Deleted(partition, answer) => {
                let is_gone = matches!(answer, crate::event::Answer::Done(()));
                self.change(partition, |p| p.is_gone |= is_gone);
            }
            Event::Purging(partition) => self.change(partition, |p| {
                p.purging += 1;
                p.was_purged = true;
            }),
            Event::Purged(partition, answer, next) => self.change(partition, |p| {
                // One whose end is not known may yet happen, until the life ends.
                if !matches!(answer, crate::event::Answer::Unknown(_)) {
                    p.purging = p.purging.saturating_sub(1);
                    p.trimmed_to = p.trimmed_to.max(*next);
                }
            }),
            Event::Audit { partition, stats, .. } => self.change(partition, |p| {
                if p.purging > 0 {
                    // Nobody is at work: what was open is decided.
                    p.purging = 0;
                    p.trimmed_to = p.trimmed_to.max(stats.earliest);
                }
            }),
            Event::Publish { op, partition, kind, messages } => {
                for sent in messages {
                    self.messages.entry(sent.message).or_insert(Message { kind: *kind });
                }
                self.publishes.insert(*op, (*partition, messages.iter().map(|sent| sent.message).collect()));
            }
            Event::Published { op, answer: crate::event::Answer::Unknown(_) } => {
                if let Some((_, messages)) = self.publishes.get(op) {
                    self.unsure.extend(messages);
                }
            }
            Event::Seek { op, group, .. } => {
                let seeks = self.seeks.entry(key(group)).or_default();
                seeks.begun += 1;
                seeks.open += 1;
                self.seek_ops.insert(*op, key(group));
            }
            Event::Sought { op, answer } if !matches!(answer, crate::event::Answer::Unknown(_)) => {
                if let Some(seeks) = self.seek_ops.remove(op).and_then(|group| self.seeks.get_mut(&group)) {
                    seeks.open -= 1;
                    seeks.ended_ms = at.ms;
                }
            }
            Event::Started => {
                // What the last life left open is decided.
                for (_, group) in std::mem::take(&mut self.seek_ops) {
                    if let Some(seeks) = self.seeks.get_mut(&group) {
                        seeks.open -= 1;
                    }
                }
            }
            _ => {}
        }
    }

    fn change(&mut self, partition: &PartitionId, change: impl FnOnce(&mut Partition)) {
        if let Some(partition) = self.partitions.get_mut(partition) {
            change(partition);
        }
    }

    /// How often seeks of `group` have begun; `None` while one is open: then nothing can be said.
    pub fn seeks_of(&self, group: &GroupKey) -> Option<u64> {
        match self.seeks.get(group) {
            None => Some(0),
            Some(seeks) if seeks.open == 0 => Some(seeks.begun),
            Some(_) => None,
        }
    }

    /// The same for what came of a pull that was asked at `asked_ms`: in a mesh an answer may come in
    /// after a seek that it knows nothing of.
    pub fn seeks_of_pull(&self, group: &GroupKey, asked_ms: u64) -> Option<u64> {
        let may_be_older = self.is_mesh && self.seeks.get(group).is_some_and(|seeks| asked_ms <= seeks.ended_ms);
        if may_be_older { None } else { self.seeks_of(group) }
    }
}
