//! What a node makes of packets and rumours.

use std::collections::BTreeSet;
use std::time::Duration;

use foca::Message;
use gem_types::NodeId;

use super::super::Member;
use super::super::wire::{Packet, Rumour};
use super::{Action, Swim};
use crate::directory::Table;

enum Admitted {
    Whole,
    Part,
    Nothing,
}

impl Swim {
    pub(super) fn hear_packet(&mut self, from: NodeId, bytes: &[u8], now: Duration) {
        let Some(mut packet) = Packet::read(bytes).filter(|p| p.header.src.node == from) else {
            self.refused += 1;
            return;
        };
        match &packet.header.message {
            Message::Ack(_) => self.health.answered(from),
            Message::ForwardedAck { origin, .. } => self.health.answered(origin.node),
            _ => {}
        }
        for update in packet.updates.iter().filter(|u| u.id().node == self.core.identity().node) {
            let run = self.core.identity().run;
            if update.id().run == run && update.state() == foca::State::Suspect {
                self.health.suspected(run, update.incarnation());
            }
            if update.id().run > run
                && let Some(renewed) = foca::Identity::renew(&Member { run: update.id().run, ..self.me().clone() })
            {
                // A former life of this node had a higher run: this one has to come after it.
                let _ = self.core.change_identity(renewed.clone(), &mut self.outside);
                self.actions.push(Action::Rejoined(renewed));
                break;
            }
        }
        let admitted = self.admit(&mut packet);
        let result = match admitted {
            Admitted::Whole => self.core.handle_data(bytes, &mut self.outside),
            Admitted::Part => self.core.handle_data(&packet.write(), &mut self.outside),
            Admitted::Nothing => return,
        };
        if result.is_err() {
            self.refused += 1;
        }
        self.settle(now);
    }

    /// Takes out of `packet` what there is no room for: unknown members, dead or living.
    fn admit(&self, packet: &mut Packet<'_>) -> Admitted {
        let living = self.core.num_members();
        let is_full_of_dead = self.downs() >= self.settings.down_max;
        let is_full = living >= self.settings.members_max;
        if !is_full && !is_full_of_dead {
            return Admitted::Whole;
        }
        let known: BTreeSet<NodeId> = self.core.iter_membership_state().map(|m| m.id().node).collect();
        if is_full && !known.contains(&packet.header.src.node) {
            return Admitted::Nothing;
        }
        let count = packet.updates.len();
        packet.updates.retain(|u| {
            let is_full = if u.state() == foca::State::Down { is_full_of_dead } else { is_full };
            !is_full || known.contains(&u.id().node)
        });
        if packet.updates.len() == count { Admitted::Whole } else { Admitted::Part }
    }

    pub(super) fn hear_rumours(&mut self, rumours: Vec<Rumour>, table: &mut Table, now: Duration) {
        for rumour in rumours {
            match &rumour {
                Rumour::Load { node, run, load } => {
                    if *node == self.me().node || !self.roll.load(*node, *run, load) {
                        continue;
                    }
                    self.actions.push(Action::Load(*node, load.clone()));
                }
                Rumour::Shard(descriptor) => {
                    if !table.learn(descriptor.clone(), now) {
                        continue;
                    }
                    self.actions.push(Action::Heard(descriptor.clone()));
                }
                Rumour::Left { node, run } => {
                    let known = self.core.iter_membership_state().find(|m| m.id().node == *node);
                    let Some(member) = known.filter(|m| m.id().run <= *run) else { continue };
                    let down = foca::Member::new(member.id().clone(), member.incarnation(), foca::State::Down);
                    if *node == self.me().node || !self.roll.leaves(*node, *run) {
                        continue;
                    }
                    let _ = self.core.apply_many(std::iter::once(down), true, &mut self.outside);
                    self.settle(now);
                }
            }
            self.rumours.add(rumour);
        }
    }
}
