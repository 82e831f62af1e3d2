//! Proposals: from what waits to entries, and from entries that ended to answers.

use std::time::Duration;

use gem_store::StoreError;
use gem_types::{Error, Offset, Result};
use openraft::errors::ClientWriteError;

use super::{Back, LeaderLoop};

use crate::leader::proposer::{Landed, Purpose};
use crate::machine::Outcome;
use crate::raft::state_machine::lock;
use crate::raft::types::Ended;

/// How long a virtual snapshot may take.
const SNAPSHOT_WAIT: Duration = Duration::from_secs(5);

impl LeaderLoop {
    /// Makes entries of what waits, as long as another may fly.
    pub(super) async fn propose(&mut self) -> std::result::Result<(), String> {
        while let Some(term) = self.tasks.leading
            && self.proposer.is_ready()
        {
            let has_room = self.shared.journal.room().publish_ok;
            let now_ms = self.shared.clock.wall_ms();
            let gathered = {
                let mut machine = lock(&self.shared.machine).map_err(|e| e.to_string())?;
                self.ids.set(machine.ids_bytes());
                self.proposer.set_ids_elsewhere(self.ids.elsewhere());
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
                    let machine = lock(&self.shared.machine);
                    let mut machine = machine.map_err(|e| e.to_string())?;
                    self.delivery.made(&mut machine, group, now).map_err(|e| e.to_string())?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A proposal ended.
    pub(super) fn ended(&mut self, (number, result): Ended) -> std::result::Result<(), String> {
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
        let mut machine = lock(&self.shared.machine)?;
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

    pub(super) async fn purge_log(&mut self) -> std::result::Result<(), String> {
        // A replica that takes in a snapshot goes on from there with the log: held for it, as long
        // as the journal has room.
        if self.shared.outgoing.is_busy() && self.shared.journal.room().publish_ok {
            return Ok(());
        }
        if let Some(index) = self.group.purge().await.map_err(|e| e.to_string())? {
            let group = self.group.clone();
            self.tasks.away.spawn(async move {
                group.snapshot_at(index, SNAPSHOT_WAIT).await;
                Back::Purgeable(index)
            });
        }
        Ok(())
    }
}

fn as_result(outcome: &Outcome) -> Result<()> {
    outcome.refusal().map_or(Ok(()), |error| Err(error.clone()))
}
