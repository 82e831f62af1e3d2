//! What a node does now and then: passes news on, compares tables, addresses the dead, forgets.

use std::collections::BTreeMap;
use std::time::Duration;

use foca::Timer;
use gem_types::NodeId;

use super::super::settings::RUMOUR_BYTES;
use super::super::wire::Envelope;
use super::super::{Member, sync};
use super::{Due, Swim};
use crate::directory::Table;

/// How many members that are down are addressed at once.
const REJOIN_COUNT: usize = 3;

impl Swim {
    pub(super) fn gossip(&mut self, now: Duration) {
        if self.core.updates_backlog() > 0 {
            // The packets take the rumours along.
            let _ = self.core.gossip(&mut self.outside);
        } else if !self.rumours.is_empty() {
            let times = self.settings.times(self.core.num_members() + 1);
            for to in self.draw(self.living(), self.settings.indirect_probes.get()) {
                let rumours = self.rumours.take(RUMOUR_BYTES, times);
                if !rumours.is_empty() {
                    self.send(to, &Envelope::Rumours(rumours));
                }
            }
        }
        self.again(Due::Gossip, now);
    }

    pub(super) fn sync(&mut self, table: &Table, now: Duration) {
        for to in self.draw(self.living(), 1) {
            self.send(to, &sync::sums(table));
        }
        self.again(Due::Sync, now);
    }

    /// Addresses some members that are down: a partition may have healed.
    pub(super) fn rejoin(&mut self, now: Duration) {
        let (me, roll) = (self.me().node, &self.roll);
        let downs = self.core.iter_membership_state().filter(|m| m.state() == foca::State::Down);
        let lost = downs.map(foca::Member::id).filter(|m| m.node != me && !roll.has_left(m));
        let lost: BTreeMap<NodeId, Member> = lost.map(|m| (m.node, m.clone())).collect();
        for node in self.draw(lost.keys().copied().collect(), REJOIN_COUNT) {
            if let Some(member) = lost.get(&node) {
                let _ = self.core.announce(member.clone(), &mut self.outside);
            }
        }
        self.again(Due::Rejoin, now);
    }

    /// Forgets who has been down for long, and who is beyond what is remembered.
    pub(super) fn forget(&mut self, now: Duration) {
        let downs = self.core.iter_membership_state().filter(|m| m.state() == foca::State::Down);
        let mut downs: Vec<Member> = downs.map(|m| m.id().clone()).collect();
        downs.sort_by_cached_key(|m| (self.roll.down_since(m.node, now), m.node));
        let too_many = downs.len().saturating_sub(self.settings.down_max);
        for (i, member) in downs.into_iter().enumerate() {
            let since = self.roll.down_since(member.node, now);
            if i < too_many || now.saturating_sub(since) >= self.settings.forget_after {
                let _ = self.core.handle_timer(Timer::RemoveDown(member), &mut self.outside);
            }
        }
        let known = self.core.iter_membership_state().map(|m| m.id().node).collect();
        self.roll.keep(&known);
    }
}
