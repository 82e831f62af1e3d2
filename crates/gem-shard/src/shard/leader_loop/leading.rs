//! Beginning to lead, losing it, and what a leader proposes by itself.

use std::time::Duration;

use gem_store::StoreError;
use tokio::time::Instant;

use super::LeaderLoop;
use crate::leader::proposer::{Purpose, Wanted};
use crate::raft::group::Leads;
use crate::raft::state_machine::lock;
use crate::shard::shared::Status;

/// How long a leader that had to stop judging waits before it judges again in the same term.
const LOST_PAUSE: Duration = Duration::from_millis(200);

impl LeaderLoop {
    /// Proposes the cuts and expiries that are due.
    pub(super) fn keep_up(&mut self) -> std::result::Result<(), StoreError> {
        let wall_ms = self.shared.clock.wall_ms();
        let may_cut = self.tasks.clocks.may_cut(wall_ms, self.shared.clock.monotonic());
        if self.tasks.leading.is_none() || !may_cut || self.proposer.is_keeping_up() {
            return Ok(());
        }
        let due = lock(&self.shared.machine)?.upkeep(wall_ms)?;
        for command in due {
            self.proposer.push(Wanted::Own(command, Purpose::Upkeep));
        }
        Ok(())
    }

    /// Begins to lead where a term began that is this replica's.
    pub(super) fn try_lead(&mut self) -> std::result::Result<(), String> {
        let Some(term) = self.tasks.candidate else { return Ok(()) };
        match self.group.leads() {
            Leads::Here(led) if led == term => {}
            // Another's, or an old one.
            Leads::Here(_) | Leads::Elsewhere(..) => {
                self.tasks.candidate = None;
                self.follow();
                return Ok(());
            }
            Leads::Unknown => return Ok(()),
        }
        if self.tasks.lost.is_some_and(|(lost, at)| lost == term && at.elapsed() < LOST_PAUSE) {
            // Leadership is being handed over, or can't be held: a moment shows which.
            return Ok(());
        }
        if !self.group.unsure_for().is_zero() {
            // Another replica may lead by now.
            return Ok(());
        }
        if !self.proposer.is_idle() {
            // What the old term left in flight ends first.
            return Ok(());
        }
        self.tasks.candidate = None;
        self.proposer.drop_own();
        self.proposer.begin(term);
        let now = self.now();
        let mut machine = lock(&self.shared.machine).map_err(|e| e.to_string())?;
        self.delivery.lead(&mut machine, term, now).map_err(|e| e.to_string())?;
        drop(machine);
        self.tasks.leading = Some(term);
        self.shared.status.send_replace(Status::Leading { term });
        tracing::debug!(group = %self.shared.group, term, "the shard's leader begins");
        Ok(())
    }

    /// Leader, term or membership has changed.
    pub(super) fn changed(&mut self) -> std::result::Result<(), String> {
        match (self.tasks.leading, self.group.leads()) {
            (Some(led), Leads::Here(term)) if led == term => {}
            (Some(_), _) => {
                self.lose();
                self.try_lead()?;
            }
            (None, Leads::Here(_)) => {}
            (None, _) if self.tasks.candidate.is_none() => self.follow(),
            (None, _) => self.try_lead()?,
        }
        self.group.tick_where_needed();
        Ok(())
    }

    /// Tells whoever asks that another replica leads, or that nobody does.
    fn follow(&mut self) {
        let status = match self.group.leads() {
            Leads::Elsewhere(leader, term) => Status::Following { leader, term },
            _ => Status::Starting,
        };
        if let Status::Following { .. } = status {
            let refusal = self.shared.unavailable("another replica leads");
            self.proposer.refuse_waiting(&refusal);
        }
        if *self.shared.status.borrow() != status {
            self.shared.status.send_replace(status);
        }
    }

    /// Stops judging: the term is over, or can't be gone on with.
    pub(super) fn lose(&mut self) {
        if let Some(term) = self.tasks.leading.take() {
            tracing::info!(group = %self.shared.group, term, "the shard's leader stops judging");
            self.shared.status.send_replace(Status::Starting);
            self.delivery.lose();
            self.tasks.lost = Some((term, Instant::now()));
            // If this replica still leads, it goes on once nothing is in flight any more.
            self.tasks.candidate = Some(term);
        }
    }
}
