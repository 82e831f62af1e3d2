//! One round of gathering, step by step. The order of the stages is the point: see the module's page.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use gem_types::GroupId;

use super::ticket::Ticket;
use super::{GatherConfig, GatherHost};
use crate::StoreError;
use crate::index::locations::{self, Holder, Location, Move};
use crate::index::ordered::OrderedStore;
use crate::journal::Journal;
use crate::objects::{BatchKey, Objects};
use crate::read::Reader;

/// Times that a round starts over because entries were applied meanwhile.
const PASSES_MAX: u32 = 16;

/// What to do after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Step again: there is more to do.
    More,
    /// Step again in a while: something else has to happen first.
    Wait,
    /// There is nothing to do.
    Idle,
}

/// What was done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GatherCounts {
    /// Rounds brought to their end.
    pub rounds: u64,
    /// Batches written to objects.
    pub batches: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Journal files recycled.
    pub files_recycled: u64,
    /// Objects removed.
    pub objects_removed: u64,
    /// Entries carried forward in the journal.
    pub carried: u64,
}

/// Empties journal files and sparse objects. One a node; it alone removes objects.
#[derive(Debug)]
pub struct Gatherer {
    pub(super) journal: Journal,
    pub(super) objects: Objects,
    pub(super) host: Arc<dyn GatherHost>,
    pub(super) config: GatherConfig,
    /// Files that can't be gathered: damaged, or of a shard that is not open.
    pub(super) set_aside: BTreeSet<Holder>,
    reader: Reader,
    round: Option<Round>,
    counts: GatherCounts,
}

/// A file to be emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Journal { file: u64, generation: u64 },
    Object(u64),
}

impl Source {
    pub fn holder(&self) -> Holder {
        match *self {
            Source::Journal { file, generation } => Holder::Journal { file, generation },
            Source::Object(object) => Holder::Object(object),
        }
    }
}

#[derive(Debug)]
struct Round {
    sources: Vec<Source>,
    /// Every group with data in the sources: found while collecting.
    groups: BTreeSet<GroupId>,
    /// Found live, not yet written: in order.
    live: VecDeque<(BatchKey, Location)>,
    passes: u32,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Collect { source: usize },
    Write,
    Repoint { moves: VecDeque<(GroupId, Vec<Move>)> },
    Flush { groups: VecDeque<GroupId> },
    Settle { waits: u32 },
    Carry { ticket: Ticket, groups: BTreeSet<GroupId> },
    Recycle { source: usize },
    Recycling { source: usize, ticket: Ticket },
}

impl Gatherer {
    /// A gatherer of these. Makes sure that no object gets a number that an index knows.
    pub fn new(
        journal: Journal,
        objects: Objects,
        host: Arc<dyn GatherHost>,
        config: GatherConfig,
    ) -> Result<Gatherer, StoreError> {
        for (group, _) in journal.groups() {
            let Some(store) = host.store(group) else { continue };
            let last = locations::live_files(&*store)?.into_keys().filter_map(|holder| match holder {
                Holder::Object(object) => Some(object),
                Holder::Journal { .. } => None,
            });
            last.max().inspect(|object| objects.reserve(*object));
        }
        let reader = Reader::new(journal.clone(), objects.clone());
        let (set_aside, counts) = Default::default();
        Ok(Gatherer { journal, objects, host, config, set_aside, reader, round: None, counts })
    }

    /// What was done since the start.
    pub fn counts(&self) -> GatherCounts {
        self.counts
    }

    /// The stage that the next step works at; `None` between rounds.
    pub fn stage(&self) -> Option<&'static str> {
        self.round.as_ref().map(|round| match round.stage {
            Stage::Collect { .. } => "collect",
            Stage::Write => "write",
            Stage::Repoint { .. } => "repoint",
            Stage::Flush { .. } => "flush",
            Stage::Settle { .. } => "settle",
            Stage::Carry { .. } => "carry",
            Stage::Recycle { .. } | Stage::Recycling { .. } => "recycle",
        })
    }

    /// Does one bounded piece of work. Blocks on the disk. After an error the round is given up,
    /// which is safe at every stage, and the next step begins another.
    pub fn step(&mut self) -> Result<Next, StoreError> {
        let Some(mut round) = self.round.take() else {
            let sources = self.pick()?;
            if sources.is_empty() {
                return Ok(Next::Idle);
            }
            tracing::debug!(?sources, "gathering");
            let stage = Stage::Collect { source: 0 };
            self.round = Some(Round { sources, groups: BTreeSet::new(), live: VecDeque::new(), passes: 0, stage });
            return Ok(Next::More);
        };
        let next = self.work(&mut round)?;
        match next {
            Next::Idle => {
                self.counts.rounds += 1;
                Ok(Next::More)
            }
            next => {
                self.round = Some(round);
                Ok(next)
            }
        }
    }

    /// `Idle`: the round is at its end.
    fn work(&mut self, round: &mut Round) -> Result<Next, StoreError> {
        let stage = std::mem::replace(&mut round.stage, Stage::Collect { source: 0 });
        round.stage = match stage {
            Stage::Collect { source } => self.collect(round, source)?,
            Stage::Write => self.write(round)?,
            Stage::Repoint { mut moves } => match moves.pop_front() {
                Some((group, of_group)) => {
                    self.host.repoint(group, &of_group)?;
                    Stage::Repoint { moves }
                }
                None if round.live.is_empty() => Stage::Flush { groups: round.groups.iter().copied().collect() },
                None => Stage::Write,
            },
            Stage::Flush { mut groups } => match groups.pop_front() {
                Some(group) => {
                    self.host.flush(group)?;
                    Stage::Flush { groups }
                }
                None => Stage::Settle { waits: 0 },
            },
            Stage::Settle { waits } => {
                let stage = self.settle(round, waits)?;
                let waits = matches!(stage, Stage::Settle { .. });
                round.stage = stage;
                return Ok(if waits { Next::Wait } else { Next::More });
            }
            Stage::Carry { ticket, groups } => match ticket.outcome() {
                Some(outcome) => {
                    outcome?;
                    // Empty moves: every apply that knew the entries' old places has been written.
                    groups.iter().try_for_each(|group| self.host.repoint(*group, &[]))?;
                    self.again(round)?
                }
                None => {
                    round.stage = Stage::Carry { ticket, groups };
                    return Ok(Next::Wait);
                }
            },
            Stage::Recycle { source } => match round.sources.get(source).copied() {
                Some(Source::Object(object)) => {
                    self.objects.remove(object)?;
                    self.counts.objects_removed += 1;
                    Stage::Recycle { source: source + 1 }
                }
                Some(Source::Journal { file, generation }) => {
                    let (ticket, done) = Ticket::new();
                    self.journal.recycle(file, generation, done);
                    Stage::Recycling { source, ticket }
                }
                None => return Ok(Next::Idle),
            },
            Stage::Recycling { source, ticket } => match ticket.outcome() {
                Some(outcome) => {
                    outcome?;
                    self.counts.files_recycled += 1;
                    Stage::Recycle { source: source + 1 }
                }
                None => {
                    round.stage = Stage::Recycling { source, ticket };
                    return Ok(Next::Wait);
                }
            },
        };
        Ok(Next::More)
    }

    /// Finds what is live in one source.
    fn collect(&mut self, round: &mut Round, source: usize) -> Result<Stage, StoreError> {
        let Some(&file) = round.sources.get(source) else {
            round.live.make_contiguous().sort_unstable();
            let written = round.live.is_empty();
            let groups = round.groups.iter().copied().collect();
            return Ok(if written { Stage::Flush { groups } } else { Stage::Write });
        };
        match self.live_in(&file, &mut round.groups) {
            Ok(live) => round.live.extend(live),
            Err(error) => return Err(self.set_aside(file.holder(), error)),
        }
        Ok(Stage::Collect { source: source + 1 })
    }

    fn live_in(
        &self,
        source: &Source,
        groups: &mut BTreeSet<GroupId>,
    ) -> Result<Vec<(BatchKey, Location)>, StoreError> {
        let mut shards = Shards { gatherer: self, holder: source.holder(), known: BTreeMap::new() };
        let mut live = Vec::new();
        match *source {
            Source::Journal { file, generation } => {
                for (group, _, entry) in self.journal.entries_in(file, generation)? {
                    let Some(store) = shards.with_live_bytes(group)? else { continue };
                    let payload = self.journal.read(entry, 0..entry.length as usize)?;
                    for (partition, base, range) in self.host.batches_in_entry(&payload) {
                        let (Ok(start), Ok(length)) = (u32::try_from(range.start), u32::try_from(range.len())) else {
                            continue;
                        };
                        let here = Location::Journal { entry, start, length };
                        if locations::get(&*store, partition, base)? == Some(here) {
                            live.push((BatchKey { group, partition, base }, here));
                        }
                    }
                }
            }
            Source::Object(object) => {
                for entry in self.objects.index(object)? {
                    let key = entry.key;
                    let Some(store) = shards.with_live_bytes(key.group)? else { continue };
                    let here = Location::Object { object, position: entry.position, length: entry.length };
                    if locations::get(&*store, key.partition, key.base)? == Some(here) {
                        live.push((key, here));
                    }
                }
            }
        }
        groups.extend(shards.known.into_iter().filter(|(_, shard)| shard.is_some()).map(|(group, _)| group));
        Ok(live)
    }

    /// Writes one object.
    fn write(&mut self, round: &mut Round) -> Result<Stage, StoreError> {
        let mut object = self.objects.create()?;
        let mut moves: BTreeMap<GroupId, Vec<Move>> = BTreeMap::new();
        let mut bytes = 0;
        while bytes < self.config.object_bytes {
            let Some((key, from)) = round.live.pop_front() else { break };
            let batch = match self.reader.read_batch(&key, &from) {
                Ok(batch) => batch,
                Err(error) => return Err(self.set_aside(from.holder(), error)),
            };
            let position = object.add(key, &batch.to_bytes())?;
            let to = Location::Object { object: object.number(), position, length: from.length() };
            moves.entry(key.group).or_default().push(Move { partition: key.partition, base: key.base, from, to });
            bytes += u64::from(from.length());
            self.counts.batches += 1;
        }
        self.counts.bytes += bytes;
        let written = object.finish()?;
        self.objects.publish(&written)?;
        Ok(Stage::Repoint { moves: moves.into_iter().collect() })
    }

    /// Waits for purges, and decides what is carried.
    fn settle(&mut self, round: &mut Round, waits: u32) -> Result<Stage, StoreError> {
        let mut left = Vec::new();
        for source in &round.sources {
            if let Source::Journal { file, .. } = source {
                left.extend(self.journal.entries_left(*file));
            }
        }
        if left.is_empty() {
            return self.check(round);
        }
        let groups: BTreeSet<GroupId> = left.iter().map(|(group, _)| *group).collect();
        if waits < self.config.purge_patience {
            groups.iter().for_each(|group| self.host.purge(*group));
            return Ok(Stage::Settle { waits: waits + 1 });
        }
        let (ticket, done) = Ticket::new();
        self.counts.carried += left.len() as u64;
        self.journal.carry(&left, done);
        Ok(Stage::Carry { ticket, groups })
    }

    /// The last look before files are given up.
    fn check(&mut self, round: &mut Round) -> Result<Stage, StoreError> {
        for group in &round.groups {
            let Some(store) = self.host.store(*group) else { continue };
            for source in &round.sources {
                if locations::live_bytes(&*store, source.holder())? > 0 {
                    return self.again(round);
                }
            }
            let purged = self.journal.flushed_marks(*group).purged.map(|id| id.index);
            let durable = self.host.durable_applied(*group);
            if purged > durable {
                return Err(StoreError::Refused(format!(
                    "group {group} is purged up to {purged:?}, beyond what its index has durably applied, {durable:?}"
                )));
            }
        }
        Ok(Stage::Recycle { source: 0 })
    }

    fn again(&self, round: &mut Round) -> Result<Stage, StoreError> {
        round.passes += 1;
        if round.passes > PASSES_MAX {
            let sources = &round.sources;
            return Err(StoreError::Refused(format!("locations keep pointing into {sources:?} while it is gathered")));
        }
        Ok(Stage::Collect { source: 0 })
    }

    /// Leaves `holder` alone from now on, where trying again can't help.
    fn set_aside(&mut self, holder: Holder, error: StoreError) -> StoreError {
        if matches!(error, StoreError::Damaged { .. } | StoreError::Corrupt { .. }) {
            tracing::error!(?holder, %error, "can't be gathered: left as it is");
            self.set_aside.insert(holder);
        }
        error
    }
}

/// The shards with data in one source.
struct Shards<'a> {
    gatherer: &'a Gatherer,
    holder: Holder,
    /// `None`: dropped.
    known: BTreeMap<GroupId, Option<Shard>>,
}

#[derive(Clone)]
struct Shard {
    store: Arc<dyn OrderedStore>,
    has_live: bool,
}

impl Shards<'_> {
    /// The store of `group`, where it has live bytes in the source.
    fn with_live_bytes(&mut self, group: GroupId) -> Result<Option<Arc<dyn OrderedStore>>, StoreError> {
        if let Some(known) = self.known.get(&group) {
            return Ok(known.as_ref().filter(|shard| shard.has_live).map(|shard| shard.store.clone()));
        }
        let shard = match self.gatherer.host.store(group) {
            Some(store) => {
                let has_live = locations::live_bytes(&*store, self.holder)? > 0;
                Some(Shard { store, has_live })
            }
            None if self.gatherer.journal.marks(group).tombstone => None,
            None => {
                return Err(StoreError::Refused(format!(
                    "{:?} holds data of group {group}, which is neither open nor dropped",
                    self.holder
                )));
            }
        };
        self.known.insert(group, shard);
        self.with_live_bytes(group)
    }
}
