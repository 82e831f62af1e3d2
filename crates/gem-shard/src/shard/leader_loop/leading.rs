//! Beginning to lead, losing it, and what a leader proposes by itself.

use gem_store::StoreError;

use super::LeaderLoop;
use crate::leader::proposer::{Purpose, Wanted};
use crate::raft::group::Leads;
use crate::raft::state_machine::lock;
use crate::shard::shared::Status;

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
        let mut machine = lock(&self.shared.machine).map_err(|e| e.to_string())?;
        self.delivery.lead(&mut machine, term, now).map_err(|e| e.to_string())?;
        drop(machine);
        self.tasks.leading = Some(term);
        self.shared.status.send_replace(Status::Leading { term });
        tracing::debug!(group = %self.shared.group, term, "the shard's leader begins");
        Ok(())
    }

    /// Stops judging: the term is over, or can't be gone on with.
    pub(super) fn lose(&mut self) {
        if let Some(term) = self.tasks.leading.take() {
            tracing::info!(group = %self.shared.group, term, "the shard's leader stops judging");
            self.shared.status.send_replace(Status::Starting);
            self.delivery.lose();
            // If this replica still leads, it goes on once nothing is in flight any more.
            self.tasks.candidate = Some(term);
        }
    }
}
