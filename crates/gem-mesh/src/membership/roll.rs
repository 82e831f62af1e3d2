//! The roll of members, as this node has told its owner: who is up, who is down since when, who
//! left as planned, and how loaded each is.
//!
//! Invariant: an owner hears *up* and *down* of a node in turn, beginning with *up*; nothing is
//! kept of a node that was forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use foca::OwnedNotification;
use gem_types::NodeId;

use super::swim::Action;
use super::{Load, Member};

#[derive(Debug, Default)]
struct Entry {
    is_up: bool,
    /// Since when it is down, as far as this node knows.
    down_since: Option<Duration>,
    /// The run that left as planned.
    left: Option<u64>,
    load: Option<(u64, Load)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Roll {
    entries: BTreeMap<NodeId, Entry>,
}

impl Roll {
    /// Turns what the SWIM library notes into what the owner is told.
    pub(super) fn note(&mut self, note: OwnedNotification<Member>, now: Duration) -> Option<Action> {
        match note {
            OwnedNotification::MemberUp(member) => {
                let entry = self.entries.entry(member.node).or_default();
                entry.down_since = None;
                Some(if std::mem::replace(&mut entry.is_up, true) {
                    Action::Changed(member)
                } else {
                    Action::Up(member)
                })
            }
            OwnedNotification::MemberDown(member) => {
                let entry = self.entries.entry(member.node).or_default();
                entry.down_since = Some(now);
                entry.load = None;
                let has_left = entry.left >= Some(member.run);
                std::mem::replace(&mut entry.is_up, false).then_some(Action::Down { member, has_left })
            }
            OwnedNotification::Rename(_, member) => {
                self.entries.get(&member.node).is_some_and(|e| e.is_up).then_some(Action::Changed(member))
            }
            OwnedNotification::Rejoin(me) => Some(Action::Rejoined(me)),
            OwnedNotification::Active | OwnedNotification::Idle | OwnedNotification::Defunct => None,
        }
    }

    /// Takes note that `node` left in `run`; returns whether that was news.
    pub(super) fn leaves(&mut self, node: NodeId, run: u64) -> bool {
        let entry = self.entries.entry(node).or_default();
        let is_news = entry.left < Some(run);
        entry.left = entry.left.max(Some(run));
        is_news
    }

    pub(super) fn has_left(&self, member: &Member) -> bool {
        self.entries.get(&member.node).is_some_and(|e| e.left >= Some(member.run))
    }

    /// Since when `node` is down: `now`, if this is the first time that is asked.
    pub(super) fn down_since(&mut self, node: NodeId, now: Duration) -> Duration {
        *self.entries.entry(node).or_default().down_since.get_or_insert(now)
    }

    pub(super) fn known_down_since(&self, node: NodeId) -> Option<Duration> {
        self.entries.get(&node).and_then(|e| e.down_since)
    }

    /// Takes note of a digest of a node that is up; returns whether it is newer.
    pub(super) fn load(&mut self, node: NodeId, run: u64, load: &Load) -> bool {
        let Some(entry) = self.entries.get_mut(&node).filter(|e| e.is_up) else { return false };
        let is_newer = entry.load.as_ref().is_none_or(|(r, known)| (*r, known.version) < (run, load.version));
        if is_newer {
            entry.load = Some((run, load.clone()));
        }
        is_newer
    }

    pub(super) fn loads(&self) -> impl Iterator<Item = (NodeId, &Load)> {
        self.entries.iter().filter_map(|(node, e)| Some((*node, &e.load.as_ref()?.1)))
    }

    /// Forgets all nodes but `known`.
    pub(super) fn keep(&mut self, known: &BTreeSet<NodeId>) {
        self.entries.retain(|node, _| known.contains(node));
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
