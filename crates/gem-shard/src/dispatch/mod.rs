//! Dispatch: what a partition's leader hands to the members of each group, and what became of it.
//!
//! What it is: one [`Dispatch`] a shard, for all groups of all its partitions: plain synchronous
//! code, event in, [`Action`]s out. The driver tells events as they happen, then calls
//! [`Dispatch::drain`] and carries the actions out in their order; [`Dispatch::next_deadline`] says
//! when time alone is an event. Several events may come before a drain: their changes gather.
//!
//! What it is not: it reads no clock, no log and no file, and it holds nothing that must survive.
//! Leases are the leader's alone; what must survive it proposes as [`Progress`].
//!
//! Invariants:
//! - A message has one valid lease at the most. A token names one delivery: no attempt of a
//!   message is handed out twice between seeks, whoever leads.
//! - Nothing goes out before the log says that it may: first deliveries below the logged
//!   frontier, later attempts once they are counted.
//! - An ack or a nack is answered once it is durable. Until then the message counts as out.
//! - In mode `key` a message is out only while every earlier one of its key is finished or has
//!   left for the dead-letter topic.
//! - Every table is bounded per group ([`DispatchConfig`]), so no group, member or key slows
//!   another's; what the groups hold is charged by [`Dispatch::bytes`].
//!
//! A group, room by room: `group` is the state and the round that moves it on; `deliver` hands
//! out, `credit` holds the waiting pulls, `frontier` what is logged ahead; `settle` takes the
//! members' word by their `tokens`; `leases` and `members` know what is with whom until when;
//! `redelivery` brings back what failed, `dead_letters` sends away what failed too often; `keys`
//! keeps order; `grace` takes a group over from a lost leader; `pipeline` is what is being
//! proposed, `batches` what is at hand.

mod actions;
mod batches;
mod credit;
mod dead_letters;
mod deliver;
mod frontier;
mod grace;
mod group;
mod keys;
mod leases;
mod members;
mod pipeline;
mod redelivery;
mod settle;
#[cfg(test)]
mod tests;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};

use gem_types::batch::RecordBatch;
use gem_types::{Error, GroupName, Offset, PartitionId};

pub use self::actions::{Action, DispatchConfig, FetchId, Figures, GroupStart, Now, ProposalId, RequestId, Rules};
pub use self::tokens::{TokenText, partition_of};
pub use crate::entry::Progress;

use self::group::{Ctx, Group};
use self::keys::KeyHasher;
use self::tokens::{TokenKey, derive};
use crate::log::{Delivered, GroupRef, Pull, TopicConfig, Verb};

/// The groups of a shard, on its leader.
pub struct Dispatch {
    config: DispatchConfig,
    secret: [u8; 32],
    hasher: KeyHasher,
    /// The term that it leads in, and since when; `None`: it doesn't lead, and knows no group.
    leads: Option<(u64, u64)>,
    groups: Vec<Option<Group>>,
    /// The empty places among them.
    free: Vec<u32>,
    names: BTreeMap<(PartitionId, GroupName), u32>,
    /// Whose round is due at the next drain, in the order of the events.
    dirty: Vec<u32>,
    is_dirty: Vec<bool>,
    /// When each group's next round is due without an event.
    timers: BTreeSet<(u64, u32)>,
    timer_of: Vec<Option<u64>>,
    next_id: u64,
    /// Which group a proposal or fetch belongs to.
    owners: BTreeMap<u64, u32>,
    issued: Vec<u64>,
    out: Vec<Action>,
}

impl Dispatch {
    /// Knows no group and doesn't lead. `secret` is the mesh's: tokens made under it are good on
    /// every node that has it.
    pub fn new(config: DispatchConfig, secret: [u8; 32]) -> Self {
        let hasher = KeyHasher::new(&derive(&secret, &[b"gem dispatch keys"]));
        Dispatch {
            config,
            secret,
            hasher,
            leads: None,
            groups: Vec::new(),
            free: Vec::new(),
            names: BTreeMap::new(),
            dirty: Vec::new(),
            is_dirty: Vec::new(),
            timers: BTreeSet::new(),
            timer_of: Vec::new(),
            next_id: 0,
            owners: BTreeMap::new(),
            issued: Vec::new(),
            out: Vec::new(),
        }
    }

    /// This node leads the shard in `term`, and has applied its own first entry of it. `groups`
    /// are all of the shard's, as they stand.
    pub fn on_leader(&mut self, term: u64, now: Now, groups: Vec<GroupStart>) {
        self.on_lost();
        self.leads = Some((term, now.mono_ms));
        for start in groups {
            self.on_group(start, now);
        }
    }

    /// This node leads no more: everybody who waits is told, everything is forgotten.
    pub fn on_lost(&mut self) {
        for group in self.groups.iter_mut().flatten() {
            abandon(group, &mut self.out, || Error::unavailable("the shard's leader changed: ask again", 100));
        }
        self.leads = None;
        self.groups.clear();
        self.free.clear();
        self.names.clear();
        self.dirty.clear();
        self.is_dirty.clear();
        self.timers.clear();
        self.timer_of.clear();
        self.owners.clear();
    }

    /// A group stands as given: it was made, or a seek was applied (then its leases end, what
    /// waits for a settlement is answered `expired`, and a freeze ends; members and pulls stay).
    pub fn on_group(&mut self, start: GroupStart, now: Now) {
        let Some((_, led_ms)) = self.leads else { return };
        let tokens = TokenKey::new(&self.secret, &start.group, start.life);
        let name = (start.group.partition, start.group.group.clone());
        match self.names.get(&name).copied() {
            Some(slot) => {
                self.owners.retain(|_, owner| *owner != slot);
                self.with(slot, now, |group, ctx| group.restart(ctx, start, tokens));
            }
            None => {
                let group = Some(Group::start(start, tokens, led_ms, now));
                let slot = self.free.pop().unwrap_or(self.groups.len() as u32);
                match self.groups.get_mut(slot as usize) {
                    Some(free) => *free = group,
                    None => {
                        self.groups.push(group);
                        self.is_dirty.push(false);
                        self.timer_of.push(None);
                    }
                }
                self.names.insert(name, slot);
                self.mark(slot);
            }
        }
    }

    /// The group was deleted: whoever waits is told so.
    pub fn on_delete(&mut self, group: &GroupRef) {
        let Some(slot) = self.names.remove(&(group.partition, group.group.clone())) else { return };
        self.owners.retain(|_, owner| *owner != slot);
        if let Some(timer) = self.timer_of.get_mut(slot as usize).and_then(Option::take) {
            self.timers.remove(&(timer, slot));
        }
        if let Some(mut gone) = self.groups.get_mut(slot as usize).and_then(Option::take) {
            self.free.push(slot);
            abandon(&mut gone, &mut self.out, || {
                Error::not_found(format!("group {} of topic {} was deleted", group.group, group.topic))
            });
        }
    }

    /// A seek or a deletion of the group is about to be proposed: nothing of it is proposed or
    /// delivered until `on_group`, `on_delete` or `thaw` was told as often as `freeze`. So every change in the log before the
    /// move is of before, and none follows it that was judged before.
    pub fn freeze(&mut self, group: &GroupRef) {
        if let Some(group) = self.group_mut(group) {
            group.frozen = group.frozen.saturating_add(1);
        }
    }

    /// The seek or deletion did not come about.
    pub fn thaw(&mut self, group: &GroupRef) {
        let Some(slot) = self.slot(group) else { return };
        if let Some(group) = self.groups.get_mut(slot as usize).and_then(Option::as_mut) {
            group.frozen = group.frozen.saturating_sub(1);
        }
        self.mark(slot);
    }

    /// The topic's configuration changed.
    pub fn on_rules(&mut self, partition: PartitionId, config: &TopicConfig) {
        for slot in self.of_partition(partition) {
            if let Some(group) = self.groups.get_mut(slot as usize).and_then(Option::as_mut) {
                group.change_rules(Rules::from(config));
            }
            self.mark(slot);
        }
    }

    /// The partition's next offset rose: everything below is readable.
    pub fn on_tail(&mut self, partition: PartitionId, next: Offset) {
        for slot in self.of_partition(partition) {
            let Some(group) = self.groups.get_mut(slot as usize).and_then(Option::as_mut) else { continue };
            group.tail = group.tail.max(next);
            if !group.pulls.is_empty() {
                self.mark(slot);
            }
        }
    }

    /// The partition retains nothing below `earliest` any more.
    pub fn on_trim(&mut self, partition: PartitionId, earliest: Offset) {
        for slot in self.of_partition(partition) {
            if let Some(group) = self.groups.get_mut(slot as usize).and_then(Option::as_mut) {
                group.trimmed(earliest);
            }
            self.mark(slot);
        }
    }

    /// A member asks for messages. Answered by [`Action::Reply`]. The group must stand: whoever
    /// makes groups on their first pull does that before.
    pub fn on_pull(&mut self, request: RequestId, pull: &Pull, now: Now) {
        let result = match self.slot(&pull.group) {
            Some(slot) => self.with(slot, now, |group, ctx| group.pull(ctx, request, pull)).unwrap_or(Ok(())),
            None => Err(self.unknown(&pull.group)),
        };
        if let Err(error) = result {
            self.out.push(Action::Reply { request, result: Err(error) });
        }
    }

    /// The caller of a pull is gone: it is not answered.
    pub fn cancel_pull(&mut self, group: &GroupRef, request: RequestId, now: Now) {
        let Some(slot) = self.slot(group) else { return };
        self.with(slot, now, |group, ctx| {
            if let Some(pull) = group.pulls.cancel(request) {
                group.members.end_wait(pull.member, ctx.now);
            }
        });
    }

    /// A reply found nobody: its messages are free again.
    pub fn on_undelivered(&mut self, group: &GroupRef, messages: &[Delivered], now: Now) {
        let Some(slot) = self.slot(group) else { return };
        self.with(slot, now, |group, _| {
            for message in messages {
                group.give_back(message.offset, message.delivery);
            }
        });
    }

    /// A member settles tokens. Answered by [`Action::Settled`].
    pub fn on_settle(&mut self, request: RequestId, group: &GroupRef, verbs: &[(String, Verb)], now: Now) {
        match self.slot(group) {
            Some(slot) => {
                self.with(slot, now, |group, ctx| group.settle(ctx, request, verbs));
            }
            None => {
                let result = Err(self.unknown(group));
                self.out.push(Action::Settled { request, result });
            }
        }
    }

    /// Extends all that the member holds by the ack timeout from now; answers how many.
    pub fn on_heartbeat(&mut self, group: &GroupRef, consumer: &str, now: Now) -> Result<u64, Error> {
        let Some(slot) = self.slot(group) else { return Err(self.unknown(group)) };
        Ok(self.with(slot, now, |group, ctx| group.heartbeat(ctx, consumer)).unwrap_or(0))
    }

    /// A stream ended: the leases handed out under it are free at once.
    pub fn on_close_stream(&mut self, group: &GroupRef, consumer: &str, stream: u64, now: Now) {
        let Some(slot) = self.slot(group) else { return };
        self.with(slot, now, |group, ctx| group.close_stream(ctx, consumer, stream));
    }

    /// A fetch ended, with whole batches in offset order or an error; see [`Action::Fetch`].
    pub fn on_records(&mut self, id: FetchId, result: Result<Vec<RecordBatch>, Error>, now: Now) {
        let Some(slot) = self.owners.remove(&id) else { return };
        self.with(slot, now, |group, ctx| group.fetched(ctx, id, result));
    }

    /// A proposal was applied.
    pub fn on_applied(&mut self, id: ProposalId, now: Now) {
        let Some(slot) = self.owners.remove(&id) else { return };
        self.with(slot, now, |group, ctx| group.applied(ctx, id));
    }

    /// A proposal failed, or its outcome is unknown.
    pub fn on_failed(&mut self, id: ProposalId, error: Error, now: Now) {
        let Some(slot) = self.owners.remove(&id) else { return };
        self.with(slot, now, |group, ctx| group.failed(ctx, id, error));
    }

    /// The dead-letter publisher is done with a message, or failed and is to try again.
    pub fn on_dead_lettered(&mut self, group: &GroupRef, offset: Offset, result: Result<(), Error>, now: Now) {
        let Some(slot) = self.slot(group) else { return };
        self.with(slot, now, |group, ctx| group.dead_lettered(ctx, offset, result));
    }

    /// Time passed: what is due is done at the next drain.
    pub fn on_tick(&mut self, now: Now) {
        while let Some((at, slot)) = self.timers.first().copied().filter(|(at, _)| *at <= now.mono_ms) {
            self.timers.remove(&(at, slot));
            if let Some(timer) = self.timer_of.get_mut(slot as usize) {
                *timer = None;
            }
            self.mark(slot);
        }
    }

    /// When `on_tick` and `drain` are next worth calling without another event.
    pub fn next_deadline(&self) -> Option<u64> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Does what the events since the last drain call for; appends the actions in their order.
    pub fn drain(&mut self, now: Now, out: &mut Vec<Action>) {
        for slot in std::mem::take(&mut self.dirty) {
            if let Some(flag) = self.is_dirty.get_mut(slot as usize) {
                *flag = false;
            }
            let Some(next) = self.with(slot, now, |group, ctx| {
                group.round(ctx);
                group.next_deadline(ctx.now.mono_ms)
            }) else {
                continue;
            };
            self.unmark(slot);
            self.set_timer(slot, next);
        }
        out.append(&mut self.out);
    }

    /// What dispatch knows of a group for its figures.
    pub fn figures(&self, group: &GroupRef) -> Option<Figures> {
        let slot = self.slot(group)?;
        self.groups.get(slot as usize)?.as_ref().map(Group::figures)
    }

    /// What all groups hold in memory, about. Looks at every group.
    pub fn bytes(&self) -> usize {
        self.groups.iter().flatten().map(Group::bytes).sum()
    }

    /// Runs `f` on a group, and marks it for the next drain.
    fn with<T>(&mut self, slot: u32, now: Now, f: impl FnOnce(&mut Group, &mut Ctx<'_>) -> T) -> Option<T> {
        let (term, _) = self.leads?;
        let group = self.groups.get_mut(slot as usize)?.as_mut()?;
        let mut ctx = Ctx {
            config: &self.config,
            hasher: &self.hasher,
            now,
            term,
            next_id: &mut self.next_id,
            issued: &mut self.issued,
            out: &mut self.out,
        };
        let result = f(group, &mut ctx);
        for id in self.issued.drain(..) {
            self.owners.insert(id, slot);
        }
        self.mark(slot);
        Some(result)
    }

    fn mark(&mut self, slot: u32) {
        if let Some(flag) = self.is_dirty.get_mut(slot as usize)
            && !std::mem::replace(flag, true)
        {
            self.dirty.push(slot);
        }
    }

    /// Its round is done: the mark that the round itself set goes.
    fn unmark(&mut self, slot: u32) {
        if self.dirty.last() == Some(&slot) {
            self.dirty.pop();
            if let Some(flag) = self.is_dirty.get_mut(slot as usize) {
                *flag = false;
            }
        }
    }

    fn set_timer(&mut self, slot: u32, next: Option<u64>) {
        let Some(timer) = self.timer_of.get_mut(slot as usize) else { return };
        if *timer == next {
            return;
        }
        if let Some(old) = std::mem::replace(timer, next) {
            self.timers.remove(&(old, slot));
        }
        if let Some(at) = next {
            self.timers.insert((at, slot));
        }
    }

    fn of_partition(&self, partition: PartitionId) -> Vec<u32> {
        // No group's name sorts before "-", and names are not empty.
        let least = |partition| GroupName::new("-").ok().map(|name| (partition, name));
        let Some(from) = least(partition) else { return Vec::new() };
        self.names.range(from..).take_while(|((of, _), _)| *of == partition).map(|(_, slot)| *slot).collect()
    }

    fn slot(&self, group: &GroupRef) -> Option<u32> {
        let slot = *self.names.get(&(group.partition, group.group.clone()))?;
        let known = self.groups.get(slot as usize)?.as_ref()?;
        (known.group.topic == group.topic).then_some(slot)
    }

    fn group_mut(&mut self, group: &GroupRef) -> Option<&mut Group> {
        let slot = self.slot(group)?;
        self.groups.get_mut(slot as usize)?.as_mut()
    }

    fn unknown(&self, group: &GroupRef) -> Error {
        match self.leads {
            Some(_) => Error::not_found(format!("topic {} has no group {}", group.topic, group.group)),
            None => Error::unavailable("this node does not lead the shard: ask again", 100),
        }
    }
}

/// Tells whoever waits on a group that nothing comes.
fn abandon(group: &mut Group, out: &mut Vec<Action>, error: impl Fn() -> Error) {
    for pull in group.pulls.drain() {
        out.push(Action::Reply { request: pull.request, result: Err(error()) });
    }
    for request in group.pipeline.abandon() {
        let error = Error::deadline("whether this was recorded is unknown: send it again");
        out.push(Action::Settled { request, result: Err(error) });
    }
}
