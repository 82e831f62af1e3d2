//! The side that takes a snapshot in: a staged store beside the one in use, completed by what it
//! lacks, and then put in its place through Raft.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use gem_store::StoreError;
use gem_store::index::locations::Location;
use gem_store::index::ordered::{Change, Family, OrderedStore, StoreId};
use gem_store::objects::{BatchKey, ObjectWriter};
use gem_types::batch::RecordBatch;
use gem_types::{Error, Offset, PartitionId, Result};

use super::{Fetch, Fetched};
use crate::machine::Machine;
use crate::raft::state_machine::lock;
use crate::shard::shared::Shared;

/// Bytes asked for at once.
const CHUNK: u32 = 4 << 20;
/// An object of fetched payloads ends once it holds so much.
const OBJECT_BYTES: u64 = 64 << 20;
/// How often a busy disk is asked again, and how long is waited between.
const BUSY_RETRIES_MAX: u32 = 200;
const BUSY_WAIT: Duration = Duration::from_millis(50);

/// The way to the replica that offers the snapshot. Every call ends within a time of its own.
pub(crate) trait Source: Send + Sync {
    fn fetch(&self, request: Fetch) -> BoxFuture<'_, Result<Fetched>>;
}

/// A store that is complete and durable.
pub(crate) struct Staged {
    pub machine: Arc<Mutex<Machine>>,
    pub generation: u32,
}

fn odd(what: &str) -> Error {
    Error::internal(format!("a snapshot can't be taken in: the sender answers {what}"))
}

fn gone(why: &str) -> Error {
    Error::unavailable(format!("a snapshot can't be taken in now: {why}"), 1_000)
}

impl Shared {
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl Fn(&Shared) -> std::result::Result<T, StoreError> + Send + Sync + 'static,
    ) -> Result<T> {
        let work = Arc::new(work);
        for _ in 0..BUSY_RETRIES_MAX {
            let (shared, once) = (self.clone(), work.clone());
            match self.reads.run(move || once(&shared)).await {
                Err(StoreError::Busy) => tokio::time::sleep(BUSY_WAIT).await,
                done => return done.map_err(|error| self.internal(error)),
            }
        }
        Err(self.unavailable("the disk is too busy to take in a snapshot"))
    }

    /// Fetches a snapshot into a staged store. Whatever was fetched before is kept.
    pub async fn stage(self: &Arc<Self>, source: &dyn Source) -> Result<Staged> {
        let copy = match source.fetch(Fetch::Open).await? {
            Fetched::Opened { copy } => copy,
            Fetched::Gone { why } => return Err(gone(&why)),
            _ => return Err(odd("something else to a request to freeze the state")),
        };
        let staged = self.stage_copy(source, copy).await;
        // An answer that does not come only leaves the copy until it is idle.
        let _ = source.fetch(Fetch::Close { copy }).await;
        staged
    }

    async fn stage_copy(self: &Arc<Self>, source: &dyn Source, copy: u64) -> Result<Staged> {
        let id = StoreId { group: self.group, generation: self.generation().wrapping_add(1) };
        let store = self.blocking(move |shared| shared.begin_stage(id)).await?;
        let mut after = Bytes::new();
        loop {
            match source.fetch(Fetch::Rows { copy, after: after.clone(), bytes_max: CHUNK }).await? {
                Fetched::Rows { rows, is_end } => {
                    let last = rows.last().map(|(key, _)| key.clone());
                    let puts: Vec<Change> =
                        rows.into_iter().map(|(key, value)| Change::Put(Family::State, key, value)).collect();
                    let into = store.clone();
                    self.blocking(move |_| into.write(puts.clone())).await?;
                    match last {
                        Some(last) if !is_end => after = last,
                        _ => break,
                    }
                }
                Fetched::Gone { why } => return Err(gone(&why)),
                _ => return Err(odd("something else to a request for rows")),
            }
        }
        let machine = self.staging.get().ok_or_else(|| self.internal("a staged store is gone"))?;
        let filled = machine.clone();
        self.blocking(move |_| {
            let mut machine = lock(&filled)?;
            // Its rows are others than those it was opened with.
            *machine = Machine::open(machine.store().clone())?;
            machine.forget_unnamed()
        })
        .await?;
        self.fill(source, copy, &machine).await?;
        let flushed = machine.clone();
        self.blocking(move |_| lock(&flushed)?.flush()).await?;
        Ok(Staged { machine, generation: id.generation })
    }

    /// The staged store, with no state yet and the locations that are known already: those of an
    /// attempt that was cut off, which the gatherer has kept true, or those of the store in use.
    fn begin_stage(&self, id: StoreId) -> std::result::Result<Arc<dyn OrderedStore>, StoreError> {
        let store = match self.staging.get() {
            Some(machine) => lock(&machine)?.store().clone(),
            None => {
                self.stores.remove_at(id)?;
                let machine = lock(&self.machine)?;
                // Under the lock: what the gatherer repoints from here on, it repoints in both.
                self.stores.copy(&**machine.store(), id)?;
                let store = self.stores.open_at(id)?;
                self.staging.set(Some(Arc::new(Mutex::new(Machine::open(store.clone())?))));
                store
            }
        };
        let all = Change::DeleteRange(Family::State, Bytes::new(), Bytes::from_static(&[u8::MAX, u8::MAX]));
        store.write(vec![all])?;
        Ok(store)
    }

    /// Fetches the payloads that the staged state names and no location holds.
    async fn fill(self: &Arc<Self>, source: &dyn Source, copy: u64, machine: &Arc<Mutex<Machine>>) -> Result<()> {
        let mut object: Option<ObjectWriter> = None;
        let mut at = (PartitionId([0; 16]), 0);
        loop {
            let looked = machine.clone();
            let missing = self.blocking(move |_| lock(&looked)?.missing_from(at.0, at.1, u64::from(CHUNK))).await?;
            let Some(run) = missing else { break };
            let mut from = run.from;
            while from < run.to {
                let request = Fetch::Batches { copy, partition: run.partition, from, bytes_max: CHUNK };
                let batches = match source.fetch(request).await? {
                    Fetched::Batches { batches } => batches,
                    Fetched::Gone { why } => return Err(gone(&why)),
                    _ => return Err(odd("something else to a request for batches")),
                };
                let Some(last) = batches.last() else { break };
                let (next, whole) = (last.next_offset(), batches.len());
                if next <= from {
                    return Err(odd(&format!("{whole} batches below the offset asked for")));
                }
                object = Some(self.write_batches(object.take(), run.partition, batches, run.to, machine).await?);
                from = next;
                if object.as_ref().is_some_and(|object| object.size() >= OBJECT_BYTES) {
                    self.finish(object.take(), machine).await?;
                }
            }
            at = (run.partition, run.to.max(from));
        }
        self.finish(object, machine).await
    }

    /// Adds to the object those of `batches` that are missing.
    async fn write_batches(
        self: &Arc<Self>,
        object: Option<ObjectWriter>,
        partition: PartitionId,
        batches: Vec<RecordBatch>,
        to: Offset,
        machine: &Arc<Mutex<Machine>>,
    ) -> Result<ObjectWriter> {
        let (machine, object) = (machine.clone(), Mutex::new(Some(object)));
        self.blocking(move |shared| {
            let mut slot = object.lock().map_err(|_| StoreError::poisoned("a writer of objects has panicked"))?;
            let taken = slot.take().ok_or_else(|| StoreError::poisoned("an object was written twice"))?;
            let mut writer = match taken {
                Some(writer) => writer,
                None => shared.objects.create()?,
            };
            let machine = lock(&machine)?;
            for batch in batches.iter().filter(|batch| batch.base_offset() < to) {
                let base = batch.base_offset();
                let count = u32::try_from(batch.next_offset() - base).unwrap_or(u32::MAX);
                if machine.lacks(partition, base, count)? {
                    let key = BatchKey { group: shared.group, partition, base };
                    writer.add(key, &batch.to_bytes())?;
                }
            }
            Ok(writer)
        })
        .await
    }

    /// Makes the object durable, and notes where its batches lie.
    async fn finish(self: &Arc<Self>, object: Option<ObjectWriter>, machine: &Arc<Mutex<Machine>>) -> Result<()> {
        let Some(object) = object else { return Ok(()) };
        let (machine, object) = (machine.clone(), Mutex::new(Some(object)));
        self.blocking(move |shared| {
            let mut slot = object.lock().map_err(|_| StoreError::poisoned("a writer of objects has panicked"))?;
            let writer = slot.take().ok_or_else(|| StoreError::poisoned("an object was written twice"))?;
            let number = writer.number();
            let written = writer.finish()?;
            // The locations first: an object that no location points to may be collected.
            let mut machine = lock(&machine)?;
            for entry in &written.entries {
                let location = Location::Object { object: number, position: entry.position, length: entry.length };
                machine.place(entry.key.partition, entry.key.base, location)?;
            }
            machine.commit()?;
            drop(machine);
            shared.objects.publish(&written)
        })
        .await
    }
}

/// The machine that a snapshot is being taken into. It stays from one attempt to the next, and
/// until Raft has put it in the place of the one in use.
#[derive(Debug, Default)]
pub(crate) struct Staging(Mutex<Option<Arc<Mutex<Machine>>>>);

impl Staging {
    pub fn get(&self) -> Option<Arc<Mutex<Machine>>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    pub fn set(&self, machine: Option<Arc<Mutex<Machine>>>) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = machine;
    }
}
