//! The one writer of a node's journal: gathers what is queued, writes it with one call, flushes,
//! answers.
//!
//! It is plain synchronous code; a thread of its own drives it on a node, a task in a simulation.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gem_types::seams::Clock;

use super::head::{marks_len, put_table};
use super::layout::{Encoded, FlushAt, Op};
use super::segment::{Segment, file_name, file_table};
use super::state::{Job, LiveFile, Shared, Spare, State};
use super::types::{Done, JournalOp};
use crate::StoreError;
use crate::disk::Disk;

/// What an operation costs beside its record: its second identifier, its item in the footer, and
/// what a new group or leader adds to the footer's tables.
const OVERHEAD: u64 = 40 + 28 + 48 + 16;
/// What an operation may add to the table of groups, beside its payload: a new group with all ids.
const TABLE_GROWTH: usize = 16 + 1 + 8 + 3 * 56;
/// The longest that an idle writer's thread sleeps before it looks again.
const IDLE: Duration = Duration::from_secs(60);

/// The writer.
pub struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) clock: Arc<dyn Clock>,
    /// `None` until the first flush after a start that found the newest file sealed, or none.
    pub(super) active: Option<Segment>,
    pub(super) next_sequence: u64,
    pub(super) next_generation: u64,
    pub(super) next_file: u64,
    /// Generation and position up to which all is flushed.
    pub(super) frontier: (u64, u64),
    pub(super) encoded: Encoded,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("dir", &self.dir).field("frontier", &self.frontier).finish_non_exhaustive()
    }
}

impl Writer {
    /// One round: writes, flushes and answers what is queued, up to the bound of one flush. `false`
    /// where there was nothing to do.
    pub fn step(&mut self) -> bool {
        let looks = {
            let mut state = self.shared.lock();
            std::mem::take(&mut state.look_requested) && state.poisoned.is_none()
        };
        if looks {
            self.prepare();
        }
        let (jobs, seal) = self.take();
        if jobs.is_empty() && !seal {
            return false;
        }
        match self.commit(&jobs, seal) {
            Ok(()) => self.settle(jobs),
            Err(error) => {
                self.poison(&error, jobs);
                return true;
            }
        }
        if let Err(error) = self.after() {
            self.poison(&error, Vec::new());
        }
        true
    }

    /// Blocks until there is something to do; `false` once the journal is closed and all is
    /// written. Lazy operations alone are something to do after [`lazy_flush`].
    ///
    /// [`lazy_flush`]: super::JournalConfig::lazy_flush
    pub fn wait(&self) -> bool {
        let lazy = self.shared.config.lazy_flush;
        let mut state = self.shared.lock();
        loop {
            match state.urgency() {
                Urgency::Now => return true,
                Urgency::Never => return false,
                Urgency::Lazy => {
                    drop(self.shared.wait(state, lazy));
                    return true;
                }
                Urgency::Idle => state = self.shared.wait(state, IDLE),
            }
        }
    }

    /// As [`wait`](Self::wait), for a task.
    pub async fn ready(&self) -> bool {
        loop {
            let notified = self.shared.work_async.notified();
            let urgency = self.shared.lock().urgency();
            match urgency {
                Urgency::Now => return true,
                Urgency::Never => return false,
                Urgency::Lazy => {
                    // Either outcome is a reason to look: time is up, or more has come.
                    let _ = tokio::time::timeout(self.shared.config.lazy_flush, self.hurried()).await;
                    return true;
                }
                Urgency::Idle => notified.await,
            }
        }
    }

    /// Waits until more than lazy operations is queued.
    async fn hurried(&self) {
        loop {
            let notified = self.shared.work_async.notified();
            if !matches!(self.shared.lock().urgency(), Urgency::Lazy) {
                return;
            }
            notified.await;
        }
    }

    /// After a close: says durably that all was flushed, so that damage to the last flush will
    /// not pass for a crash's tail.
    pub fn finish(&mut self) {
        while self.step() {}
        let at = self.at();
        let well = self.shared.lock().poisoned.is_none();
        if well
            && let Some(active) = &self.active
            && let Err(error) = active.mark(at).and_then(|_| Ok(active.handle.sync()?))
        {
            self.poison(&error, Vec::new());
        }
    }

    /// Takes what goes into the next flush. Carries go alone: whether they still stand can only be
    /// said when all before them is flushed.
    fn take(&mut self) -> (Vec<Job>, bool) {
        let mut state = self.shared.lock();
        if let Some(error) = state.error() {
            let queue = std::mem::take(&mut state.queue);
            (state.queued_bytes, state.eager, state.seal_requested) = (0, 0, false);
            drop(state);
            self.answer(queue.into_iter().filter_map(|job| job.done).collect(), Err(error));
            return (Vec::new(), false);
        }
        let seal = std::mem::take(&mut state.seal_requested);
        let config = &self.shared.config;
        let most = (config.flush_bytes as u64).min(config.segment_bytes / 4);
        let (mut jobs, mut bytes) = (Vec::new(), 0);
        while let Some(next) = state.queue.front() {
            let carry = |job: &Job| matches!(job.op, Op::Carry { .. });
            if jobs.last().is_some_and(|last| carry(last) != carry(next)) {
                break;
            }
            let weight = next.op.record_len() + OVERHEAD;
            if !jobs.is_empty() && bytes + weight > most {
                break;
            }
            bytes += weight;
            state.eager -= usize::from(!next.op.is_lazy());
            jobs.extend(state.queue.pop_front());
        }
        (jobs, seal)
    }

    /// Makes `jobs` durable, in a new file where the active one is full.
    fn commit(&mut self, jobs: &[Job], seal: bool) -> Result<(), StoreError> {
        // Without another file to go on in, what is asked for must wait until the disk has room.
        let seal = seal && self.shared.lock().can_begin();
        if seal && self.active.as_ref().is_some_and(|active| active.used) {
            self.seal()?;
        }
        let ops: Vec<&Op> = {
            let state = self.shared.lock();
            jobs.iter().map(|job| &job.op).filter(|op| state.stands(op)).collect()
        };
        if ops.is_empty() {
            return Ok(());
        }
        let records_len = ops.iter().map(|op| op.record_len()).sum();
        let table = self.table_len() + ops.iter().map(|op| TABLE_GROWTH + op.payload_in_table()).sum::<usize>();
        let fits = |active: &Option<Segment>| active.as_ref().is_some_and(|a| a.fits(ops.len(), records_len, table));
        if !fits(&self.active) {
            self.seal()?;
            self.begin()?;
            if !fits(&self.active) {
                return Err(StoreError::TooLarge { size: records_len, max: self.shared.config.entry_max() });
            }
        }
        let at = self.at();
        let Some(active) = &mut self.active else { return Ok(()) };
        let started = self.clock.monotonic();
        active.flush(ops.iter().copied(), at, &mut self.encoded)?;
        self.frontier = (active.generation, active.position);
        self.next_sequence += 1;
        let took = self.clock.monotonic().saturating_sub(started);
        self.shared.counters.flushed(ops.len(), self.encoded.length, took);
        Ok(())
    }

    /// Moves the flushed view, then calls back.
    fn settle(&mut self, jobs: Vec<Job>) {
        let mut done = Vec::new();
        {
            let mut state = self.shared.lock();
            let mut payloads = self.encoded.payloads.drain(..);
            let mut recycled = 0;
            for mut job in jobs {
                state.queued_bytes -= job.op.record_len() as usize;
                // What did not stand was not written either.
                if state.stands(&job.op)
                    && let Some(place) = payloads.next()
                    && let Some(active) = &self.active
                {
                    recycled += u64::from(matches!(job.op, Op::Recycled { .. }));
                    state.flush(&job, active.file, place);
                }
                done.extend(job.done.take());
            }
            (0..recycled).for_each(|_| self.shared.counters.recycled());
            if let Some(active) = &self.active
                && let Some(live) = state.files.get_mut(&active.file)
            {
                live.used = active.position;
            }
        }
        self.encoded.clear();
        self.shared.slack.notify_waiters();
        self.answer(done, Ok(()));
    }

    /// What can wait until the callers have their answers: a mark while nothing is queued, and the
    /// next files.
    fn after(&mut self) -> Result<(), StoreError> {
        let idle = self.shared.lock().queue.is_empty();
        if idle
            && let Some(active) = &self.active
            && active.used
        {
            active.mark(self.at())?;
        }
        self.prepare();
        Ok(())
    }

    /// Keeps spare files ready: one for the next roll and the reserve. Takes no more of the volume
    /// than is allowed; what can't be had shows in [`Journal::room`](super::Journal::room).
    pub(super) fn prepare(&mut self) {
        let shared = self.shared.clone();
        let config = &shared.config;
        let (size, want) = (config.segment_bytes, 1 + config.reserve_files);
        let free = self.disk.space(&self.dir).map_or(0, |space| space.available.saturating_sub(config.disk_reserve));
        let mut allocatable = free / size * size;
        let table = self.table_len();
        while self.shared.lock().spares.len() < want && allocatable >= size {
            match self.create() {
                Ok(spare) => self.shared.lock().spares.push(spare),
                Err(error) => {
                    tracing::warn!(%error, "no new journal file: publishes will be refused when the spare ones are used");
                    allocatable = 0;
                    break;
                }
            }
            allocatable -= size;
        }
        let surplus = {
            let mut state = self.shared.lock();
            state.allocatable = allocatable;
            state.active_left = self.active.as_ref().map_or(0, |active| active.left(table));
            let keep = config.spares_max.max(want);
            if state.spares.len() > keep { state.spares.split_off(keep) } else { Vec::new() }
        };
        for spare in surplus {
            // One that comes back after a crash reads as the spare that it is.
            if let Err(error) = self.disk.remove(&self.dir.join(file_name(spare.file))) {
                tracing::warn!(%error, file = spare.file, "a spare journal file could not be removed");
            }
        }
    }

    /// Makes a file, durably.
    fn create(&mut self) -> Result<Spare, StoreError> {
        let (file, size) = (self.next_file, self.shared.config.segment_bytes);
        self.next_file += 1;
        let handle = self.disk.create(&self.dir.join(file_name(file)), size)?;
        handle.sync()?;
        self.disk.sync_dir(&self.dir)?;
        self.shared.counters.created();
        Ok(Spare { file, handle, size })
    }

    /// Seals the active file, if there is one.
    fn seal(&mut self) -> Result<(), StoreError> {
        let Some(active) = self.active.take() else { return Ok(()) };
        let table = self.table();
        active.seal(self.next_sequence, &table)?;
        if let Some(live) = self.shared.lock().files.get_mut(&active.file) {
            live.sealed = true;
        }
        Ok(())
    }

    /// Begins the next file. The generation moves first: from then on no read takes the file for
    /// what it was.
    fn begin(&mut self) -> Result<(), StoreError> {
        let spare = self.shared.lock().spares.pop();
        let Spare { file, handle, size } = match spare {
            Some(spare) => spare,
            None => self.create()?,
        };
        let generation = self.next_generation;
        self.next_generation += 1;
        let live =
            LiveFile { generation, handle: handle.clone(), size, used: 0, sealed: false, entries: 0, recycling: false };
        self.shared.lock().files.insert(file, live);
        let at = FlushAt { generation, ..self.at() };
        self.active = Some(Segment::begin(file, handle, size, at, &self.table())?);
        Ok(())
    }

    /// Where the next flush goes.
    fn at(&self) -> FlushAt {
        let (generation, position) = self.active.as_ref().map_or((0, 0), |active| (active.generation, active.position));
        FlushAt { generation, position, sequence: self.next_sequence, frontier: self.frontier }
    }

    /// The flushed marks of all groups, and the files in use, as heads and footers hold them.
    fn table(&self) -> Vec<u8> {
        let state = self.shared.lock();
        let files = file_table(state.files.iter().map(|(file, live)| (file, live.generation)));
        let groups: Vec<_> = state.groups.iter().map(|(id, log)| (id, &log.flushed)).collect();
        let mut out = Vec::new();
        put_table(&mut out, groups.into_iter(), &files);
        out
    }

    /// The length of [`table`](Self::table), with room for one more file.
    fn table_len(&self) -> usize {
        let state = self.shared.lock();
        let groups: usize = state.groups.values().map(|log| marks_len(&log.flushed)).sum();
        8 + groups + 16 * (state.files.len() + 1)
    }

    /// The end: nothing is acknowledged any more.
    fn poison(&mut self, error: &StoreError, jobs: Vec<Job>) {
        let detail: Arc<str> = error.to_string().into();
        tracing::error!(%detail, "the journal has stopped: restart the node once the disk is well");
        let queue = {
            let mut state = self.shared.lock();
            state.poisoned.get_or_insert(detail.clone());
            (state.queued_bytes, state.eager) = (0, 0);
            std::mem::take(&mut state.queue)
        };
        self.encoded.clear();
        self.shared.slack.notify_waiters();
        let done = jobs.into_iter().chain(queue).filter_map(|job| job.done).collect();
        self.answer(done, Err(StoreError::Poisoned { detail }));
    }

    fn answer(&self, done: Vec<Done>, outcome: Result<(), StoreError>) {
        done.into_iter().for_each(|done| done(outcome.clone()));
    }
}

impl Drop for Writer {
    /// Nothing will be flushed any more: who waits, and who comes, must hear of it.
    fn drop(&mut self) {
        let queue = {
            let mut state = self.shared.lock();
            state.poisoned.get_or_insert_with(|| "the journal's writer has stopped".into());
            std::mem::take(&mut state.queue)
        };
        let done = queue.into_iter().filter_map(|job| job.done).collect();
        self.shared.slack.notify_waiters();
        self.answer(done, Err(StoreError::poisoned("the journal's writer has stopped")));
    }
}

enum Urgency {
    Now,
    Lazy,
    Idle,
    Never,
}

impl State {
    fn urgency(&self) -> Urgency {
        if self.eager > 0
            || self.seal_requested
            || self.look_requested
            || (self.poisoned.is_some() && !self.queue.is_empty())
        {
            Urgency::Now
        } else if self.closed {
            if self.queue.is_empty() { Urgency::Never } else { Urgency::Now }
        } else if self.queue.is_empty() {
            Urgency::Idle
        } else {
            Urgency::Lazy
        }
    }

    /// Whether the operation is still to be written. A carry is not, once its entry is gone: on
    /// replay it would bring it back.
    fn stands(&self, op: &Op) -> bool {
        match op {
            Op::Carry { group, id, .. } => self.groups.get(group).is_some_and(|log| log.holds(&self.leaders, id)),
            _ => true,
        }
    }
}

impl Op {
    /// What of the operation ends up in the table of groups.
    fn payload_in_table(&self) -> usize {
        match self {
            Op::User(JournalOp::Vote { .. } | JournalOp::Create { .. }) => self.payload_len(),
            _ => 0,
        }
    }
}
