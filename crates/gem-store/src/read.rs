//! Reads batches by location, wherever they lie.
//!
//! A location may be out of date by the time it is read: the file was recycled, the object
//! removed. The journal pins a file's generation for the one read and checks it before and after,
//! an object's blocks say which batch they are, and every batch's checksum is verified; so a read
//! answers the right batch, [`StoreError::Moved`] (look up again), or damage, and never another
//! batch's bytes.

mod pool;

use std::sync::Arc;

use gem_types::batch::RecordBatch;
use gem_types::{GroupId, Offset, PartitionId};
use tokio::sync::oneshot;

pub use pool::{InlineReads, Job, ReadPool, ReadThreads};

use crate::StoreError;
use crate::index::locations::{self, Location};
use crate::index::ordered::OrderedStore;
use crate::journal::Journal;
use crate::objects::{BatchKey, Objects};

/// Times that a batch may move while one read follows it. It moves once per gathering.
const FOLLOW_MAX: u32 = 8;

/// Reads from journal and objects. Cheap to clone. Its calls read files and so may block; see
/// [`Reads`] for a way to await them.
#[derive(Clone, Debug)]
pub struct Reader {
    journal: Journal,
    objects: Objects,
}

impl Reader {
    /// Reads from these.
    pub fn new(journal: Journal, objects: Objects) -> Reader {
        Reader { journal, objects }
    }

    /// The batch that lies at `location`, which must be `key`'s.
    /// [`StoreError::Moved`]: it no longer lies there; look its location up again.
    pub fn read_batch(&self, key: &BatchKey, location: &Location) -> Result<RecordBatch, StoreError> {
        let bytes = match *location {
            Location::Journal { entry, start, length } => {
                let end = start.checked_add(length).ok_or(StoreError::Moved)?;
                self.journal.read(entry, start as usize..end as usize)?
            }
            Location::Object { object, position, length } => self.objects.read(object, key, position, length)?,
        };
        let damaged = |what: String| StoreError::Damaged { place: format!("{key:?} at {location:?}"), what };
        let batch = RecordBatch::open(bytes).map_err(|e| damaged(e.to_string()))?;
        if batch.base_offset() != key.base {
            return Err(damaged(format!("its base offset is {}", batch.base_offset())));
        }
        Ok(batch)
    }

    /// The batch with the greatest base offset at or below `offset`, looked up in `store` and
    /// followed if it moves meanwhile. `None`: there is none. The caller checks whether it reaches
    /// `offset`.
    pub fn find(
        &self,
        store: &dyn OrderedStore,
        group: GroupId,
        partition: PartitionId,
        offset: Offset,
    ) -> Result<Option<RecordBatch>, StoreError> {
        let mut last = None;
        for _ in 0..FOLLOW_MAX {
            let Some((base, location)) = locations::find(store, partition, offset)? else { return Ok(None) };
            let key = BatchKey { group, partition, base };
            if last == Some((base, location)) {
                return Err(StoreError::Damaged {
                    place: format!("the index of group {group}"),
                    what: format!("{key:?} is not at {location:?}, where its location says"),
                });
            }
            match self.read_batch(&key, &location) {
                Err(StoreError::Moved) => last = Some((base, location)),
                read => return read.map(Some),
            }
        }
        Err(StoreError::Moved)
    }

    /// The batches from the one that holds `offset` (or the next after it) on, in order, until
    /// their bytes reach `bytes_max`; at least one where there is any.
    pub fn read_from(
        &self,
        store: &dyn OrderedStore,
        group: GroupId,
        partition: PartitionId,
        offset: Offset,
        bytes_max: usize,
    ) -> Result<Vec<RecordBatch>, StoreError> {
        let mut batches = Vec::new();
        let mut bytes = 0;
        let mut next = offset;
        let mut first = self.find(store, group, partition, offset)?.filter(|batch| batch.last_offset() >= offset);
        while bytes < bytes_max {
            let batch = match first.take() {
                Some(batch) => batch,
                None => {
                    let Some(&(base, _)) = locations::scan(store, partition, next, Offset::MAX, 1)?.first() else {
                        break;
                    };
                    // Gone between the two look-ups: it was trimmed, and so was all before it.
                    let found = self.find(store, group, partition, base)?;
                    let Some(batch) = found.filter(|batch| batch.base_offset() == base) else { break };
                    batch
                }
            };
            bytes += batch.len();
            next = batch.next_offset();
            batches.push(batch);
        }
        Ok(batches)
    }
}

/// Blocking reads that can be awaited: run by a pool, which the simulator replaces.
#[derive(Clone, Debug)]
pub struct Reads {
    pool: Arc<dyn ReadPool>,
}

impl Reads {
    /// Reads run by `pool`.
    pub fn new(pool: Arc<dyn ReadPool>) -> Reads {
        Reads { pool }
    }

    /// Runs `work` and answers what it answers. [`StoreError::Busy`]: too much is waiting already.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        // A caller that is gone leaves nothing to be answered.
        self.pool.submit(Box::new(move || drop(answer.send(work()))))?;
        answered.await.unwrap_or_else(|_| Err(StoreError::poisoned("the read pool has stopped")))
    }
}
