//! A group's Raft log, over the node's journal.
//!
//! Appends are handed to the journal, which flushes for all groups at once and calls back; the
//! entries stay in [`EntryCache`] until they are applied. The committed index is written lazily:
//! losing the last of it only makes the next start apply those entries after its election.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use gem_store::journal::{Journal, JournalOp, LogPos};
use gem_types::{GroupId, ReplicaId};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};

use super::cache::EntryCache;
use super::sizes::Sizes;
use super::types::{self, LogId, RaftEntry, TypeConfig, Vote, log_id};

use crate::watch;

/// The log of one group. A clone is another handle to the same log.
#[derive(Clone)]
pub struct LogStore {
    group: GroupId,
    journal: Journal,
    /// The most bytes that one read for a lagging replica returns (one entry at least).
    read_bytes: usize,
    inner: Arc<Mutex<Inner>>,
    flushed: Arc<watch::Sender<Flushed>>,
}

/// How far the log is flushed here.
#[derive(Clone, Copy, Debug)]
struct Flushed {
    index: u64,
    has_failed: bool,
}

struct Inner {
    cache: EntryCache,
    vote: Option<Vote>,
    purged: Option<LogId>,
    last: Option<LogId>,
    committed: Option<LogId>,
    sizes: Sizes,
}

/// The journal's name for a log id.
pub fn to_pos(id: LogId) -> LogPos {
    // With standard leader ids a term has one leader: the log id needs no node.
    LogPos { term: id.leader_id.term, leader: ReplicaId::default(), index: id.index }
}

/// The log id that the journal names so.
pub fn from_pos(pos: LogPos) -> LogId {
    log_id(pos.term, pos.index)
}

fn damaged(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

impl LogStore {
    /// Opens the log of `group`, which was founded. `applied` is what the state machine
    /// holds; `bytes_kept` bounds the entries cached beyond what is not yet applied.
    pub fn open(group: GroupId, journal: Journal, applied: u64, bytes_kept: usize) -> io::Result<Self> {
        let marks = journal.marks(group);
        let vote = marks.vote.map(|bytes| types::decode_vote(&bytes)).transpose().map_err(damaged)?;
        let purged = marks.purged.map(from_pos);
        let committed = marks.committed.map(from_pos);
        let last = marks.last.map(from_pos).max(purged);
        let cache = EntryCache::new(bytes_kept, applied);
        let flushed = watch::Sender::new(Flushed { index: last.map_or(0, |id| id.index), has_failed: false });
        let inner = Inner { cache, vote, purged, last, committed, sizes: Sizes::default() };
        Ok(LogStore {
            group,
            journal,
            read_bytes: READ_BYTES,
            inner: Arc::new(Mutex::new(inner)),
            flushed: Arc::new(flushed),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics under this lock that would leave the log half-changed.
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The last entry purged and the last entry there is.
    pub fn bounds(&self) -> (Option<LogId>, Option<LogId>) {
        let inner = self.inner();
        (inner.purged, inner.last)
    }

    /// The term of the last vote; 0 where there is none.
    pub fn vote_term(&self) -> u64 {
        self.inner().vote.map_or(0, |vote| vote.leader_id.term)
    }

    /// Tells the log that all up to `index` is applied: the cache may let go of it.
    pub fn applied(&self, index: u64) {
        self.inner().cache.applied(index);
    }

    /// Waits until the entry at `index` is flushed here. Others may have made it committed before:
    /// but nothing is applied that a power cut could take from the log.
    pub async fn flushed(&self, index: u64) -> io::Result<()> {
        let mut flushed = self.flushed.subscribe();
        let reached = flushed.wait_for(|flushed| flushed.has_failed || flushed.index >= index).await;
        match reached {
            Ok(flushed) if !flushed.has_failed => Ok(()),
            _ => Err(io::Error::other("the journal has failed: nothing more is applied")),
        }
    }

    /// A snapshot took the place of all up to `id`.
    pub fn installed(&self, id: LogId) {
        let mut inner = self.inner();
        inner.cache.purge(id.index);
        inner.cache.applied(id.index);
        inner.purged = inner.purged.max(Some(id));
        inner.last = inner.last.max(Some(id));
        inner.sizes.clear();
        drop(inner);
        self.flushed.send_modify(|flushed| flushed.index = flushed.index.max(id.index));
    }

    /// The last entry behind which at least `bytes` of entries lie in the log; 0 where there is
    /// none.
    pub fn behind(&self, bytes: u64) -> u64 {
        self.inner().sizes.behind(bytes)
    }

    /// About how many bytes of entries lie above `index`.
    pub fn above(&self, index: u64) -> u64 {
        self.inner().sizes.above(index)
    }

    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<RaftEntry>> {
        let (from, to) = {
            let inner = self.inner();
            let first = inner.purged.map_or(0, |id| id.index + 1);
            let end = inner.last.map_or(0, |id| id.index + 1);
            (from.max(first), to.min(end))
        };
        let mut entries = Vec::new();
        let mut bytes = 0;
        for index in from..to {
            let cached = self.inner().cache.get(index);
            let entry = match cached {
                Some(entry) => entry,
                None => self.read_from_journal(index)?,
            };
            bytes += match &entry.payload {
                openraft::EntryPayload::Normal(proposal) => proposal.len(),
                _ => 1,
            };
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn read_from_journal(&self, index: u64) -> io::Result<RaftEntry> {
        let (pos, bytes) = self.journal.read_entry(self.group, index).map_err(io::Error::other)?;
        let payload = types::decode(bytes)
            .map_err(|e| damaged(format!("entry {index} of group {} can't be read: {e}", self.group)))?;
        Ok(RaftEntry { log_id: from_pos(pos), payload })
    }
}

/// 4 MiB: a follower's round trip stays short, and a large batch still goes out whole.
const READ_BYTES: usize = 4 << 20;

fn bounds_of(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(i) => *i,
        Bound::Excluded(i) => i.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(i) => i.saturating_add(1),
        Bound::Excluded(i) => *i,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        let (from, to) = bounds_of(&range);
        self.read(from, to, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<RaftEntry>, io::Error> {
        self.read(start, end, self.read_bytes)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.inner().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let (last_purged_log_id, last_log_id) = self.bounds();
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let bytes = types::encode_vote(vote);
        let op = JournalOp::Vote { group: self.group, vote: bytes };
        self.journal.write(vec![op]).await.map_err(io::Error::other)?;
        self.inner().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.inner().committed = committed;
        if let Some(id) = committed {
            self.journal.submit(vec![JournalOp::Commit { group: self.group, id: to_pos(id) }], Box::new(|_| {}));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.inner().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut ops = Vec::new();
        {
            let mut inner = self.inner();
            for entry in entries {
                let parts = types::encode(&entry.payload);
                let bytes = parts.iter().map(Bytes::len).sum();
                ops.push(JournalOp::Append { group: self.group, id: to_pos(entry.log_id), parts });
                inner.sizes.push(entry.log_id.index, bytes as u64);
                inner.cache.push(entry.log_id, entry.payload, bytes);
                inner.last = Some(entry.log_id);
            }
        }
        let (flushed, last) = (self.flushed.clone(), self.inner().last.map_or(0, |id| id.index));
        let done = move |result: Result<(), gem_store::StoreError>| {
            flushed.send_modify(|flushed| match &result {
                Ok(()) => flushed.index = flushed.index.max(last),
                Err(_) => flushed.has_failed = true,
            });
            callback.io_completed(result.map_err(io::Error::other));
        };
        self.journal.submit(ops, Box::new(done));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let after = {
            let mut inner = self.inner();
            let last = last_log_id.max(inner.purged);
            let after = last.map(|id| id.index);
            inner.cache.truncate_from(last.map_or(0, |id| id.index + 1));
            inner.sizes.truncate(last.map_or(0, |id| id.index));
            inner.last = last;
            after
        };
        let op = JournalOp::Truncate { group: self.group, after };
        self.journal.write(vec![op]).await.map_err(io::Error::other)?;
        // Whatever was appended before it is flushed by now.
        self.flushed.send_modify(|flushed| flushed.index = flushed.index.min(after.unwrap_or(0)));
        Ok(())
    }

    async fn purge(&mut self, id: LogId) -> Result<(), io::Error> {
        {
            let mut inner = self.inner();
            inner.cache.purge(id.index);
            inner.purged = inner.purged.max(Some(id));
            inner.last = inner.last.max(Some(id));
        }
        // Nothing waits for it: a purge that a crash loses is made again.
        self.journal.submit(vec![JournalOp::Purge { group: self.group, id: to_pos(id) }], Box::new(|_| {}));
        Ok(())
    }
}
