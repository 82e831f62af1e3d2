//! What callers ask of the loop, and the errands that dispatch sends it on.

use gem_store::StoreError;
use gem_types::batch::RecordBatch;
use gem_types::{Error, Offset, PartitionId, Result};

use super::{Back, LeaderLoop};
use crate::dispatch::{FetchId, Now};
use crate::leader::proposer::{Purpose, Wanted};
use crate::log::{DeadLetter, GroupRef};
use crate::raft::state_machine::lock;
use crate::shard::delivery::Errand;
use crate::shard::requests::{Change, Request};

impl LeaderLoop {
    pub(super) fn request(&mut self, request: Request) -> std::result::Result<(), StoreError> {
        let now = self.now();
        match request {
            Request::Append(pending) => self.proposer.push(Wanted::Append(pending)),
            Request::Change(change, reply) => {
                if let Change::Seek(group, _) | Change::DeleteGroup(group) = &change {
                    // What dispatch has noted so far goes into the log before it.
                    self.deliver()?;
                    if self.tasks.is_unsure {
                        let _ = reply.send(Err(self.shared.unavailable("its leader hears from no majority")));
                        return Ok(());
                    }
                    self.delivery.freeze(group);
                }
                self.proposer.push(Wanted::Change(change, reply));
            }
            Request::Pull(pull, reply) => {
                if self.tasks.leading.is_none() {
                    let _ = reply.send(Err(self.shared.unavailable("it has no leader yet")));
                    return Ok(());
                }
                let mut machine = lock(&self.shared.machine)?;
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
                let mut machine = lock(&self.shared.machine)?;
                let _ = reply.send(self.delivery.infos(&mut machine, &topic, partition)?);
            }
            Request::Group(group, reply) => {
                let mut machine = lock(&self.shared.machine)?;
                let _ = reply.send(self.delivery.info(&mut machine, &group)?);
            }
        }
        Ok(())
    }

    /// Carries out what dispatch asks for. Nothing goes out while another replica may lead: it
    /// knows nothing of what is leased here, and this one nothing of its seeks.
    pub(super) fn deliver(&mut self) -> std::result::Result<(), StoreError> {
        self.tasks.is_unsure = self.tasks.leading.is_some() && !self.group.unsure_for().is_zero();
        if self.tasks.is_unsure {
            return Ok(());
        }
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
                let letter = self.letter(&group, offset, &batch, index);
                self.tasks.away.spawn(async move {
                    let result = match letter {
                        Ok(letter) => publisher.publish(letter).await,
                        Err(error) => Err(error),
                    };
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

    fn letter(&self, group: &GroupRef, offset: Offset, batch: &RecordBatch, index: u32) -> Result<DeadLetter> {
        let topic = group.topic.dead_letters(&group.group)?;
        let damaged = |e| Error::internal(format!("the dead letter at offset {offset} can't be read: {e}"));
        let record = batch.split(index..index.saturating_add(1)).map_err(damaged)?.to_bytes();
        let failed = |e: StoreError| Error::internal(format!("the group of a dead letter can't be read: {e}"));
        let mut machine = lock(&self.shared.machine).map_err(|e| Error::internal(e.to_string()))?;
        let state = machine.group(group).map_err(failed)?;
        // Dispatch publishes what the log says is moving; a group that is being deleted is gone.
        let found = state.and_then(|state| Some((state.life, state.move_of(offset)?)));
        let (life, (number, settled)) = found.ok_or_else(|| Error::unavailable("the message is not moving", 100))?;
        Ok(DeadLetter { topic, source: group.partition, offset, life, number, settled, record })
    }
}
