//! Who lives: SWIM (Das, Gupta, Motivala, DSN 2002) with suspicion and refutation, by the `foca`
//! library, with Lifeguard's local health, rumours and the exchange of tables around it.
//!
//! What it is: a state machine. Messages and time go in, [`Action`]s come out; the owner calls
//! [`Swim::tick`] when [`Swim::next_timer`] is due, and takes the actions after every call.
//!
//! What it is not: it opens no connection and knows no address's meaning; that `from` is who it
//! says is the control plane's business.
//!
//! Invariants:
//! - Same calls, same actions: chance comes from the seed, order from ordered maps.
//! - What is remembered is bounded: see [`Settings::down_max`] and [`Settings::members_max`].
//! - A node that slept blames itself: the time it missed counts against no one.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use foca::{AccumulatingRuntime, Foca, NoCustomBroadcast, PostcardCodec, Timer};
use gem_types::NodeId;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::health::Health;
use super::identity::MEMBER_TEXT_MAX;
use super::roll::Roll;
use super::rumours::Rumours;
use super::settings::{RUMOUR_BYTES, Settings};
use super::wire::{Envelope, Rumour};
use super::{Load, Member, sync};
use crate::directory::{Descriptor, Table};

mod hear;
mod rounds;

/// What the owner is to do, or to know.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Send `bytes` to `to`, if it can be reached; may be lost.
    Send {
        /// Whom it is for.
        to: NodeId,
        /// For its [`Swim::hear`].
        bytes: Bytes,
    },
    /// A member is new, or back.
    Up(Member),
    /// A member that is up introduces itself anew: restarted, rejoined, or with other properties.
    Changed(Member),
    /// A member is down.
    Down {
        /// Who.
        member: Member,
        /// Whether it said so itself.
        has_left: bool,
    },
    /// This node was taken for dead, and goes on under a higher run.
    Rejoined(Member),
    /// The table has learned this from another node.
    Heard(Descriptor),
    /// A digest newer than the last of that node.
    Load(NodeId, Load),
}

/// How a node stands with a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It answers.
    Alive,
    /// Someone got no answer from it; it counts as living until it has had time to speak up.
    Suspect,
    /// It is dead, cut off, or has left.
    Down {
        /// When this node learned of it.
        since: Duration,
        /// Whether it left as planned.
        has_left: bool,
    },
}

/// An introduction with a text that is too long to travel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the URL, zone and name of a node may have {MEMBER_TEXT_MAX} bytes each: shorten them")]
pub struct TooLong;

enum Due {
    Library(Timer<Member>),
    Gossip,
    Sync,
    Rejoin,
    Forget,
}

/// How often it is looked whether someone is to be forgotten.
const FORGET_PERIOD: Duration = Duration::from_secs(10);
/// See the module.
pub struct Swim {
    settings: Settings,
    core: Foca<Member, PostcardCodec, Xoshiro256PlusPlus, NoCustomBroadcast>,
    outside: AccumulatingRuntime<Member>,
    random: Xoshiro256PlusPlus,
    timers: BTreeMap<(Duration, u64), Due>,
    timers_set: u64,
    health: Health,
    roll: Roll,
    rumours: Rumours,
    actions: Vec<Action>,
    has_left: bool,
    refused: u64,
}

impl Swim {
    /// A node that knows nobody yet. Fails where a text of `me` is longer than
    /// [`MEMBER_TEXT_MAX`].
    pub fn new(me: Member, settings: Settings, seed: u64, now: Duration) -> Result<Self, TooLong> {
        if !me.is_sound() {
            return Err(TooLong);
        }
        let random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let core = Foca::new(me.plain(), settings.library(1), Xoshiro256PlusPlus::seed_from_u64(!seed), PostcardCodec);
        let mut swim = Swim {
            settings,
            core,
            outside: AccumulatingRuntime::new(),
            random,
            timers: BTreeMap::new(),
            timers_set: 0,
            health: Health::default(),
            roll: Roll::default(),
            rumours: Rumours::default(),
            actions: Vec::new(),
            has_left: false,
            refused: 0,
        };
        for due in [Due::Gossip, Due::Sync, Due::Rejoin, Due::Forget] {
            swim.again(due, now);
        }
        Ok(swim)
    }

    /// This node, under its present run.
    pub fn me(&self) -> &Member {
        self.core.identity()
    }

    /// Asks `seeds` for the mesh. Repeat it while nobody answers: a lost message is not sent again.
    pub fn join(&mut self, seeds: impl IntoIterator<Item = NodeId>, now: Duration) {
        let me = self.me().clone();
        for node in seeds.into_iter().filter(|node| *node != me.node) {
            // Only the id counts: whoever has it answers with its real introduction.
            let seed = Member { node, run: 0, ..me.clone() };
            let _ = self.core.announce(seed, &mut self.outside);
        }
        self.settle(now);
    }

    /// A message of `from`, which is authenticated. What can't be read is dropped and counted.
    pub fn hear(&mut self, from: NodeId, bytes: &[u8], table: &mut Table, now: Duration) {
        if self.has_left || from == self.me().node {
            return;
        }
        match Envelope::decode(bytes) {
            None => self.refused += 1,
            Some(Envelope::Swim { packet, rumours }) => {
                self.hear_rumours(rumours, table, now);
                self.hear_packet(from, &packet, now);
            }
            Some(Envelope::Rumours(rumours)) => self.hear_rumours(rumours, table, now),
            Some(Envelope::Sums(sums)) => {
                let first = self.random.random();
                let answer = sync::marks(table, &sums, first);
                self.send_all(from, answer);
            }
            Some(Envelope::Marks { parts, marks }) => {
                let answer = sync::settle(table, &parts, &marks);
                self.send_all(from, answer);
            }
            Some(Envelope::Want(groups)) => {
                let answer = sync::have(table, groups.into_iter().take(sync::MARKS_MAX));
                self.send_all(from, answer);
            }
            Some(Envelope::Have(descriptors)) => {
                let news = descriptors.into_iter().filter(|d| table.learn(d.clone(), now));
                self.actions.extend(news.map(Action::Heard));
            }
        }
    }

    /// Does what is due at `now`.
    pub fn tick(&mut self, table: &Table, now: Duration) {
        self.forgive(now);
        while let Some(entry) = self.timers.first_entry().filter(|e| e.key().0 <= now) {
            match entry.remove() {
                Due::Library(timer) => {
                    if let Timer::ProbeRandomMember(_) = timer {
                        self.health.probe_ends();
                    }
                    let _ = self.core.handle_timer(timer, &mut self.outside);
                }
                Due::Gossip => self.gossip(now),
                Due::Sync => self.sync(table, now),
                Due::Rejoin => self.rejoin(now),
                Due::Forget => {
                    self.forget(now);
                    self.again(Due::Forget, now);
                }
            }
            self.settle(now);
        }
    }

    /// When [`Swim::tick`] has to be called next; earlier does no harm.
    pub fn next_timer(&self) -> Option<Duration> {
        self.timers.keys().next().map(|(at, _)| *at)
    }

    /// What has come up since the last call. To be taken after every call of another function.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// All members but this node, living ones and those that are remembered as down, by id.
    pub fn members(&self) -> Vec<(Member, State)> {
        let others = self.core.iter_membership_state().filter(|m| m.id().node != self.me().node);
        let mut out: Vec<_> = others.map(|m| (m.id().clone(), self.state(m))).collect();
        out.sort_by_key(|(member, _)| member.node);
        out
    }

    /// The living members' digests, as far as they are known.
    pub fn loads(&self) -> impl Iterator<Item = (NodeId, &Load)> {
        self.roll.loads()
    }

    /// Tells the others how loaded this node is. `load.version` has to rise.
    pub fn set_load(&mut self, load: Load) {
        let (node, run) = (self.me().node, self.me().run);
        self.rumours.add(Rumour::Load { node, run, load });
    }

    /// Enters a change that this node made or saw first into `table`, and tells the others; returns
    /// whether it was news.
    pub fn publish(&mut self, descriptor: Descriptor, table: &mut Table, now: Duration) -> bool {
        let is_news = table.learn(descriptor.clone(), now);
        if is_news {
            self.rumours.add(Rumour::Shard(descriptor));
        }
        is_news
    }

    /// Introduces this node anew, under a run that is higher than before; returns the introduction.
    pub fn update_me(&mut self, me: Member, now: Duration) -> Result<&Member, TooLong> {
        if !me.is_sound() {
            return Err(TooLong);
        }
        let run = me.run.max(self.me().run.saturating_add(1));
        let me = Member { run, node: self.me().node, ..me.plain() };
        let _ = self.core.change_identity(me, &mut self.outside);
        self.settle(now);
        Ok(self.me())
    }

    /// Leaves: tells everybody, and does nothing more from then on.
    pub fn leave(&mut self, now: Duration) {
        if self.has_left {
            return;
        }
        let left = Rumour::Left { node: self.me().node, run: self.me().run };
        self.rumours.add(left.clone());
        for to in self.living() {
            self.send(to, &Envelope::Rumours(vec![left.clone()]));
        }
        let _ = self.core.leave_cluster(&mut self.outside);
        self.settle(now);
        self.has_left = true;
        self.timers.clear();
    }

    /// By how much this node stretches its waits, because it doubts itself: 1 is healthy.
    pub fn stretch(&self) -> u32 {
        self.health.stretch()
    }

    /// How many messages were refused because they were malformed or not their sender's.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// How many nodes are remembered in any way.
    pub fn remembered(&self) -> usize {
        self.roll.len().max(self.core.iter_membership_state().len())
    }

    fn state(&self, member: &foca::Member<Member>) -> State {
        match member.state() {
            foca::State::Alive => State::Alive,
            foca::State::Suspect => State::Suspect,
            foca::State::Down => State::Down {
                since: self.roll.known_down_since(member.id().node).unwrap_or_default(),
                has_left: self.roll.has_left(member.id()),
            },
        }
    }

    /// Moves what the library wants done into timers and actions.
    fn settle(&mut self, now: Duration) {
        // A change of identity leaves the library without a probe until it is asked to look again.
        let _ = self.core.apply_many(std::iter::empty(), false, &mut self.outside);
        let mut has_news = false;
        while let Some(note) = self.outside.to_notify() {
            has_news = true;
            self.actions.extend(self.roll.note(note, now));
        }
        if has_news {
            let _ = self.core.set_config(self.settings.library(self.core.num_members() + 1));
        }
        while let Some((after, timer)) = self.outside.to_schedule() {
            if let Timer::SendIndirectProbe { probed_id, .. } = &timer {
                self.health.probe(probed_id.node);
            }
            let is_stretched = matches!(
                timer,
                Timer::ProbeRandomMember(_) | Timer::SendIndirectProbe { .. } | Timer::ChangeSuspectToDown { .. }
            );
            let after = if is_stretched { after * self.health.stretch() } else { after };
            self.set_timer(Due::Library(timer), now + after);
        }
        let times = self.settings.times(self.core.num_members() + 1);
        while let Some((to, packet)) = self.outside.to_send() {
            let rumours = self.rumours.take(RUMOUR_BYTES, times);
            self.send(to.node, &Envelope::Swim { packet: packet.to_vec(), rumours });
        }
        if self.downs() > self.settings.down_max {
            self.forget(now);
        }
    }

    /// A node whose timers come late has slept: all its waits begin where it woke.
    fn forgive(&mut self, now: Duration) {
        let Some(late) = self.next_timer().map(|due| now.saturating_sub(due)) else { return };
        if late > self.settings.probe_wait {
            self.health.late();
            let timers = std::mem::take(&mut self.timers);
            self.timers = timers.into_iter().map(|((at, turn), due)| ((at + late, turn), due)).collect();
        }
    }

    fn downs(&self) -> usize {
        self.core.iter_membership_state().len().saturating_sub(self.core.num_members())
    }

    fn living(&self) -> Vec<NodeId> {
        let mut out: Vec<_> = self.core.iter_members().map(|m| m.id().node).collect();
        out.sort_unstable();
        out
    }

    /// `count` of `from`, drawn evenly.
    fn draw(&mut self, mut from: Vec<NodeId>, count: usize) -> Vec<NodeId> {
        let count = count.min(from.len());
        for i in 0..count {
            let chosen = self.random.random_range(i..from.len());
            from.swap(i, chosen);
        }
        from.truncate(count);
        from
    }

    fn again(&mut self, due: Due, now: Duration) {
        let period = match due {
            Due::Gossip => self.settings.gossip_period,
            Due::Sync => self.settings.sync_period,
            Due::Rejoin => self.settings.rejoin_period,
            Due::Forget => FORGET_PERIOD,
            Due::Library(_) => return,
        };
        self.set_timer(due, now + period);
    }

    fn set_timer(&mut self, due: Due, at: Duration) {
        self.timers_set += 1;
        self.timers.insert((at, self.timers_set), due);
    }

    fn send_all(&mut self, to: NodeId, envelopes: impl IntoIterator<Item = Envelope>) {
        for envelope in envelopes {
            self.send(to, &envelope);
        }
    }

    fn send(&mut self, to: NodeId, envelope: &Envelope) {
        if to != self.me().node {
            self.actions.push(Action::Send { to, bytes: envelope.encode().into() });
        }
    }
}

#[cfg(test)]
#[path = "swim_tests.rs"]
mod tests;
