//! The leader loop: one task a shard, through which all that changes the shard passes.
//!
//! It owns the proposer and the delivery, and waits for nothing but events: requests, ends of
//! proposals, reads and publishes that it sent off, time. Files are never touched here.

mod asks;
mod ids;
mod leading;
mod proposals;

use std::sync::Arc;
use std::time::Duration;

use gem_store::StoreError;
use gem_types::batch::RecordBatch;
use gem_types::{Offset, Result};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

pub(crate) use ids::IdsCharge;

use super::delivery::{Delivery, Errand};
use super::requests::Request;
use super::shared::{Shared, Status};
use super::upkeep::ClockWatch;
use crate::dispatch::{FetchId, Now};
use crate::leader::proposer::Proposer;
use crate::log::{DeadLetters, GroupRef};
use crate::raft::group::{Changes, Group};
use crate::raft::state_machine::TermBegan;
use crate::raft::types::Ended;
use crate::watch;

/// Between rounds of retention and expiry.
const UPKEEP: Duration = Duration::from_secs(5);
/// Between looks for callers that are gone and for a group that has died.
const SWEEP: Duration = Duration::from_secs(1);
/// Between looks whether an election that was won has become known.
const LEAD_RETRY: Duration = Duration::from_millis(20);
/// A leader that has been unsure of it for so long tells whoever waits to ask elsewhere.
const UNSURE_MAX: Duration = Duration::from_secs(1);
/// Requests taken in before the loop does what they call for.
const TAKEN_MAX: usize = 1_024;
/// How long a stop waits for what is in flight.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// What was sent off and came back.
enum Back {
    Fetched(FetchId, Result<Vec<RecordBatch>>),
    DeadLettered(GroupRef, Offset, Result<()>),
    Flushed(std::result::Result<(), StoreError>),
    /// The log may be let go of up to there.
    Purgeable(u64),
}

enum Event {
    Stop,
    Began(TermBegan),
    Changed,
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
    pub changes: Changes,
    pub requests: mpsc::Receiver<Request>,
    pub began: mpsc::UnboundedReceiver<TermBegan>,
    pub ended_to: mpsc::UnboundedSender<Ended>,
    pub ended: mpsc::UnboundedReceiver<Ended>,
    /// Somebody wants the log purged.
    pub purge: Arc<Notify>,
    pub stop: watch::Receiver<bool>,
    /// Index flushes happen each time so many bytes were applied.
    pub flush_bytes: u64,
    /// What the ids that the shard remembers take of the node's memory.
    pub ids: IdsCharge,
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
    /// It leads, but another replica may lead as well by now: deliveries wait.
    is_unsure: bool,
    /// The last term in which judging was stopped, and when.
    lost: Option<(u64, Instant)>,
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
            () = self.changes.next() => Event::Changed,
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
            Event::Changed => self.changed()?,
            Event::Ended(ended) => self.ended(ended)?,
            Event::Back(Back::Fetched(id, result)) => self.delivery.fetched(id, result, self.now()),
            Event::Back(Back::DeadLettered(group, offset, result)) => {
                self.delivery.dead_lettered(&group, offset, result, self.now());
            }
            Event::Back(Back::Purgeable(index)) => {
                // Once: what is durable meanwhile is for the next time.
                self.group.purge_to(index).await.map_err(|e| e.to_string())?;
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
        if self.tasks.candidate.is_some() || self.tasks.is_unsure {
            wake = wake.min(now + LEAD_RETRY);
        }
        if self.tasks.is_unsure {
            // What is due waits for a sign of the others.
            return wake;
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
        if self.tasks.leading.is_some() && self.group.unsure_for() > UNSURE_MAX {
            self.lose();
        }
        if self.tasks.sweep_at.is_some_and(|at| at <= now) {
            self.tasks.sweep_at = None;
            self.delivery.sweep(self.now());
            let machine = crate::raft::state_machine::lock(&self.shared.machine).map_err(|e| e.to_string())?;
            self.ids.set(machine.ids_bytes());
            drop(machine);
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
        if self.group.unsure_for().is_zero() {
            self.delivery.drain(self.now(), &mut Vec::new());
        }
        self.delivery.lose();
        self.delivery.drain(self.now(), &mut Vec::new());
        self.shared.tails.wake_all();
        self.tasks.away.shutdown().await;
        self.shared.outgoing.clear();
        tracing::info!(group = %self.shared.group, prefix = %self.shared.prefix(), "shard stopped: {reason}");
    }
}
