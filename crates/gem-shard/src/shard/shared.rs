//! What a shard's callers, its leader loop and its apply worker share.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use gem_store::StoreError;
use gem_store::cache::TailCache;
use gem_store::index::ordered::{OrderedStore, OrderedStores};
use gem_store::journal::Journal;
use gem_store::objects::Objects;
use gem_store::read::{Reader, Reads};
use gem_types::seams::Clock;
use gem_types::{Error, GroupId, Prefix, ReplicaId, Result};

use super::flush::Flushing;
use super::tails::Tails;
use crate::machine::Machine;
use crate::raft::mark::Mark;
use crate::snapshot::receive::Staging;
use crate::snapshot::send::Outgoing;
use crate::watch;

/// Whether a shard serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// No leader that may judge yet: after a start or an election.
    Starting,
    /// This replica leads and may judge.
    Leading {
        /// The term.
        term: u64,
    },
    /// Another replica leads.
    Following {
        /// Which.
        leader: ReplicaId,
        /// The term.
        term: u64,
    },
    /// It has stopped, for good or with the node.
    Stopped {
        /// Why.
        reason: Arc<str>,
    },
}

/// How long a caller is told to wait before it tries again where no better is known.
pub(crate) const RETRY_AFTER_MS: u64 = 200;

/// The parts of a shard that more than one task uses. Each is cheap to hold.
pub(crate) struct Shared {
    pub group: GroupId,
    pub machine: Arc<Mutex<Machine>>,
    pub mark: Arc<Mutex<Mark>>,
    pub stores: Arc<dyn OrderedStores>,
    pub objects: Objects,
    pub outgoing: Outgoing,
    pub staging: Arc<Staging>,
    pub journal: Journal,
    pub reader: Reader,
    pub reads: Reads,
    pub tail_cache: Arc<TailCache>,
    pub tails: Arc<Tails>,
    pub clock: Arc<dyn Clock>,
    pub status: watch::Sender<Status>,
    pub flushing: Flushing,
}

impl Shared {
    /// The machine, for one short look. Nothing that reads files but index look-ups goes on
    /// under it, for apply waits.
    pub fn machine(&self) -> Result<MutexGuard<'_, Machine>> {
        crate::raft::state_machine::lock(&self.machine).map_err(|e| self.internal(e))
    }

    /// The store in use. A snapshot that is taken in puts another in its place.
    pub fn store(&self) -> Result<Arc<dyn OrderedStore>> {
        Ok(self.machine()?.store().clone())
    }

    /// The generation of the store in use.
    pub fn generation(&self) -> u32 {
        self.mark().generation
    }

    /// The part of the ring that the shard holds, as far as is known here.
    pub fn prefix(&self) -> Prefix {
        self.mark().prefix
    }

    fn mark(&self) -> MutexGuard<'_, Mark> {
        // A plain value that is replaced whole.
        self.mark.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A fault of the shard's own.
    pub fn internal(&self, what: impl std::fmt::Display) -> Error {
        let prefix = self.mark().prefix;
        tracing::error!(group = %self.group, %prefix, "shard fault: {what}");
        Error::internal(format!("shard {prefix}: {what}"))
    }

    /// Not now.
    pub fn unavailable(&self, what: impl std::fmt::Display) -> Error {
        Error::unavailable(format!("shard {}: {what}", self.mark().prefix), RETRY_AFTER_MS)
    }

    /// What a failed read means to whoever asked.
    pub fn read_error(&self, error: StoreError) -> Error {
        match error {
            StoreError::Busy => {
                let what = format!("shard {}: too many reads are waiting for the disk", self.mark().prefix);
                Error::throttled(what, RETRY_AFTER_MS)
            }
            error => self.internal(error),
        }
    }

    /// Waits, `wait` at the most, until this shard serves.
    pub async fn serving(&self, wait: Duration) -> Result<()> {
        let serves = |status: &Status| match status {
            Status::Leading { .. } => Some(Ok(())),
            Status::Following { .. } => Some(Err(self.unavailable("another replica leads"))),
            Status::Stopped { reason } => Some(Err(self.unavailable(reason))),
            Status::Starting => None,
        };
        if let Some(known) = serves(&self.status.borrow()) {
            return known;
        }
        let mut status = self.status.subscribe();
        let turned = tokio::time::timeout(wait, status.wait_for(|status| *status != Status::Starting)).await;
        match turned {
            Ok(Ok(status)) => serves(&status).unwrap_or_else(|| Err(self.unavailable("it has no leader yet"))),
            Ok(Err(_)) => Err(self.unavailable("it has stopped")),
            Err(_) => Err(self.unavailable("it has no leader yet")),
        }
    }
}
