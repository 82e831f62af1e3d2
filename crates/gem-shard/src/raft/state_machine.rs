//! The worker that applies committed entries to the shard's machine.
//!
//! It runs on openraft's apply task, off the leader loop. All entries of one call become one
//! write of the index; only then are proposers answered and readers woken.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::{Stream, StreamExt};
use gem_store::StoreError;
use gem_store::cache::TailCache;
use gem_store::index::locations::Location;
use gem_store::index::ordered::{OrderedStores, StoreId};
use gem_store::journal::{Journal, JournalOp, LogPos};
use gem_types::batch::RecordBatch;
use gem_types::{GroupId, PartitionId};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use tokio::sync::mpsc;

use super::log_store::{LogStore, from_pos, to_pos};
use super::mark::Mark;
use super::types::{self, Applied, LogId, Proposal, RaftEntry, SnapshotMeta, StoredMembership, TypeConfig};
use crate::entry::Command;
use crate::machine::{Machine, Outcome};
use crate::shard::tails::Tails;
use crate::snapshot::receive::Staging;
use crate::snapshot::{DurablePoint, Image, ImageSnapshot};

/// Tells the leader loop that a term's first entry is applied: the leader of that term may judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TermBegan {
    /// The term.
    pub term: u64,
    /// The index of its first entry.
    pub index: u64,
}

/// Applies entries. The machine is shared with whoever asks it something.
pub struct StateMachine {
    /// The group.
    pub group: GroupId,
    /// The state.
    pub machine: Arc<Mutex<Machine>>,
    /// Where entries lie.
    pub journal: Journal,
    /// The group's log: may let go of what is applied.
    pub log: LogStore,
    /// Takes the batches that are applied.
    pub tail_cache: Arc<TailCache>,
    /// Wakes readers.
    pub tails: Arc<Tails>,
    /// Learns of new terms. Unbounded, but elections are seconds apart.
    pub began: mpsc::UnboundedSender<TermBegan>,
    /// What is durable of the index.
    pub durable: DurablePoint,
    /// The node's stores.
    pub stores: Arc<dyn OrderedStores>,
    /// Which of the group's stores counts.
    pub mark: Arc<Mutex<Mark>>,
    /// What a snapshot is being taken into.
    pub(crate) staging: Arc<Staging>,
}

/// The machine, for one short look or change. A panic in the machine leaves it half-changed: then
/// the shard stops rather than going on with it.
pub fn lock(machine: &Mutex<Machine>) -> io::Result<MutexGuard<'_, Machine>> {
    machine.lock().map_err(|_| io::Error::other("the shard's state machine has panicked: restart the node"))
}

/// The membership that the machine holds, with the log id it came with.
pub fn membership_of(machine: &Machine) -> io::Result<StoredMembership> {
    let Some((pos, bytes)) = machine.membership() else { return Ok(StoredMembership::default()) };
    let membership = types::decode_membership(bytes.clone());
    let membership = membership.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    Ok(StoredMembership::new(Some(from_pos(*pos)), membership))
}

type ToApply = (RaftEntry, Option<ApplyResponder<TypeConfig>>);

impl StateMachine {
    /// Applies all as one write of the index; answers what each came to.
    fn apply_all(&self, entries: &[ToApply]) -> io::Result<Vec<Applied>> {
        let mut machine = lock(&self.machine)?;
        let mut applied = Vec::with_capacity(entries.len());
        for (entry, _) in entries {
            let pos = to_pos(entry.log_id);
            let outcomes = match &entry.payload {
                EntryPayload::Normal(proposal) => self.apply_one(&mut machine, pos, proposal),
                EntryPayload::Blank => machine.apply_blank(pos).map(|()| Vec::new()),
                EntryPayload::Membership(membership) => {
                    machine.apply_membership(pos, types::encode_membership(membership)).map(|()| Vec::new())
                }
            };
            applied.push(Applied(outcomes.map_err(io::Error::other)?));
        }
        machine.commit().map_err(io::Error::other)?;
        Ok(applied)
    }

    fn apply_one(&self, machine: &mut Machine, pos: LogPos, proposal: &Proposal) -> Result<Vec<Outcome>, StoreError> {
        let Some(entry) = self.journal.locate(self.group, pos.index) else {
            return Err(StoreError::Missing { group: self.group, index: pos.index });
        };
        machine.apply(pos, proposal.entry(), |command| {
            let range = proposal.batch(command)?;
            let start = u32::try_from(range.start).ok()?;
            Some(Location::Journal { entry, start, length: u32::try_from(range.len()).ok()? })
        })
    }

    /// The batches that an entry stored: (partition, batch).
    fn stored_batches<'a>(
        proposal: &'a Proposal,
        outcomes: &'a [Outcome],
    ) -> impl Iterator<Item = (PartitionId, &'a RecordBatch)> {
        proposal.entry().commands.iter().zip(outcomes).filter_map(|(command, outcome)| match command {
            Command::Append(append) if matches!(outcome, Outcome::Appended { .. }) => {
                Some((append.partition, &append.batch))
            }
            _ => None,
        })
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Image;
    type SnapshotBuilder = DurablePoint;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let machine = lock(&self.machine)?;
        let applied = machine.applied().map(from_pos);
        Ok((applied, membership_of(&machine)?))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut batch = Vec::new();
        while let Some(entry) = entries.next().await {
            batch.push(entry?);
        }
        let Some((last, _)) = batch.last() else { return Ok(()) };
        let last = last.log_id.index;
        self.log.flushed(last).await?;
        let applied = self.apply_all(&batch)?;
        for ((entry, responder), applied) in batch.into_iter().zip(applied) {
            match &entry.payload {
                EntryPayload::Normal(proposal) => {
                    for (partition, batch) in Self::stored_batches(proposal, &applied.0) {
                        self.tail_cache.put(partition, batch.clone());
                        self.tails.grew(partition, batch.next_offset());
                    }
                }
                EntryPayload::Blank => {
                    let id = entry.log_id;
                    // A loop that has ended needs no news.
                    let _ = self.began.send(TermBegan { term: id.leader_id.term, index: id.index });
                }
                EntryPayload::Membership(_) => {}
            }
            if let Some(responder) = responder {
                responder.send(applied);
            }
        }
        self.log.applied(last);
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> DurablePoint {
        self.durable.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, image: Image) -> Result<(), io::Error> {
        let Image::Staged { machine: staged, generation } = image else {
            return Err(io::Error::other(format!("a virtual snapshot up to {:?} holds no state", meta.last_log_id)));
        };
        let last = meta.last_log_id.ok_or_else(|| io::Error::other("a snapshot of nothing"))?;
        let (old, mark) = {
            let staged = lock(&staged)?;
            if staged.applied().map(from_pos) != Some(last) {
                return Err(io::Error::other(format!("a staged state is not as of {last}")));
            }
            let mark = *self.mark();
            let prefix = staged.range().unwrap_or(mark.prefix);
            (StoreId { group: self.group, generation: mark.generation }, Mark { generation, prefix, ..mark })
        };
        // The one record that makes it current: the store is complete and flushed by now.
        let ops = vec![
            JournalOp::Create { group: self.group, bytes: mark.encode() },
            JournalOp::Purge { group: self.group, id: to_pos(last) },
        ];
        self.journal.write(ops).await.map_err(io::Error::other)?;
        self.log.installed(last);
        {
            let (mut machine, mut staged) = (lock(&self.machine)?, lock(&staged)?);
            std::mem::swap(&mut *machine, &mut *staged);
        }
        *self.mark() = mark;
        self.staging.set(None);
        drop(staged);
        self.durable.raise(Some(last), meta.last_membership.clone());
        self.tails.wake_all();
        // One that is still being read goes with the next start.
        if let Err(error) = self.stores.remove_at(old) {
            tracing::debug!(store = %old, %error, "a store that was replaced stays until the next start");
        }
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<ImageSnapshot>, io::Error> {
        Ok(self.durable.snapshot())
    }
}

impl StateMachine {
    fn mark(&self) -> MutexGuard<'_, Mark> {
        // A plain value that is replaced whole.
        self.mark.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
