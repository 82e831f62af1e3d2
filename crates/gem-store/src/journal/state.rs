//! What the handle and the writer share: the queue, every group's log, and the files in use.
//!
//! One mutex guards all of it: submitting must move the seen view and the queue in one step, and
//! the sections are short (no I/O is done under it).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use gem_types::GroupId;

use super::counters::Counters;
use super::entries::{GroupLog, Leaders, Slot};
use super::layout::Op;
use super::types::{Done, FileInfo, JournalConfig, JournalOp, Recovery, Room};
use crate::StoreError;
use crate::disk::DiskFile;

/// A queued operation.
pub(super) struct Job {
    pub op: Op,
    pub ticket: u64,
    /// The operation cuts off what was seen before it.
    pub cuts: bool,
    /// Called after this operation's flush: it is the last of its submission.
    pub done: Option<Done>,
}

/// A file in use.
#[derive(Debug)]
pub(super) struct LiveFile {
    pub generation: u64,
    pub handle: Arc<dyn DiskFile>,
    pub size: u64,
    pub used: u64,
    pub sealed: bool,
    /// Flushed entries above their groups' flushed purge marks that lie in it.
    pub entries: u64,
    /// A record that frees it is queued.
    pub recycling: bool,
}

/// A file that holds nothing.
#[derive(Debug)]
pub(super) struct Spare {
    pub file: u64,
    pub handle: Arc<dyn DiskFile>,
    pub size: u64,
}

#[derive(Default)]
pub(super) struct State {
    pub queue: VecDeque<Job>,
    pub queued_bytes: usize,
    /// Queued operations that want a flush of their own.
    pub eager: usize,
    pub next_ticket: u64,
    pub seal_requested: bool,
    /// Somebody wants to know whether the volume has room again.
    pub look_requested: bool,
    pub closed: bool,
    pub poisoned: Option<Arc<str>>,
    pub groups: BTreeMap<GroupId, GroupLog>,
    pub leaders: Leaders,
    pub files: BTreeMap<u64, LiveFile>,
    pub spares: Vec<Spare>,
    /// Bytes that new files may still take of the volume, as of the writer's last look.
    pub allocatable: u64,
    /// Bytes that the active file still takes.
    pub active_left: u64,
}

impl State {
    /// The entry count of the file that `slot` lies in.
    fn count(files: &mut BTreeMap<u64, LiveFile>, slot: Slot, by: i64) {
        if let Some(file) = files.get_mut(&u64::from(slot.file)) {
            file.entries = file.entries.saturating_add_signed(by);
        }
    }

    /// Advances the flushed view by one operation whose payload is now durable at `place`.
    pub(super) fn flush(&mut self, job: &Job, file: u64, place: (u64, u32)) {
        let State { groups, leaders, files, spares, .. } = self;
        // Files are below 4 GiB, and their numbers count files: both fit.
        let mut slot = Slot { file: file as u32, position: place.0 as u32, length: place.1, leader: 0 };
        let mut gone = Vec::new();
        let mut drop_slot = |slot| gone.push(slot);
        match &job.op {
            Op::User(op) => {
                let log = groups.entry(op.group()).or_default();
                if log.flushed.tombstone && !matches!(op, JournalOp::Create { .. }) {
                    return;
                }
                match op {
                    JournalOp::Append { id, .. } => {
                        slot.leader = leaders.number(id);
                        log.flush_append(*id, slot, job.ticket, job.cuts, &mut drop_slot);
                        State::count(files, slot, 1);
                    }
                    JournalOp::Vote { vote, .. } => log.flushed.vote = Some(vote.clone()),
                    JournalOp::Commit { id, .. } => log.flushed.committed = Some(*id),
                    JournalOp::Truncate { after, .. } => {
                        log.flush_truncate(leaders, after.map_or(0, |after| after.saturating_add(1)), &mut drop_slot);
                    }
                    JournalOp::Purge { id, .. } => log.flush_purge(*id, &mut drop_slot),
                    JournalOp::Create { bytes, .. } => log.flushed.create(bytes),
                    JournalOp::Tombstone { .. } => log.flush_tombstone(&mut drop_slot),
                }
            }
            Op::Carry { group, id, .. } => {
                slot.leader = leaders.number(id);
                if groups.get_mut(group).is_some_and(|log| log.flush_carry(*id, slot, &mut drop_slot)) {
                    State::count(files, slot, 1);
                }
            }
            Op::Recycled { file, generation } => {
                if let Some(gone) = files.get(file)
                    && gone.generation == *generation
                    && let Some(gone) = files.remove(file)
                {
                    spares.push(Spare { file: *file, handle: gone.handle, size: gone.size });
                }
            }
        }
        gone.into_iter().for_each(|slot| State::count(files, slot, -1));
    }

    pub(super) fn room(&self, config: &JournalConfig) -> Room {
        let spares: u64 = self.spares.iter().map(|spare| spare.size).sum();
        let files = (self.spares.len() as u64) + self.allocatable / config.segment_bytes;
        // The reserve is whole files: a roll, and with it every purge, needs one. What is queued, or
        // may be proposed before this answer is acted on, must fit beside it.
        let beyond = files.checked_sub(config.reserve_files as u64);
        let free = beyond.map_or(0, |files| self.active_left + files * config.segment_bytes);
        Room {
            publish_ok: self.poisoned.is_none() && free >= config.queue_bytes as u64,
            available: self.active_left + spares + self.allocatable,
            reserve: config.reserve_files as u64 * config.segment_bytes,
        }
    }

    /// Whether another file can be begun.
    pub(super) fn can_begin(&self) -> bool {
        !self.spares.is_empty() || self.allocatable > 0
    }

    pub(super) fn file_infos(&self) -> Vec<FileInfo> {
        let info = |(file, live): (&u64, &LiveFile)| FileInfo {
            file: *file,
            generation: live.generation,
            sealed: live.sealed,
            size: live.size,
            used: live.used,
            entries: live.entries,
        };
        let mut infos: Vec<_> = self.files.iter().map(info).collect();
        infos.sort_by_key(|info| info.generation);
        infos
    }

    pub(super) fn error(&self) -> Option<StoreError> {
        self.poisoned.as_ref().map(|detail| StoreError::Poisoned { detail: detail.clone() })
    }
}

pub(super) struct Shared {
    state: Mutex<State>,
    /// Wakes the writer's thread.
    pub work: Condvar,
    /// Wakes the writer's task, where it is one.
    pub work_async: tokio::sync::Notify,
    /// Wakes who waits for the queue to drain.
    pub slack: tokio::sync::Notify,
    pub config: JournalConfig,
    pub counters: Counters,
    pub recovery: Recovery,
}

impl Shared {
    pub(super) fn new(state: State, config: JournalConfig, recovery: Recovery) -> Arc<Self> {
        Arc::new(Shared {
            state: Mutex::new(state),
            work: Condvar::new(),
            work_async: tokio::sync::Notify::new(),
            slack: tokio::sync::Notify::new(),
            config,
            counters: Counters::default(),
            recovery,
        })
    }

    /// The state. A panic under the lock is a bug of the journal's own: what it left behind may be
    /// half-done, so nothing may be acknowledged any more.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|panicked: PoisonError<_>| {
            let mut state = panicked.into_inner();
            state.poisoned.get_or_insert_with(|| "the journal panicked".into());
            state
        })
    }

    /// Waits on the writer's condition variable for at most `for_at_most`.
    pub(super) fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        for_at_most: std::time::Duration,
    ) -> MutexGuard<'a, State> {
        match self.work.wait_timeout(state, for_at_most) {
            Ok((state, _)) => state,
            Err(panicked) => panicked.into_inner().0,
        }
    }

    pub(super) fn wake_writer(&self) {
        self.work.notify_one();
        self.work_async.notify_one();
    }
}
