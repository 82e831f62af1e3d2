//! The side that offers a snapshot: frozen copies of the state, and who reads them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use gem_store::StoreError;
use gem_store::index::ordered::{self, Family, OrderedStore, OrderedStores, Row, StoreId};
use gem_types::seams::Clock;
use gem_types::{GroupId, Result};

use super::{Fetch, Fetched};
use crate::shard::shared::Shared;

/// The most frozen copies of a shard at once.
pub const OUTGOING_MAX: usize = 2;
/// A copy that nobody has asked for so long is removed.
pub const IDLE_MAX: Duration = Duration::from_secs(60);
/// The most bytes of one answer.
const ANSWER_BYTES_MAX: u32 = 8 << 20;
/// Rows read from the copy at once.
const PAGE: usize = 256;
/// The first key of the state family, and the one behind its last.
const FIRST: &[u8] = &[0];
const END: &[u8] = &[u8::MAX];

/// The frozen copies of a shard's state.
pub(crate) struct Outgoing {
    stores: Arc<dyn OrderedStores>,
    group: GroupId,
    clock: Arc<dyn Clock>,
    copies: Mutex<Copies>,
}

#[derive(Default)]
struct Copies {
    next: u64,
    open: BTreeMap<u64, Frozen>,
}

struct Frozen {
    store: Arc<dyn OrderedStore>,
    used: Duration,
}

impl Outgoing {
    pub fn new(stores: Arc<dyn OrderedStores>, group: GroupId, clock: Arc<dyn Clock>) -> Self {
        Outgoing { stores, group, clock, copies: Mutex::default() }
    }

    /// Whether somebody takes in a snapshot: the log behind it is still needed.
    pub fn is_busy(&self) -> bool {
        !self.lock().open.is_empty()
    }

    /// Removes what nobody has asked for of late. Blocks on the index.
    pub fn sweep(&self) {
        let now = self.clock.monotonic();
        let idle: Vec<u64> = {
            let copies = self.lock();
            let is_idle = |frozen: &Frozen| now.saturating_sub(frozen.used) > IDLE_MAX;
            copies.open.iter().filter(|(_, frozen)| is_idle(frozen)).map(|(copy, _)| *copy).collect()
        };
        idle.into_iter().for_each(|copy| self.close(copy));
    }

    /// Removes all. Blocks on the index.
    pub fn clear(&self) {
        let all: Vec<u64> = self.lock().open.keys().copied().collect();
        all.into_iter().for_each(|copy| self.close(copy));
    }

    fn id(&self, copy: u64) -> StoreId {
        StoreId { group: self.group, generation: StoreId::COPIES | (copy as u32 & !StoreId::COPIES) }
    }

    fn open(&self, store: &dyn OrderedStore) -> std::result::Result<Fetched, StoreError> {
        self.sweep();
        let copy = {
            let mut copies = self.lock();
            if copies.open.len() >= OUTGOING_MAX {
                let why = format!("{OUTGOING_MAX} replicas of the shard are taking in snapshots: wait for one");
                return Ok(Fetched::Gone { why });
            }
            copies.next += 1;
            copies.next
        };
        let id = self.id(copy);
        self.stores.copy(store, id)?;
        let store = self.stores.open_at(id)?;
        self.lock().open.insert(copy, Frozen { store, used: self.clock.monotonic() });
        Ok(Fetched::Opened { copy })
    }

    fn close(&self, copy: u64) {
        let closed = self.lock().open.remove(&copy);
        if let Some(Frozen { store, .. }) = closed {
            drop(store);
            // One that is being read goes with the next start.
            if let Err(error) = self.stores.remove_at(self.id(copy)) {
                tracing::debug!(group = %self.group, %error, "a copy of the state stays until the next start");
            }
        }
    }

    fn used(&self, copy: u64) -> Option<Arc<dyn OrderedStore>> {
        let mut copies = self.lock();
        let frozen = copies.open.get_mut(&copy)?;
        frozen.used = self.clock.monotonic();
        Some(frozen.store.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Copies> {
        // Every change is one call on a map: a panic leaves it whole.
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn rows_of(store: &dyn OrderedStore, after: &[u8], bytes_max: u32) -> std::result::Result<Fetched, StoreError> {
    let mut rows: Vec<Row> = Vec::new();
    let (mut bytes, bytes_max) = (0, bytes_max.min(ANSWER_BYTES_MAX) as usize);
    let mut from = if after.is_empty() { Bytes::from_static(FIRST) } else { ordered::after(after) };
    while bytes < bytes_max {
        let page = store.scan(Family::State, &from, END, PAGE)?;
        let is_end = page.len() < PAGE;
        for row in page {
            bytes += row.0.len() + row.1.len();
            from = ordered::after(&row.0);
            rows.push(row);
            if bytes >= bytes_max {
                return Ok(Fetched::Rows { rows, is_end: false });
            }
        }
        if is_end {
            return Ok(Fetched::Rows { rows, is_end: true });
        }
    }
    Ok(Fetched::Rows { rows, is_end: false })
}

impl Shared {
    /// Answers one request of a replica that takes in a snapshot.
    pub async fn fetch(self: &Arc<Self>, request: Fetch) -> Result<Fetched> {
        let gone = || Fetched::Gone { why: "that copy of the state is not kept any more".into() };
        let shared = self.clone();
        let answer = match request {
            Fetch::Open => {
                let store = self.store()?;
                self.reads.run(move || shared.outgoing.open(&*store)).await
            }
            Fetch::Rows { copy, after, bytes_max } => match self.outgoing.used(copy) {
                Some(store) => self.reads.run(move || rows_of(&*store, &after, bytes_max)).await,
                None => Ok(gone()),
            },
            Fetch::Batches { copy, partition, from, bytes_max } => {
                if self.outgoing.used(copy).is_none() {
                    return Ok(gone());
                }
                let bytes_max = bytes_max.min(ANSWER_BYTES_MAX) as usize;
                return match self.batches_from(partition, from, bytes_max).await {
                    Ok((batches, _)) => Ok(Fetched::Batches { batches }),
                    // Deleted since: what it held counts as received.
                    Err(error) if error.code == gem_types::Code::NotFound => {
                        Ok(Fetched::Batches { batches: Vec::new() })
                    }
                    Err(error) => Err(error),
                };
            }
            Fetch::Close { copy } => {
                self.reads
                    .run(move || {
                        shared.outgoing.close(copy);
                        Ok(Fetched::Closed)
                    })
                    .await
            }
        };
        answer.map_err(|error| self.read_error(error))
    }
}
