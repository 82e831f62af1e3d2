//! What waits to be proposed, and what is in flight.
//!
//! While entries fly, requests wait; when there is room for another entry, all that waits (up to
//! a bound in bytes) is judged and becomes one. So a flush carries what came during the one
//! before, and no timer is needed. Plain synchronous code: the leader loop tells it what came and
//! what ended.

use std::collections::VecDeque;
use std::ops::Range;

use gem_store::StoreError;
use gem_types::{Error, Result, TimestampMs};

use super::verdicts::{Joined, Ruling, Ticket, Verdict, Verdicts, join_small};
use crate::dispatch::ProposalId;
use crate::entry::{Command, Entry};
use crate::log::{Append, Placed};
use crate::machine::{Machine, Outcome};
use crate::raft::types::Proposal;
use crate::shard::requests::{Caller, Change, Changed, Pending, Reply};

/// The bounds of proposing.
#[derive(Clone, Debug)]
pub struct ProposerConfig {
    /// Entries in flight at once: one that is being flushed and one behind it keep the journal
    /// busy; more only add latency.
    pub in_flight_max: usize,
    /// Bytes gathered for one entry.
    pub entry_bytes: usize,
    /// The most bytes that an entry may have: what the journal takes. A larger append is refused.
    pub entry_bytes_max: usize,
    /// The most bytes of clients' message ids that the node remembers.
    pub dedup_bytes: u64,
}

impl Default for ProposerConfig {
    fn default() -> Self {
        ProposerConfig { in_flight_max: 2, entry_bytes: 4 << 20, entry_bytes_max: 24 << 20, dedup_bytes: 256 << 20 }
    }
}

/// Commands in one entry: bounds the time that apply holds the machine.
const COMMANDS_MAX: usize = 4_096;
/// What an entry costs beside its batches, about.
const ENTRY_OVERHEAD: usize = 1_024;
/// When publishers may try again where the disk is full.
const ROOM_RETRY_MS: u64 = 1_000;

/// Something that waits to be judged.
pub(crate) enum Wanted {
    /// A caller's append.
    Append(Pending),
    /// A caller's change.
    Change(Change, Reply<Changed>),
    /// The shard's own.
    Own(Command, Purpose),
}

/// Why the shard proposes something of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Dispatch asked for it.
    Progress(ProposalId),
    /// A group is made for whoever pulls.
    Group,
    /// A cut or an expiry.
    Upkeep,
}

/// Who waits for what of an entry.
enum Waiter {
    Appends(Appends, Range<usize>),
    Change(Reply<Changed>, usize),
    Own(Purpose, usize),
}

/// Callers whose appends became one, and where their records are in it.
struct Appends {
    placed: Vec<Placed>,
    callers: Vec<(Caller, Range<usize>)>,
}

struct InFlight {
    number: u64,
    ticket: Ticket,
    proposal: Proposal,
    waiters: Vec<Waiter>,
}

/// What was gathered.
#[derive(Default)]
pub(crate) struct Gathered {
    /// To be proposed under this number; already in flight.
    pub proposal: Option<(u64, Proposal)>,
    /// What needed no entry.
    pub known: Vec<(Purpose, Outcome)>,
}

/// An entry that is applied.
pub(crate) struct Landed {
    pub proposal: Proposal,
    /// One per command.
    pub outcomes: Vec<Outcome>,
    /// The shard's own commands among them, by index.
    pub own: Vec<(Purpose, usize)>,
    /// A batch did not continue its partition: the leader must not go on in this term.
    pub is_mismatch: bool,
}

/// What waits and what flies.
pub(crate) struct Proposer {
    config: ProposerConfig,
    verdicts: Verdicts,
    waiting: VecDeque<Wanted>,
    waiting_bytes: usize,
    in_flight: VecDeque<InFlight>,
    /// Appends that are stored by an entry in flight already.
    duplicates: Vec<(Ticket, Appends)>,
    next_number: u64,
}

impl Proposer {
    pub fn new(config: ProposerConfig) -> Self {
        let verdicts = Verdicts::new(config.dedup_bytes);
        Proposer {
            config,
            verdicts,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            in_flight: VecDeque::new(),
            duplicates: Vec::new(),
            next_number: 0,
        }
    }

    /// A term begins, with nothing in flight.
    pub fn begin(&mut self, term: u64) {
        self.verdicts.reset(term);
    }

    /// Adds what waits.
    pub fn push(&mut self, wanted: Wanted) {
        self.waiting_bytes += wanted.size();
        self.waiting.push_back(wanted);
    }

    /// As much waits as two entries take: no more is to be taken in.
    pub fn is_full(&self) -> bool {
        self.waiting_bytes >= 2 * self.config.entry_bytes || self.waiting.len() >= 2 * COMMANDS_MAX
    }

    /// Something waits, and there is room for another entry.
    pub fn is_ready(&self) -> bool {
        !self.waiting.is_empty() && self.in_flight.len() < self.config.in_flight_max
    }

    /// Nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Whether something of the shard's own upkeep waits or flies.
    pub fn is_keeping_up(&self) -> bool {
        let flying = self.in_flight.iter().flat_map(|entry| &entry.waiters);
        self.waiting.iter().any(|wanted| matches!(wanted, Wanted::Own(_, Purpose::Upkeep)))
            || flying.into_iter().any(|waiter| matches!(waiter, Waiter::Own(Purpose::Upkeep, _)))
    }

    /// See [`Verdicts::set_ids_elsewhere`].
    pub fn set_ids_elsewhere(&mut self, bytes: u64) {
        self.verdicts.set_ids_elsewhere(bytes);
    }

    /// Judges what waits and makes an entry of it. `has_room`: the journal takes publishes.
    pub fn gather(
        &mut self,
        machine: &mut Machine,
        now_ms: TimestampMs,
        has_room: bool,
    ) -> std::result::Result<Gathered, StoreError> {
        let mut draft = Draft { commands: Vec::new(), waiters: Vec::new(), ticket: 0, known: Vec::new() };
        let (appends, others) = self.take(has_room);
        let (appends, mut waiting): (Vec<Append>, Vec<Option<Caller>>) =
            appends.into_iter().map(|pending| (pending.append, Some(pending.caller))).unzip();
        for Joined { append, parts } in join_small(appends) {
            let callers = parts.into_iter().filter_map(|(place, records)| {
                // Each place is named once: a list of appends becomes parts of joined ones.
                Some((waiting.get_mut(place).and_then(Option::take)?, records))
            });
            let callers = callers.collect();
            self.judge_append(machine, append, callers, now_ms, &mut draft)?;
        }
        for wanted in others {
            match wanted {
                Wanted::Append(_) => {}
                Wanted::Change(change, reply) => self.judge_change(machine, change, reply, &mut draft)?,
                Wanted::Own(command, purpose) => match self.verdicts.judge(machine, command)? {
                    Ruling::Propose(command, ticket) => {
                        draft.waiters.push(Waiter::Own(purpose, draft.commands.len()));
                        draft.push(command, ticket);
                    }
                    Ruling::Known(outcome) => draft.known.push((purpose, outcome)),
                },
            }
        }
        let mut gathered = Gathered { proposal: None, known: draft.known };
        if !draft.commands.is_empty() {
            let proposal = Proposal::new(Entry { now_ms, commands: draft.commands });
            let number = self.next_number;
            self.next_number += 1;
            let entry = InFlight { number, ticket: draft.ticket, proposal: proposal.clone(), waiters: draft.waiters };
            self.in_flight.push_back(entry);
            gathered.proposal = Some((number, proposal));
        }
        Ok(gathered)
    }

    /// Takes what fits into one entry: appends apart, for they are joined.
    fn take(&mut self, has_room: bool) -> (Vec<Pending>, Vec<Wanted>) {
        let (mut appends, mut others) = (Vec::new(), Vec::new());
        let mut bytes = ENTRY_OVERHEAD;
        while let Some(next) = self.waiting.front() {
            let size = next.size();
            let is_first = appends.is_empty() && others.is_empty();
            let fits = bytes + size <= self.config.entry_bytes.min(self.config.entry_bytes_max);
            if !(fits || is_first) || appends.len() + others.len() >= COMMANDS_MAX {
                break;
            }
            let Some(wanted) = self.waiting.pop_front() else { break };
            self.waiting_bytes -= size;
            match wanted {
                // Nobody waits for it any more: it is not stored.
                Wanted::Append(pending) if pending.caller.reply.is_closed() => {}
                Wanted::Change(change, reply) if reply.is_closed() && !change.freezes() => {}
                Wanted::Append(pending) => match self.refusal(&pending.append, size, has_room) {
                    Some(error) => drop(pending.caller.reply.send(Err(error))),
                    None => {
                        bytes += size;
                        appends.push(pending);
                    }
                },
                other => {
                    bytes += size;
                    others.push(other);
                }
            }
        }
        (appends, others)
    }

    fn refusal(&self, append: &Append, size: usize, has_room: bool) -> Option<Error> {
        if ENTRY_OVERHEAD + size > self.config.entry_bytes_max {
            return Some(Error::too_large(format!(
                "a batch of {} bytes is larger than the journal takes ({}): send smaller batches",
                append.batch.len(),
                self.config.entry_bytes_max
            )));
        }
        (!has_room)
            .then(|| Error::unavailable("the disk is full: free some space, or shorten retention", ROOM_RETRY_MS))
    }

    fn judge_append(
        &mut self,
        machine: &mut Machine,
        append: Append,
        callers: Vec<(Caller, Range<usize>)>,
        now_ms: TimestampMs,
        draft: &mut Draft,
    ) -> std::result::Result<(), StoreError> {
        match self.verdicts.append(machine, append, now_ms)? {
            Verdict::Propose { commands, ticket, placed } => {
                let from = draft.commands.len();
                for command in commands {
                    draft.push(command, ticket);
                }
                draft.waiters.push(Waiter::Appends(Appends { placed, callers }, from..draft.commands.len()));
            }
            Verdict::Duplicate { placed, after: None } => Appends { placed, callers }.answer(Ok(())),
            Verdict::Duplicate { placed, after: Some(ticket) } => {
                self.duplicates.push((ticket, Appends { placed, callers }));
            }
            Verdict::Refuse(error) => Appends { placed: Vec::new(), callers }.answer(Err(error)),
        }
        Ok(())
    }

    fn judge_change(
        &mut self,
        machine: &mut Machine,
        change: Change,
        reply: Reply<Changed>,
        draft: &mut Draft,
    ) -> std::result::Result<(), StoreError> {
        let ruling = match change {
            Change::Trim(partition, before) => self.verdicts.trim(machine, partition, before)?,
            Change::CreateTopic(name, config) => self.verdicts.judge(machine, Command::CreateTopic { name, config })?,
            Change::AlterTopic(name, change) => self.verdicts.judge(machine, Command::AlterTopic { name, change })?,
            Change::DeleteTopic(name) => self.verdicts.judge(machine, Command::DeleteTopic { name })?,
            Change::Seek(group, offset) => self.verdicts.judge(machine, Command::Seek { group, offset })?,
            Change::DeleteGroup(group) => self.verdicts.judge(machine, Command::DeleteGroup { group })?,
        };
        match ruling {
            Ruling::Propose(command, ticket) => {
                draft.waiters.push(Waiter::Change(reply, draft.commands.len()));
                draft.push(command, ticket);
            }
            Ruling::Known(outcome) => drop(reply.send(changed(&outcome))),
        }
        Ok(())
    }

    /// Entry `number` is applied, and with it all before it: callers are answered.
    pub fn land(&mut self, number: u64, outcomes: Vec<Outcome>) -> Option<Landed> {
        let entry = self.in_flight.pop_front_if(|first| first.number == number)?;
        let is_mismatch = !self.verdicts.applied(entry.ticket, &outcomes);
        let mut own = Vec::new();
        for waiter in entry.waiters {
            match waiter {
                Waiter::Appends(appends, commands) => {
                    let outcomes = outcomes.get(commands).unwrap_or_default();
                    appends.answer(outcomes.iter().try_for_each(stored));
                }
                Waiter::Change(reply, command) => {
                    let outcome = outcomes.get(command).map_or_else(|| Err(no_outcome()), changed);
                    let _ = reply.send(outcome);
                }
                Waiter::Own(purpose, command) => own.push((purpose, command)),
            }
        }
        let ticket = entry.ticket;
        let (landed, flying) =
            std::mem::take(&mut self.duplicates).into_iter().partition(|(after, _)| *after <= ticket);
        self.duplicates = flying;
        let landed: Vec<(Ticket, Appends)> = landed;
        landed.into_iter().for_each(|(_, appends)| appends.answer(Ok(())));
        Some(Landed { proposal: entry.proposal, outcomes, own, is_mismatch })
    }

    /// Entry `number` ended otherwise: callers are told `error`. Answers the shard's own purposes,
    /// and the commands that are not known to have happened.
    pub fn fail(&mut self, number: u64, error: &Error) -> (Vec<Purpose>, Vec<Command>) {
        let at = self.in_flight.iter().position(|entry| entry.number == number);
        let Some(entry) = at.and_then(|at| self.in_flight.remove(at)) else { return Default::default() };
        let mut own = Vec::new();
        for waiter in entry.waiters {
            match waiter {
                Waiter::Appends(appends, _) => appends.answer(Err(error.clone())),
                Waiter::Change(reply, _) => drop(reply.send(Err(error.clone()))),
                Waiter::Own(purpose, _) => own.push(purpose),
            }
        }
        // What was found to be a duplicate of it may be stored or not.
        for (_, appends) in std::mem::take(&mut self.duplicates) {
            appends.answer(Err(error.clone()));
        }
        (own, entry.proposal.entry().commands.clone())
    }

    /// The shard stops: whoever still waits is told `error`, and nothing of it is stored.
    pub fn refuse_waiting(&mut self, error: &Error) {
        self.waiting_bytes = 0;
        for wanted in std::mem::take(&mut self.waiting) {
            match wanted {
                Wanted::Append(pending) => drop(pending.caller.reply.send(Err(error.clone()))),
                Wanted::Change(_, reply) => drop(reply.send(Err(error.clone()))),
                Wanted::Own(..) => {}
            }
        }
    }

    /// Drops what of the shard's own waits: another term will ask for it again.
    pub fn drop_own(&mut self) {
        self.waiting.retain(|wanted| !matches!(wanted, Wanted::Own(..)));
        self.waiting_bytes = self.waiting.iter().map(Wanted::size).sum();
    }
}

struct Draft {
    commands: Vec<Command>,
    waiters: Vec<Waiter>,
    ticket: Ticket,
    known: Vec<(Purpose, Outcome)>,
}

impl Draft {
    fn push(&mut self, command: Command, ticket: Ticket) {
        self.commands.push(command);
        self.ticket = self.ticket.max(ticket);
    }
}

impl Wanted {
    /// The bytes that it adds to an entry, about.
    fn size(&self) -> usize {
        match self {
            Wanted::Append(pending) => {
                let append = &pending.append;
                let numbers = append.producer.as_ref().map_or(0, |producer| 40 + 20 * producer.numbers.len());
                128 + append.batch.len() + 17 * append.dedup.len() + numbers
            }
            Wanted::Change(..) => 512,
            Wanted::Own(command, _) => command.size(),
        }
    }
}

impl Appends {
    /// Tells each caller where its own records are, or the error.
    fn answer(self, result: Result<()>) {
        for (caller, records) in self.callers {
            let answer = match &result {
                Ok(()) => self.placed.get(records).map(<[Placed]>::to_vec).ok_or_else(no_outcome),
                Err(error) => Err(error.clone()),
            };
            // A caller that is gone has its records stored all the same.
            let _ = caller.reply.send(answer);
        }
    }
}

fn no_outcome() -> Error {
    Error::internal("the entry was applied without an outcome for this request: whether it is stored is unknown")
}

fn stored(outcome: &Outcome) -> Result<()> {
    match outcome {
        Outcome::Appended { .. } | Outcome::Numbered => Ok(()),
        Outcome::Refused(error) => Err(error.clone()),
        other => Err(Error::internal(format!("a batch was not stored: {other:?}"))),
    }
}

fn changed(outcome: &Outcome) -> Result<Changed> {
    match outcome {
        Outcome::Topic { info, new } => Ok(Changed::Topic(info.clone(), *new)),
        Outcome::Refused(error) => Err(error.clone()),
        Outcome::TopicDeleted { .. }
        | Outcome::Trimmed { .. }
        | Outcome::GroupDeleted { .. }
        | Outcome::Sought { .. }
        | Outcome::Group { .. } => Ok(Changed::Done),
        other => Err(Error::internal(format!("a change came to {other:?}"))),
    }
}
