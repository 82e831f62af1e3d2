//! The leader loop: one task a shard, through which all that changes the shard passes.
//!
//! It owns the proposer and the delivery, and waits for nothing but events: requests, ends of
//! proposals, reads and publishes that it sent off, time. Files are never touched here.

use std::sync::Arc;
use std::time::Duration;

use gem_store::StoreError;
use gem_types::batch::RecordBatch;
use gem_types::{Error, Offset, PartitionId, Result};
use openraft::errors::ClientWriteError;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::delivery::{Delivery, Errand};
use super::requests::{Change, Request};
use super::shared::{Shared, Status};
use super::upkeep::ClockWatch;
use crate::dispatch::{FetchId, Now};
use crate::leader::proposer::{Landed, Proposer, Purpose, Wanted};
use crate::log::{DeadLetters, GroupRef};
use crate::machine::Outcome;
use crate::raft::group::{Group, Leads};
use crate::raft::state_machine::TermBegan;
use crate::raft::types::Ended;

/// Between rounds of retention and expiry.
const UPKEEP: Duration = Duration::from_secs(5);
/// Between looks for callers that are gone and for a group that has died.
const SWEEP: Duration = Duration::from_secs(1);
/// Between looks whether an election that was won has become known.
const LEAD_RETRY: Duration = Duration::from_millis(20);
/// Requests taken in before the loop does what they call for.
const TAKEN_MAX: usize = 1_024;
/// How long a stop waits for what is in flight.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// What was sent off and came back.
enum Back {
    Fetched(FetchId, Result<Vec<RecordBatch>>),
    DeadLettered(GroupRef, Offset, Result<()>),
    Flushed(std::result::Result<(), StoreError>),
}

enum Event {
    Stop,
    Began(TermBegan),
    Ended(Ended),
    Back(Back),
    Request(Request),
    Purge,
    Time,
}

/// The loop and what it owns.
pub(crate) struct LeaderLoop {
    pub shared: Arc<Shared>,
    pub group: Arc<Group>,
    pub dead_letters: Arc<dyn DeadLetters>,
    pub requests: mpsc::Receiver<Request>,
    pub began: mpsc::UnboundedReceiver<TermBegan>,
    pub ended_to: mpsc::UnboundedSender<Ended>,
    pub ended: mpsc::UnboundedReceiver<Ended>,
    /// Somebody wants the log purged.
    pub purge: Arc<Notify>,
    pub stop: watch::Receiver<bool>,
    /// Index flushes happen each time so many bytes were applied.
    pub flush_bytes: u64,
    pub proposer: Proposer,
    pub delivery: Delivery,
    pub tasks: LoopTasks,
}

/// What the loop keeps beside.
#[derive(Default)]
pub(crate) struct LoopTasks {
    away: JoinSet<Back>,
    errands: Vec<Errand>,
    clocks: ClockWatch,
    /// A term that began, until it is known who leads in it.
    candidate: Option<u64>,
    leading: Option<u64>,
    upkeep_at: Option<Instant>,
    sweep_at: Option<Instant>,
    bytes_unflushed: u64,
    is_flushing: bool,
}

impl LeaderLoop {
    /// Runs until told to stop, or until the group dies.
    pub async fn run(mut self) {
        let reason = loop {
            match self.next().await {
                Event::Stop => break "it is stopping".to_owned(),
                event => {
                    if let Err(reason) = self.turn(event).await {
                        break reason;
                    }
                }
            }
        };
        self.end(reason).await;
    }

    async fn next(&mut self) -> Event {
        let is_full = self.proposer.is_full();
        let wake = self.wake_at();
        tokio::select! {
            biased;
            _ = self.stop.wait_for(|stop| *stop) => Event::Stop,
            Some(ended) = self.ended.recv() => Event::Ended(ended),
            Some(began) = self.began.recv() => Event::Began(began),
            Some(back) = self.tasks.away.join_next(), if !self.tasks.away.is_empty() => match back {
                Ok(back) => Event::Back(back),
                // A task that panicked: its asker times out or asks again.
                Err(_) => Event::Time,
            },
            () = self.purge.notified() => Event::Purge,
            Some(request) = self.requests.recv(), if !is_full => Event::Request(request),
            () = tokio::time::sleep_until(wake) => Event::Time,
        }
    }

    /// One event and what it calls for. An error ends the loop.
    async fn turn(&mut self, event: Event) -> std::result::Result<(), String> {
        self.handle(event).await?;
        // What has come meanwhile is handled in the same turn: fewer, larger entries.
        for _ in 0..TAKEN_MAX {
            let more = if let Ok(ended) = self.ended.try_recv() {
                Event::Ended(ended)
            } else if self.proposer.is_full() {
                break;
            } else if let Ok(request) = self.requests.try_recv() {
                Event::Request(request)
            } else {
                break;
            };
            self.handle(more).await?;
        }
        // Under load time is never the only event.
        self.time()?;
        self.deliver().map_err(|e| e.to_string())?;
        self.propose().await
    }

    async fn handle(&mut self, event: Event) -> std::result::Result<(), String> {
        match event {
            Event::Stop => {}
            Event::Began(began) => {
                self.tasks.candidate = Some(began.term);
                self.try_lead()?;
            }
            Event::Ended(ended) => self.ended(ended)?,
            Event::Back(Back::Fetched(id, result)) => self.delivery.fetched(id, result, self.now()),
            Event::Back(Back::DeadLettered(group, offset, result)) => {
                self.delivery.dead_lettered(&group, offset, result, self.now());
            }
            Event::Back(Back::Flushed(result)) => {
                self.tasks.is_flushing = false;
                result.map_err(|e| format!("its index can't be flushed: {e}"))?;
                self.purge_log().await?;
            }
            Event::Request(request) => self.request(request).map_err(|e| e.to_string())?,
            Event::Purge => self.purge_log().await?,
            Event::Time => {}
        }
        Ok(())
    }

    fn now(&self) -> Now {
        let mono_ms = u64::try_from(self.shared.clock.monotonic().as_millis()).unwrap_or(u64::MAX);
        Now { mono_ms, wall_ms: self.shared.clock.wall_ms() }
    }

    fn wake_at(&mut self) -> Instant {
        let now = Instant::now();
        let sweep = *self.tasks.sweep_at.get_or_insert(now + SWEEP);
        let upkeep = *self.tasks.upkeep_at.get_or_insert(now + UPKEEP);
        let mut wake = sweep.min(upkeep);
        if self.tasks.candidate.is_some() {
            wake = wake.min(now + LEAD_RETRY);
        }
        if let Some(due_ms) = self.delivery.next_deadline() {
            let wait_ms = due_ms.saturating_sub(self.now().mono_ms);
            wake = wake.min(now + Duration::from_millis(wait_ms.min(SWEEP.as_millis() as u64)));
        }
        wake
    }

    fn time(&mut self) -> std::result::Result<(), String> {
        let now = Instant::now();
        self.try_lead()?;
        if self.tasks.sweep_at.is_some_and(|at| at <= now) {
            self.tasks.sweep_at = None;
            self.delivery.sweep(self.now());
            if let Some(failure) = self.group.failure() {
                return Err(failure);
            }
        }
        if self.tasks.upkeep_at.is_some_and(|at| at <= now) {
            self.tasks.upkeep_at = None;
            self.keep_up().map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// Proposes the cuts and expiries that are due.
    fn keep_up(&mut self) -> std::result::Result<(), StoreError> {
        let wall_ms = self.shared.clock.wall_ms();
        let may_cut = self.tasks.clocks.may_cut(wall_ms, self.shared.clock.monotonic());
        if self.tasks.leading.is_none() || !may_cut || self.proposer.is_keeping_up() {
            return Ok(());
        }
        let due = crate::raft::state_machine::lock(&self.shared.machine)?.upkeep(wall_ms)?;
        for command in due {
            self.proposer.push(Wanted::Own(command, Purpose::Upkeep));
        }
        Ok(())
    }

    /// Begins to lead where a term began that is this replica's.
    fn try_lead(&mut self) -> std::result::Result<(), String> {
        let Some(term) = self.tasks.candidate else { return Ok(()) };
        match self.group.leads() {
            Leads::Here(led) if led == term => {}
            // Another's, or an old one.
            Leads::Here(_) | Leads::Elsewhere => {
                self.tasks.candidate = None;
                return Ok(());
            }
            Leads::Unknown => return Ok(()),
        }
        if !self.proposer.is_idle() {
            // What the old term left in flight ends first.
            return Ok(());
        }
        self.tasks.candidate = None;
        self.proposer.drop_own();
        self.proposer.begin(term);
        let now = self.now();
        let mut machine = crate::raft::state_machine::lock(&self.shared.machine).map_err(|e| e.to_string())?;
        self.delivery.lead(&mut machine, term, now).map_err(|e| e.to_string())?;
        drop(machine);
        self.tasks.leading = Some(term);
        self.shared.status.send_replace(Status::Leading { term });
        tracing::debug!(group = %self.shared.group, term, "the shard's leader begins");
        Ok(())
    }

    /// Stops judging: the term is over, or can't be gone on with.
    fn lose(&mut self) {
        if let Some(term) = self.tasks.leading.take() {
            tracing::info!(group = %self.shared.group, term, "the shard's leader stops judging");
            self.shared.status.send_replace(Status::Starting);
            self.delivery.lose();
            // If this replica still leads, it goes on once nothing is in flight any more.
            self.tasks.candidate = Some(term);
        }
    }

    fn request(&mut self, request: Request) -> std::result::Result<(), StoreError> {
        let now = self.now();
        match request {
            Request::Append(pending) => self.proposer.push(Wanted::Append(pending)),
            Request::Change(change, reply) => {
                if let Change::Seek(group, _) | Change::DeleteGroup(group) = &change {
                    // What dispatch has noted so far goes into the log before it.
                    self.deliver()?;
                    self.delivery.freeze(group);
                }
                self.proposer.push(Wanted::Change(change, reply));
            }
            Request::Pull(pull, reply) => {
                if self.tasks.leading.is_none() {
                    let _ = reply.send(Err(self.shared.unavailable("it has no leader yet")));
                    return Ok(());
                }
                let mut machine = crate::raft::state_machine::lock(&self.shared.machine)?;
                let errand = self.delivery.pull(&mut machine, pull, reply, now)?;
                drop(machine);
                self.tasks.errands.extend(errand);
            }
            Request::Settle(group, verbs, reply) => self.delivery.settle(&group, &verbs, reply, now),
            Request::Heartbeat(group, consumer, reply) => {
                let _ = reply.send(self.delivery.heartbeat(&group, &consumer, now));
            }
            Request::CloseStream(group, consumer, stream, reply) => {
                self.delivery.close_stream(&group, &consumer, stream, now);
                let _ = reply.send(Ok(()));
            }
            Request::Groups(topic, partition, reply) => {
                let mut machine = crate::raft::state_machine::lock(&self.shared.machine)?;
                let _ = reply.send(self.delivery.infos(&mut machine, &topic, partition)?);
            }
            Request::Group(group, reply) => {
                let mut machine = crate::raft::state_machine::lock(&self.shared.machine)?;
                let _ = reply.send(self.delivery.info(&mut machine, &group)?);
            }
        }
        Ok(())
    }

    /// Carries out what dispatch asks for.
    fn deliver(&mut self) -> std::result::Result<(), StoreError> {
        loop {
            let now = self.now();
            let mut errands = std::mem::take(&mut self.tasks.errands);
            self.delivery.drain(now, &mut errands);
            if errands.is_empty() {
                self.tasks.errands = errands;
                return Ok(());
            }
            for errand in errands {
                self.run_errand(errand, now);
            }
        }
    }

    fn run_errand(&mut self, errand: Errand, now: Now) {
        match errand {
            Errand::Propose(id, progress) => {
                let command = crate::entry::Command::Progress(progress);
                self.proposer.push(Wanted::Own(command, Purpose::Progress(id)));
            }
            Errand::MakeGroup(command) => self.proposer.push(Wanted::Own(command, Purpose::Group)),
            Errand::Fetch { id, partition, from, max_bytes } => self.fetch(id, partition, from, max_bytes, now),
            Errand::DeadLetter { group, offset, batch, index } => {
                let publisher = self.dead_letters.clone();
                self.tasks.away.spawn(async move {
                    let result = publish_dead_letter(&*publisher, &group, offset, &batch, index).await;
                    Back::DeadLettered(group, offset, result)
                });
            }
        }
    }

    fn fetch(&mut self, id: FetchId, partition: PartitionId, from: Offset, max_bytes: usize, now: Now) {
        // What is at hand needs no task.
        if let Some(batches) = self.shared.cached_from(partition, from, max_bytes) {
            return self.delivery.fetched(id, Ok(batches), now);
        }
        let shared = self.shared.clone();
        self.tasks.away.spawn(async move {
            let read = shared.batches_from(partition, from, max_bytes).await;
            Back::Fetched(id, read.map(|(batches, _)| batches))
        });
    }

    /// Makes entries of what waits, as long as another may fly.
    async fn propose(&mut self) -> std::result::Result<(), String> {
        while let Some(term) = self.tasks.leading
            && self.proposer.is_ready()
        {
            let has_room = self.shared.journal.room().publish_ok;
            let now_ms = self.shared.clock.wall_ms();
            let gathered = {
                let mut machine = crate::raft::state_machine::lock(&self.shared.machine).map_err(|e| e.to_string())?;
                self.proposer.gather(&mut machine, now_ms, has_room).map_err(|e| e.to_string())?
            };
            if let Some((number, proposal)) = gathered.proposal {
                self.tasks.bytes_unflushed += proposal.len() as u64;
                let proposed = self.group.propose(number, proposal, term, &self.ended_to).await;
                proposed.map_err(|e| e.to_string())?;
            }
            self.known(gathered.known)?;
            self.deliver().map_err(|e| e.to_string())?;
        }
        self.flush_if_due();
        Ok(())
    }

    fn known(&mut self, known: Vec<(Purpose, Outcome)>) -> std::result::Result<(), String> {
        for (purpose, outcome) in known {
            let now = self.now();
            match (purpose, &outcome) {
                (Purpose::Progress(id), _) => self.delivery.proposed(id, as_result(&outcome), now),
                (Purpose::Group, Outcome::Group { group, .. }) => {
                    let machine = crate::raft::state_machine::lock(&self.shared.machine);
                    let mut machine = machine.map_err(|e| e.to_string())?;
                    self.delivery.made(&mut machine, group, now).map_err(|e| e.to_string())?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A proposal ended.
    fn ended(&mut self, (number, result): Ended) -> std::result::Result<(), String> {
        match result {
            Some(Ok(response)) => self.landed(number, response.data.0).map_err(|e| e.to_string()),
            Some(Err(ClientWriteError::ForwardToLeader(_))) => {
                // It was not appended, and never will be.
                let error = self.shared.unavailable("its leader changed");
                self.failed(number, &error);
                Ok(())
            }
            Some(Err(error)) => {
                let error = Error::deadline(format!("whether this is stored is unknown: {error}"));
                self.failed(number, &error);
                Ok(())
            }
            None => {
                let reason = self.group.failure().unwrap_or_else(|| "its Raft group has stopped".into());
                let error = self.shared.internal(format!("whether this is stored is unknown: {reason}"));
                self.failed(number, &error);
                Err(reason)
            }
        }
    }

    fn landed(&mut self, number: u64, outcomes: Vec<Outcome>) -> std::result::Result<(), StoreError> {
        let Some(landed) = self.proposer.land(number, outcomes) else { return Ok(()) };
        let Landed { proposal, outcomes, own, is_mismatch } = landed;
        let now = self.now();
        let mut machine = crate::raft::state_machine::lock(&self.shared.machine)?;
        for (command, outcome) in proposal.entry().commands.iter().zip(&outcomes) {
            match outcome {
                Outcome::Trimmed { partition, earliest } => self.shared.tail_cache.forget_below(*partition, *earliest),
                Outcome::TopicDeleted { partitions, .. } => {
                    for partition in partitions {
                        self.shared.tail_cache.forget_below(*partition, Offset::MAX);
                    }
                    self.shared.tails.wake_all();
                }
                _ => {}
            }
            self.delivery.applied(&mut machine, command, outcome, now)?;
        }
        drop(machine);
        for (purpose, command) in own {
            if let (Purpose::Progress(id), Some(outcome)) = (purpose, outcomes.get(command)) {
                self.delivery.proposed(id, as_result(outcome), now);
            }
        }
        if is_mismatch {
            tracing::error!(group = %self.shared.group, "a batch did not continue its partition: judging anew");
            self.lose();
        }
        Ok(())
    }

    fn failed(&mut self, number: u64, error: &Error) {
        let now = self.now();
        let (own, commands) = self.proposer.fail(number, error);
        for purpose in own {
            if let Purpose::Progress(id) = purpose {
                self.delivery.proposed(id, Err(error.clone()), now);
            }
        }
        for command in &commands {
            self.delivery.failed(command, error);
        }
        self.lose();
    }

    fn flush_if_due(&mut self) {
        if self.tasks.is_flushing || self.tasks.bytes_unflushed < self.flush_bytes {
            return;
        }
        self.tasks.is_flushing = true;
        self.tasks.bytes_unflushed = 0;
        let (shared, group) = (self.shared.clone(), self.group.clone());
        self.tasks.away.spawn(async move { Back::Flushed(shared.flush_index_away(group).await) });
    }

    async fn purge_log(&mut self) -> std::result::Result<(), String> {
        self.group.purge().await.map_err(|e| e.to_string())
    }

    /// Ends what is in flight, and tells whoever waits.
    async fn end(mut self, reason: String) {
        let waits = Instant::now() + STOP_WAIT;
        self.shared.status.send_replace(Status::Stopped { reason: reason.as_str().into() });
        let refusal = self.shared.unavailable(&reason);
        self.requests.close();
        while let Ok(request) = self.requests.try_recv() {
            // Dropped replies read as "outcome unknown": what was never taken is refused instead.
            request.refuse(&refusal);
        }
        self.proposer.refuse_waiting(&refusal);
        while !self.proposer.is_idle() {
            let Ok(Some(ended)) = tokio::time::timeout_at(waits, self.ended.recv()).await else { break };
            if self.ended(ended).is_err() {
                break;
            }
        }
        // Those whose word is recorded hear it; what dispatch would do next is not done.
        self.delivery.drain(self.now(), &mut Vec::new());
        self.delivery.lose();
        self.delivery.drain(self.now(), &mut Vec::new());
        self.shared.tails.wake_all();
        self.tasks.away.shutdown().await;
        tracing::info!(group = %self.shared.group, prefix = %self.shared.prefix, "shard stopped: {reason}");
    }
}

fn as_result(outcome: &Outcome) -> Result<()> {
    outcome.refusal().map_or(Ok(()), |error| Err(error.clone()))
}

async fn publish_dead_letter(
    publisher: &dyn DeadLetters,
    group: &GroupRef,
    offset: Offset,
    batch: &RecordBatch,
    index: u32,
) -> Result<()> {
    let topic = group.topic.dead_letters(&group.group)?;
    let damaged = |e| Error::internal(format!("the dead letter at offset {offset} can't be read: {e}"));
    let record = batch.split(index..index.saturating_add(1)).map_err(damaged)?;
    publisher.publish(topic, group.partition, offset, record.to_bytes()).await
}
