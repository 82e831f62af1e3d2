//! Dispatch's driver: turns callers' requests into its events, and its actions into answers,
//! proposals, reads and dead letters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gem_store::StoreError;
use gem_types::batch::RecordBatch;
use gem_types::{Error, GroupName, Offset, PartitionId, Result, TopicName};

use super::requests::Reply;
use crate::dispatch::{Action, Dispatch, DispatchConfig, FetchId, GroupStart, Now, RequestId, Rules};
use crate::entry::Command;
use crate::log::{Delivered, From, GroupInfo, GroupRef, Pull, Status, Verb};
use crate::machine::{Machine, Outcome, no_group, no_partition};

/// What dispatch wants done outside.
pub(crate) enum Errand {
    /// Propose this under `id`.
    Propose(u64, crate::dispatch::Progress),
    /// Make a group for whoever pulls from it.
    MakeGroup(Command),
    /// Read.
    Fetch { id: FetchId, partition: PartitionId, from: Offset, max_bytes: usize },
    /// Publish to the group's dead-letter topic.
    DeadLetter { group: GroupRef, offset: Offset, batch: Arc<RecordBatch>, index: u32 },
}

/// A pull and whom to answer.
type WaitingPull = (Pull, Reply<Vec<Delivered>>);

type GroupKey = (PartitionId, GroupName);

/// The groups of a shard on its leader, with everybody who waits for them. The tables of callers
/// are bounded by dispatch (pulls) and by the request queue's callers, who all have deadlines.
pub(crate) struct Delivery {
    dispatch: Dispatch,
    /// The groups that dispatch knows.
    known: BTreeMap<PartitionId, BTreeSet<GroupName>>,
    pulls: BTreeMap<RequestId, (GroupRef, Reply<Vec<Delivered>>)>,
    settles: BTreeMap<RequestId, Reply<Vec<Status>>>,
    /// Pulls from groups that are being made.
    making: BTreeMap<GroupKey, Vec<WaitingPull>>,
    next_request: RequestId,
    actions: Vec<Action>,
}

fn key(group: &GroupRef) -> GroupKey {
    (group.partition, group.group.clone())
}

impl Delivery {
    pub fn new(config: DispatchConfig, secret: [u8; 32]) -> Self {
        Delivery {
            dispatch: Dispatch::new(config, secret),
            known: BTreeMap::new(),
            pulls: BTreeMap::new(),
            settles: BTreeMap::new(),
            making: BTreeMap::new(),
            next_request: 0,
            actions: Vec::new(),
        }
    }

    /// This replica leads in `term`: takes over every group as the machine has it.
    pub fn lead(&mut self, machine: &mut Machine, term: u64, now: Now) -> std::result::Result<(), StoreError> {
        let mut starts = Vec::new();
        self.known.clear();
        for group in machine.all_groups()? {
            if let Some(start) = group_start(machine, &group)? {
                self.known.entry(group.partition).or_default().insert(group.group.clone());
                starts.push(start);
            }
        }
        self.dispatch.on_leader(term, now, starts);
        Ok(())
    }

    /// This replica leads no more: whoever waits is told so.
    pub fn lose(&mut self) {
        self.dispatch.on_lost();
        self.known.clear();
        for (_, reply) in std::mem::take(&mut self.making).into_values().flatten() {
            let _ = reply.send(Err(Error::unavailable("the shard's leader changed: ask again", 100)));
        }
    }

    /// When time alone is an event, on the monotonic clock in milliseconds.
    pub fn next_deadline(&self) -> Option<u64> {
        self.dispatch.next_deadline()
    }

    /// A member asks for messages.
    pub fn pull(
        &mut self,
        machine: &mut Machine,
        pull: Pull,
        reply: Reply<Vec<Delivered>>,
        now: Now,
    ) -> std::result::Result<Option<Errand>, StoreError> {
        let known = self.known.get(&pull.group.partition).is_some_and(|names| names.contains(&pull.group.group));
        if known {
            self.start_pull(pull, reply, now);
            return Ok(None);
        }
        if let Err(error) = check_topic(machine, &pull.group.topic, pull.group.partition)? {
            let _ = reply.send(Err(error));
            return Ok(None);
        }
        let group = pull.group.clone();
        let mode = pull.mode.unwrap_or_default();
        let start = machine.resolve(group.partition, pull.from.unwrap_or(From::Earliest))?.unwrap_or(0);
        let waiting = self.making.entry(key(&group)).or_default();
        waiting.push((pull, reply));
        Ok((waiting.len() == 1).then_some(Errand::MakeGroup(Command::CreateGroup { group, mode, start })))
    }

    fn start_pull(&mut self, pull: Pull, reply: Reply<Vec<Delivered>>, now: Now) {
        let request = self.request();
        self.dispatch.on_pull(request, &pull, now);
        self.pulls.insert(request, (pull.group, reply));
    }

    /// A member settles tokens.
    pub fn settle(&mut self, group: &GroupRef, verbs: &[(String, Verb)], reply: Reply<Vec<Status>>, now: Now) {
        let request = self.request();
        self.settles.insert(request, reply);
        self.dispatch.on_settle(request, group, verbs, now);
    }

    /// A member lives.
    pub fn heartbeat(&mut self, group: &GroupRef, consumer: &str, now: Now) -> Result<u64> {
        self.dispatch.on_heartbeat(group, consumer, now)
    }

    /// A stream has ended.
    pub fn close_stream(&mut self, group: &GroupRef, consumer: &str, stream: u64, now: Now) {
        self.dispatch.on_close_stream(group, consumer, stream, now);
    }

    /// A seek or deletion of the group is about to be proposed.
    pub fn freeze(&mut self, group: &GroupRef) {
        self.dispatch.freeze(group);
    }

    /// Forgets pulls whose callers are gone.
    pub fn sweep(&mut self, now: Now) {
        let is_gone = |(_, (_, reply)): &(&RequestId, &(GroupRef, Reply<Vec<Delivered>>))| reply.is_closed();
        let gone: Vec<RequestId> = self.pulls.iter().filter(is_gone).map(|(request, _)| *request).collect();
        for request in gone {
            if let Some((group, _)) = self.pulls.remove(&request) {
                self.dispatch.cancel_pull(&group, request, now);
            }
        }
    }

    /// A fetch ended.
    pub fn fetched(&mut self, id: FetchId, result: Result<Vec<RecordBatch>>, now: Now) {
        self.dispatch.on_records(id, result, now);
    }

    /// The dead-letter publisher is done with a message.
    pub fn dead_lettered(&mut self, group: &GroupRef, offset: Offset, result: Result<()>, now: Now) {
        self.dispatch.on_dead_lettered(group, offset, result, now);
    }

    /// A proposal of dispatch's ended.
    pub fn proposed(&mut self, id: u64, result: Result<()>, now: Now) {
        match result {
            Ok(()) => self.dispatch.on_applied(id, now),
            Err(error) => self.dispatch.on_failed(id, error, now),
        }
    }

    /// What an applied command changed.
    pub fn applied(
        &mut self,
        machine: &mut Machine,
        command: &Command,
        outcome: &Outcome,
        now: Now,
    ) -> std::result::Result<(), StoreError> {
        match outcome {
            Outcome::Appended { partition, next, .. } => self.dispatch.on_tail(*partition, *next),
            Outcome::Trimmed { partition, earliest } => self.dispatch.on_trim(*partition, *earliest),
            Outcome::Topic { info, new: false } => {
                for partition in &info.partitions {
                    self.dispatch.on_rules(partition.id, &info.config);
                }
            }
            Outcome::TopicDeleted { name, partitions } => {
                for partition in partitions {
                    self.forget_partition(name, *partition);
                }
            }
            Outcome::Group { group, .. } => self.made(machine, group, now)?,
            Outcome::GroupDeleted { group } => {
                if let Some(names) = self.known.get_mut(&group.partition) {
                    names.remove(&group.group);
                }
                self.dispatch.on_delete(group);
            }
            Outcome::Sought { group, .. } => {
                if let Some(start) = group_start(machine, group)? {
                    self.dispatch.on_group(start, now);
                }
            }
            Outcome::Refused(error) => match command {
                Command::Seek { group, .. } | Command::DeleteGroup { group } => self.dispatch.thaw(group),
                Command::CreateGroup { group, .. } => self.unmade(group, error),
                _ => {}
            },
            _ => {}
        }
        Ok(())
    }

    /// A proposal of `command` failed: nothing of it is known to have happened.
    pub fn failed(&mut self, command: &Command, error: &Error) {
        match command {
            Command::Seek { group, .. } | Command::DeleteGroup { group } => self.dispatch.thaw(group),
            Command::CreateGroup { group, .. } => self.unmade(group, error),
            _ => {}
        }
    }

    /// The group stands: whoever waited for it pulls.
    pub fn made(&mut self, machine: &mut Machine, group: &GroupRef, now: Now) -> std::result::Result<(), StoreError> {
        let names = self.known.entry(group.partition).or_default();
        if !names.contains(&group.group)
            && let Some(start) = group_start(machine, group)?
        {
            names.insert(group.group.clone());
            self.dispatch.on_group(start, now);
        }
        for (pull, reply) in self.making.remove(&key(group)).unwrap_or_default() {
            self.start_pull(pull, reply, now);
        }
        Ok(())
    }

    fn unmade(&mut self, group: &GroupRef, error: &Error) {
        for (_, reply) in self.making.remove(&key(group)).unwrap_or_default() {
            let _ = reply.send(Err(error.clone()));
        }
    }

    fn forget_partition(&mut self, topic: &TopicName, partition: PartitionId) {
        for group in self.known.remove(&partition).unwrap_or_default() {
            self.dispatch.on_delete(&GroupRef { topic: topic.clone(), partition, group });
        }
    }

    /// Does what is due; answers callers, and gives out what is to be done elsewhere.
    pub fn drain(&mut self, now: Now, errands: &mut Vec<Errand>) {
        self.dispatch.on_tick(now);
        let mut actions = std::mem::take(&mut self.actions);
        loop {
            self.dispatch.drain(now, &mut actions);
            if actions.is_empty() {
                break;
            }
            for action in actions.drain(..) {
                self.carry_out(action, now, errands);
            }
        }
        self.actions = actions;
    }

    fn carry_out(&mut self, action: Action, now: Now, errands: &mut Vec<Errand>) {
        match action {
            Action::Propose { id, progress } => errands.push(Errand::Propose(id, progress)),
            Action::Fetch { id, partition, from, max_bytes } => {
                errands.push(Errand::Fetch { id, partition, from, max_bytes });
            }
            Action::Reply { request, result } => {
                let Some((group, reply)) = self.pulls.remove(&request) else { return };
                if let Err(Ok(messages)) = reply.send(result) {
                    self.dispatch.on_undelivered(&group, &messages, now);
                }
            }
            Action::Settled { request, result } => {
                if let Some(reply) = self.settles.remove(&request) {
                    let _ = reply.send(result);
                }
            }
            Action::DeadLetter { group, offset, batch, index, .. } => {
                errands.push(Errand::DeadLetter { group, offset, batch, index });
            }
        }
    }

    /// The groups of a partition, as users see them.
    pub fn infos(
        &self,
        machine: &mut Machine,
        topic: &TopicName,
        partition: PartitionId,
    ) -> std::result::Result<Result<Vec<GroupInfo>>, StoreError> {
        if let Err(error) = check_topic(machine, topic, partition)? {
            return Ok(Err(error));
        }
        let mut infos = Vec::new();
        for group in machine.group_names(partition)? {
            let group = GroupRef { topic: topic.clone(), partition, group };
            infos.extend(self.info(machine, &group)?.ok());
        }
        Ok(Ok(infos))
    }

    /// A group, as users see it.
    pub fn info(&self, machine: &mut Machine, group: &GroupRef) -> std::result::Result<Result<GroupInfo>, StoreError> {
        if let Err(error) = check_topic(machine, &group.topic, group.partition)? {
            return Ok(Err(error));
        }
        let next = machine.partition(group.partition)?.map_or(0, |partition| partition.next);
        let Some(state) = machine.group(group)? else { return Ok(Err(no_group(group))) };
        let figures = self.dispatch.figures(group).unwrap_or_default();
        Ok(Ok(GroupInfo {
            group: group.group.clone(),
            mode: state.mode,
            lag: state.lag(next),
            pending: figures.pending,
            redelivered: state.redelivered,
            dead_lettered: state.dead_lettered,
            members: figures.members,
        }))
    }

    fn request(&mut self) -> RequestId {
        self.next_request += 1;
        self.next_request
    }
}

/// Whether `partition` is here and belongs to `topic`.
fn check_topic(
    machine: &mut Machine,
    topic: &TopicName,
    partition: PartitionId,
) -> std::result::Result<Result<()>, StoreError> {
    let found = machine.partition(partition)?.is_some_and(|row| row.topic == *topic);
    Ok(if found { Ok(()) } else { Err(no_partition(partition)) })
}

/// A group as dispatch takes it over.
fn group_start(machine: &mut Machine, group: &GroupRef) -> std::result::Result<Option<GroupStart>, StoreError> {
    let Some(partition) = machine.partition(group.partition)? else { return Ok(None) };
    let (earliest, next) = (partition.earliest, partition.next);
    let rules = Rules::from(&machine.config_of(group.partition)?.cloned().unwrap_or_default());
    let Some(state) = machine.group(group)? else { return Ok(None) };
    Ok(Some(GroupStart {
        group: group.clone(),
        life: state.life,
        seeks: state.seeks,
        mode: state.mode,
        rules,
        floor: state.floor,
        acked: state.acked.iter().map(|range| (range.start, range.end)).collect(),
        frontier: state.frontier,
        attempts: state.attempts.iter().map(|(offset, count)| (*offset, *count)).collect(),
        delayed: state.delayed.iter().map(|(offset, due_ms)| (*offset, *due_ms)).collect(),
        moving: state.moving.keys().copied().collect(),
        earliest,
        next,
    }))
}
