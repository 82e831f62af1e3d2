//! The handle: submitting, reading, and what the journal says of itself.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use gem_types::GroupId;
use gem_types::seams::Clock;

use super::counters::Counters;
use super::entries::Found;
use super::layout::{Op, RECORD_HEAD, read_record};
use super::state::{Job, Shared, State};
use super::types::{Done, GroupMarks, JournalConfig, JournalOp, JournalPlace, LogPos, Recovery, Room};
use super::writer::Writer;
use crate::StoreError;
use crate::disk::{Disk, DiskFile};

/// A handle on a node's journal. Clones share it.
#[derive(Clone)]
pub struct Journal {
    pub(super) shared: Arc<Shared>,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").finish_non_exhaustive()
    }
}

impl Journal {
    /// Opens the journal in `dir`, making it where there is none, and recovers what it holds.
    /// Nothing is flushed until something runs the [`Writer`]: [`spawn_writer_thread`] or
    /// [`run_writer`]. `clock` only measures flushes.
    ///
    /// Fails with [`StoreError::Corrupt`] where something is damaged that had been flushed.
    ///
    /// [`spawn_writer_thread`]: super::spawn_writer_thread
    /// [`run_writer`]: super::run_writer
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        config: JournalConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<(Journal, Writer), StoreError> {
        super::recovery::open(disk, dir, config, clock)
    }

    /// Queues operations; `done` is called after the flush that covers them all, or with the error
    /// that keeps them from being stored. What was submitted can be read, and shows in
    /// [`marks`](Self::marks), as soon as this returns.
    ///
    /// A refused operation ends the submission: those before it stand, those after it don't.
    /// Never blocks, and never refuses for want of room in the queue: callers first wait for
    /// [`slack`](Self::slack), and ask [`room`](Self::room) before they propose publishes.
    pub fn submit(&self, ops: Vec<JournalOp>, done: Done) {
        self.enqueue(ops.into_iter().map(Op::User), done);
    }

    pub(super) fn enqueue(&self, ops: impl Iterator<Item = Op>, done: Done) {
        let mut state = self.shared.lock();
        if let Some(error) = state.error() {
            drop(state);
            return done(Err(error));
        }
        if state.closed {
            drop(state);
            return done(Err(StoreError::poisoned("the journal is closed")));
        }
        let before = state.queue.len();
        let mut refused = None;
        for op in ops {
            if let Err(error) = state.see(op, &self.shared.config) {
                refused = Some(error);
                break;
            }
        }
        // A lazy operation wakes the writer only to start its timer.
        let wake = state.eager > 0 || before == 0;
        match refused {
            None if state.queue.len() > before => {
                if let Some(last) = state.queue.back_mut() {
                    last.done = Some(done);
                }
                drop(state);
            }
            outcome => {
                drop(state);
                done(outcome.map_or(Ok(()), Err));
            }
        }
        if wake {
            self.shared.wake_writer();
        }
    }

    /// Queues operations and waits for the flush that covers them.
    pub async fn write(&self, ops: Vec<JournalOp>) -> Result<(), StoreError> {
        let (send, receive) = tokio::sync::oneshot::channel();
        self.submit(ops, Box::new(move |outcome| drop(send.send(outcome))));
        receive.await.unwrap_or_else(|_| Err(StoreError::poisoned("the journal's writer has stopped")))
    }

    /// Waits until the queue holds less than [`JournalConfig::queue_bytes`].
    pub async fn slack(&self) {
        loop {
            let notified = self.shared.slack.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            {
                let state = self.shared.lock();
                if state.queued_bytes < self.shared.config.queue_bytes || state.poisoned.is_some() || state.closed {
                    return;
                }
            }
            notified.await;
        }
    }

    /// What the journal holds of `group`, as submitted; empty for a group it does not know.
    pub fn marks(&self, group: GroupId) -> GroupMarks {
        self.shared.lock().groups.get(&group).map(|log| log.seen.clone()).unwrap_or_default()
    }

    /// What of `group` has been flushed.
    pub fn flushed_marks(&self, group: GroupId) -> GroupMarks {
        self.shared.lock().groups.get(&group).map(|log| log.flushed.clone()).unwrap_or_default()
    }

    /// The groups that were created and not dropped, with what [`JournalOp::Create`] gave.
    pub fn groups(&self) -> Vec<(GroupId, Bytes)> {
        let state = self.shared.lock();
        state.groups.iter().filter_map(|(id, log)| Some((*id, log.seen.created.clone()?))).collect()
    }

    /// Where the payload of an entry lies; `None` where there is no such entry, or where it has not
    /// been flushed yet.
    pub fn locate(&self, group: GroupId, index: u64) -> Option<JournalPlace> {
        let state = self.shared.lock();
        match state.groups.get(&group)?.find(&state.leaders, index)? {
            Found::Stored(_, slot) => state.place(slot),
            Found::Queued(..) => None,
        }
    }

    /// The name of an entry and its payload's length, without reading it.
    pub fn entry(&self, group: GroupId, index: u64) -> Option<(LogPos, u64)> {
        let state = self.shared.lock();
        match state.groups.get(&group)?.find(&state.leaders, index)? {
            Found::Stored(id, slot) => Some((id, slot.length.into())),
            Found::Queued(id, parts) => Some((id, parts.iter().map(|part| part.len() as u64).sum())),
        }
    }

    /// Reads an entry and checks it against its CRC. One that is not flushed yet is answered from
    /// memory. Blocks on the disk.
    pub fn read_entry(&self, group: GroupId, index: u64) -> Result<(LogPos, Bytes), StoreError> {
        // A copy forward may move the entry between the look-up and the read; each try finds its
        // newer place, and a file lives for far longer than a read takes.
        for _ in 0..8 {
            let (id, place, handle) = {
                let state = self.shared.lock();
                if let Some(error) = state.error() {
                    return Err(error);
                }
                let missing = || StoreError::Missing { group, index };
                let log = state.groups.get(&group).ok_or_else(missing)?;
                match log.find(&state.leaders, index).ok_or_else(missing)? {
                    Found::Queued(id, mut parts) if parts.len() == 1 => return Ok((id, parts.remove(0))),
                    Found::Queued(id, parts) => return Ok((id, parts.concat().into())),
                    Found::Stored(id, slot) => {
                        let place = state.place(slot).ok_or_else(missing)?;
                        (id, place, state.handle(&place)?)
                    }
                }
            };
            match self.read_record(group, id, place, handle.as_ref()) {
                Err(StoreError::Moved) => continue,
                outcome => return outcome.map(|payload| (id, payload)),
            }
        }
        Err(StoreError::Moved)
    }

    fn read_record(
        &self,
        group: GroupId,
        id: LogPos,
        place: JournalPlace,
        handle: &dyn DiskFile,
    ) -> Result<Bytes, StoreError> {
        let start = place.position - RECORD_HEAD as u64;
        let mut record = vec![0; RECORD_HEAD + place.length as usize];
        let got = handle.read_at(&mut record, start)?;
        self.check_generation(&place)?;
        match read_record(record.get(..got).unwrap_or_default(), place.generation, start) {
            Some(head) if head.group == group && head.id == id && head.length == place.length => {
                Ok(Bytes::from(record).slice(RECORD_HEAD..))
            }
            _ => Err(StoreError::Corrupt {
                file: super::segment::file_name(place.file),
                position: start,
                what: format!("entry {id} of group {group} does not read as it was written"),
            }),
        }
    }

    /// Reads `range` of the payload at `place`; [`StoreError::Moved`] where the file has been
    /// recycled since. The caller checks what it reads (a record batch carries its own CRC): only
    /// whole payloads can be checked here, and are. Blocks on the disk.
    pub fn read(&self, place: JournalPlace, range: Range<usize>) -> Result<Bytes, StoreError> {
        let handle = self.shared.lock().handle(&place)?;
        if range.start > range.end || range.end > place.length as usize {
            return Err(StoreError::Refused(format!(
                "{range:?} lies outside of the {} bytes at {place:?}",
                place.length
            )));
        }
        let mut bytes = vec![0; range.len()];
        let got = handle.read_at(&mut bytes, place.position + range.start as u64)?;
        self.check_generation(&place)?;
        if got < bytes.len() {
            return Err(StoreError::Corrupt {
                file: super::segment::file_name(place.file),
                position: place.position,
                what: "the file ends within an entry".into(),
            });
        }
        Ok(bytes.into())
    }

    fn check_generation(&self, place: &JournalPlace) -> Result<(), StoreError> {
        self.shared.lock().handle(place).map(drop)
    }

    /// How much can still be journaled: to be asked before publishes are proposed.
    pub fn room(&self) -> Room {
        self.shared.lock().room(&self.shared.config)
    }

    /// The error that every operation gets since a write or flush failed; `None` while all is well.
    pub fn poisoned(&self) -> Option<StoreError> {
        self.shared.lock().error()
    }

    /// What the start found.
    pub fn recovery(&self) -> &Recovery {
        &self.shared.recovery
    }

    /// Totals for metrics.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Tells the writer to flush what is queued and then to stop. Later operations are refused.
    pub fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.wake_writer();
        self.shared.slack.notify_waiters();
    }
}

impl State {
    /// Advances the seen view and queues the operation.
    fn see(&mut self, op: Op, config: &JournalConfig) -> Result<(), StoreError> {
        let size = op.record_len();
        if size > config.entry_max() {
            return Err(StoreError::TooLarge { size, max: config.entry_max() });
        }
        let ticket = self.next_ticket;
        let State { groups, leaders, .. } = self;
        let mut cuts = false;
        if let Op::User(user) = &op {
            let log = groups.entry(user.group()).or_default();
            if log.seen.tombstone && !matches!(user, JournalOp::Create { .. }) {
                return Err(StoreError::Refused(format!("group {} was dropped", user.group())));
            }
            match user {
                JournalOp::Append { id, parts, .. } => {
                    leaders.number(id);
                    cuts = log.see_append(leaders, *id, parts.clone(), ticket)?;
                }
                JournalOp::Vote { vote, .. } => log.seen.vote = Some(vote.clone()),
                JournalOp::Commit { id, .. } => log.seen.committed = Some(*id),
                JournalOp::Truncate { after, .. } => {
                    log.see_truncate(leaders, after.map_or(0, |after| after.saturating_add(1)));
                }
                JournalOp::Purge { id, .. } => log.see_purge(*id),
                JournalOp::Create { bytes, .. } => log.seen.create(bytes),
                JournalOp::Tombstone { .. } => log.see_tombstone(),
            }
        }
        self.next_ticket += 1;
        self.queued_bytes += size as usize;
        self.eager += usize::from(!op.is_lazy());
        self.queue.push_back(Job { op, ticket, cuts, done: None });
        Ok(())
    }

    pub(super) fn place(&self, slot: super::entries::Slot) -> Option<JournalPlace> {
        let file = u64::from(slot.file);
        let generation = self.files.get(&file)?.generation;
        Some(JournalPlace { file, generation, position: slot.position.into(), length: slot.length })
    }

    /// The file at `place`, if it still lives under that generation.
    pub(super) fn handle(&self, place: &JournalPlace) -> Result<Arc<dyn DiskFile>, StoreError> {
        match self.files.get(&place.file) {
            Some(live) if live.generation == place.generation => Ok(live.handle.clone()),
            _ => Err(StoreError::Moved),
        }
    }
}
