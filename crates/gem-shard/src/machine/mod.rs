//! The state machine: what a shard's log determines.
//!
//! What it is: [`Machine::apply`] is a function of state and entry. No clock, no randomness, no
//! memory that the rows do not hold: what time or chance decide comes in as entries. The rows
//! lie in the state family of the shard's ordered store; with them go, in one atomic write, the
//! locations of the batches and the position that was applied.
//!
//! What it is not: it judges nothing. Duplicates, order and limits are the leader's to decide
//! ([`verdicts`](crate::leader::verdicts)) before an entry is made; apply checks only what keeps
//! replicas equal and a batch in its place. It reads no payload, journal or object.
//!
//! Invariants:
//! - The rows after a commit depend on the entries applied, not on how many each commit covered
//!   or where a crash fell between: replay from the last flush ends at the same rows.
//! - A batch is stored at its partition's next offset, or not at all.
//! - A group's floor never falls but by a seek; nothing is forgotten early.
//! - After an error nothing is applied or committed any more: only a reopening goes on.

mod dead_letters;
mod digest;
mod group_commands;
mod group_rows;
mod group_table;
mod groups;
mod ids;
mod keys;
mod meta;
mod outcome;
mod overlay;
mod partitions;
mod payloads;
mod producers;
mod ranges;
mod retention;
mod rows;
mod tables;
mod topics;

#[cfg(test)]
mod rows_tests;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use gem_store::StoreError;
use gem_store::index::locations::{self, Location, Locations, Move};
use gem_store::index::ordered::OrderedStore;
use gem_types::{Offset, PartitionId, Prefix, TimestampMs, TopicName};

pub(crate) use group_commands::no_group;
pub use groups::GroupState;
pub use ids::ID_BYTES;
pub use outcome::Outcome;
pub(crate) use partitions::no_partition;
pub use producers::is_internal;
pub use ranges::Ranges;
pub use retention::PRODUCER_IDLE_MS;
pub use rows::{Partition, Producer, Topic};
pub(crate) use topics::no_topic;

use crate::entry::{Command, Entry, LogPos, Malformed};
use group_table::GroupTable;
use ids::Ids;
use meta::Meta;
use overlay::Overlay;
use retention::Rounds;
use tables::{Table, damaged};

/// Decoded rows kept of each table; a shard's busiest.
const ROWS_KEPT: usize = 16_384;

/// A shard's state.
///
/// Owned by the shard, behind a lock that is held for one call: none waits for anything but reads
/// of the index.
#[derive(Debug)]
pub struct Machine {
    rows: Overlay,
    locations: Locations,
    topics: Table<Topic>,
    /// The names of all topics, for listings.
    names: BTreeSet<TopicName>,
    partitions: Table<Partition>,
    producers: Table<Producer>,
    groups: GroupTable,
    ids: Ids,
    meta: Meta,
    written: Meta,
    durable: Option<LogPos>,
    rounds: Rounds,
    mismatches: u64,
    failed: Option<StoreError>,
}

impl Machine {
    /// The machine in `store`, as of what was last written there. Reads the names of all topics
    /// and all remembered ids.
    pub fn open(store: Arc<dyn OrderedStore>) -> Result<Machine, StoreError> {
        // What is read from here on is durable, as `durable` claims. After a crash there is
        // nothing to flush.
        store.flush()?;
        let rows = Overlay::new(store.clone());
        let meta = Meta::read(&rows)?;
        let mut names = BTreeSet::new();
        let (from, to) = keys::table(keys::TOPICS);
        rows.each(&from, &to, |key, _| {
            names.insert(keys::topic_name(key).ok_or_else(|| damaged(Malformed("topic key"), key))?);
            Ok(true)
        })?;
        Ok(Machine {
            ids: Ids::open(&rows)?,
            locations: Locations::open(store)?,
            rows,
            topics: Table::new(ROWS_KEPT),
            names,
            partitions: Table::new(ROWS_KEPT),
            producers: Table::new(ROWS_KEPT),
            groups: GroupTable::default(),
            durable: meta.applied,
            written: meta.clone(),
            meta,
            rounds: Rounds::default(),
            mismatches: 0,
            failed: None,
        })
    }

    /// The last entry applied, committed or not.
    pub fn applied(&self) -> Option<LogPos> {
        self.meta.applied
    }

    /// The last membership applied, and where it stood.
    pub fn membership(&self) -> Option<&(LogPos, Bytes)> {
        self.meta.membership.as_ref()
    }

    /// The part of the ring that the shard holds; `None` before there is any state.
    pub fn range(&self) -> Option<Prefix> {
        self.meta.range
    }

    /// Gives the shard its part of the ring, at its founding.
    pub fn set_range(&mut self, range: Prefix) {
        self.meta.range = Some(range);
    }

    /// The last entry that a commit covered.
    pub fn committed(&self) -> Option<LogPos> {
        self.written.applied
    }

    /// The last entry that a completed flush covered: nothing above it may be purged.
    pub fn durable_applied(&self) -> Option<LogPos> {
        self.durable
    }

    /// How many batches did not continue their partition, since the machine was opened.
    pub fn mismatches(&self) -> u64 {
        self.mismatches
    }

    /// The store beneath: for reads outside the lock, and for flushing.
    pub fn store(&self) -> &Arc<dyn OrderedStore> {
        self.rows.store()
    }

    /// Applies one entry; answers an outcome for each command. `place` tells where the batch of
    /// the command with that index lies, if this replica still has it.
    pub fn apply(
        &mut self,
        pos: LogPos,
        entry: &Entry,
        place: impl Fn(usize) -> Option<Location>,
    ) -> Result<Vec<Outcome>, StoreError> {
        self.advance(pos)?;
        let mut outcomes = Vec::with_capacity(entry.commands.len());
        for (index, command) in entry.commands.iter().enumerate() {
            let outcome = self.command(entry.now_ms, command, || place(index));
            outcomes.push(outcome.inspect_err(|error| self.failed = Some(error.clone()))?);
        }
        Ok(outcomes)
    }

    /// Passes over an entry that says nothing.
    pub fn apply_blank(&mut self, pos: LogPos) -> Result<(), StoreError> {
        self.advance(pos)
    }

    /// Takes in a membership, in the bytes that Raft gives it.
    pub fn apply_membership(&mut self, pos: LogPos, membership: Bytes) -> Result<(), StoreError> {
        self.advance(pos)?;
        self.meta.membership = Some((pos, membership));
        Ok(())
    }

    /// Lets locations point elsewhere, where they still point to where the batch was found;
    /// answers how many. The next commit writes it.
    pub fn repoint(&mut self, moves: &[Move]) -> Result<usize, StoreError> {
        self.check()?;
        self.locations.repoint(moves).inspect_err(|error| self.failed = Some(error.clone()))
    }

    /// Writes what was applied since the last commit: rows, locations and position in one atomic
    /// write. It is visible then, and durable after the next flush.
    pub fn commit(&mut self) -> Result<(), StoreError> {
        self.check()?;
        self.write_back();
        let changes = self.locations.take_changes();
        self.rows.write(changes).inspect_err(|error| self.failed = Some(error.clone()))?;
        self.written = self.meta.clone();
        self.topics.sweep();
        self.partitions.sweep();
        self.producers.sweep();
        self.groups.sweep();
        Ok(())
    }

    /// Commits, and makes durable what was committed. Waits for the disk: where others wait for
    /// the machine's lock, flush [`store`](Self::store) outside it and report with
    /// [`flushed`](Self::flushed).
    pub fn flush(&mut self) -> Result<(), StoreError> {
        self.commit()?;
        let store = self.store().clone();
        store.flush().inspect_err(|error| self.failed = Some(error.clone()))?;
        self.flushed(self.written.applied);
        Ok(())
    }

    /// Reports that a flush of the store completed that began when [`committed`](Self::committed)
    /// was `pos`.
    pub fn flushed(&mut self, pos: Option<LogPos>) {
        self.durable = self.durable.max(pos);
    }

    /// Where the batches from the one that holds `from` on lie, at most `limit`, by base offset.
    /// Sees what is committed.
    pub fn locate(&self, id: PartitionId, from: Offset, limit: usize) -> Result<Vec<(Offset, Location)>, StoreError> {
        let store = &**self.store();
        let first = locations::find(store, id, from)?.map_or(from, |(base, _)| base);
        locations::scan(store, id, first, Offset::MAX, limit)
    }

    fn command(
        &mut self,
        now_ms: TimestampMs,
        command: &Command,
        place: impl FnOnce() -> Option<Location>,
    ) -> Result<Outcome, StoreError> {
        match command {
            Command::Append(append) => self.apply_append(now_ms, append, place()),
            Command::Number(number) => self.apply_number(now_ms, number),
            Command::CreateTopic { name, config } => self.apply_create_topic(name, config),
            Command::AlterTopic { name, change } => self.apply_alter_topic(name, change),
            Command::DeleteTopic { name } => self.apply_delete_topic(name),
            Command::Trim { partition, before } => self.apply_trim(*partition, *before),
            Command::CreateGroup { group, mode, start } => self.apply_create_group(group, *mode, *start),
            Command::DeleteGroup { group } => self.apply_delete_group(group),
            Command::Seek { group, offset } => self.apply_seek(group, *offset),
            Command::Progress(progress) => self.apply_progress(progress),
            Command::ExpireIds { partition, before_ms } => {
                let count = self.ids.expire(&mut self.rows, *partition, *before_ms)?;
                Ok(Outcome::Expired { partition: *partition, count })
            }
            Command::ExpireProducers { partition, before_ms } => self.apply_expire_producers(*partition, *before_ms),
        }
    }

    /// Encodes all that is dirty into the overlay.
    fn write_back(&mut self) {
        self.topics.write_back(&mut self.rows);
        self.partitions.write_back(&mut self.rows);
        self.producers.write_back(&mut self.rows);
        self.groups.write_back(&mut self.rows);
        self.meta.write(&self.written, &mut self.rows);
    }

    fn advance(&mut self, pos: LogPos) -> Result<(), StoreError> {
        self.check()?;
        if self.meta.applied.is_some_and(|applied| pos.index <= applied.index) {
            let error =
                StoreError::Refused(format!("entry {pos} was applied already: applied is {:?}", self.meta.applied));
            self.failed = Some(error.clone());
            return Err(error);
        }
        self.meta.applied = Some(pos);
        Ok(())
    }

    fn check(&self) -> Result<(), StoreError> {
        match &self.failed {
            Some(error) => Err(StoreError::poisoned(&error.to_string())),
            None => Ok(()),
        }
    }
}
