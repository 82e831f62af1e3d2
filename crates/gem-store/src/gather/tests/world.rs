//! A node in small: a journal, three shards that keep batches and trim them, and a model of what
//! they must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use gem_types::seams::Clock;
use gem_types::{GroupId, NodeId, Offset, PartitionId};

use super::super::*;
use crate::disk::SimDisk;
use crate::index::locations::{self, Holder, Location, Locations, Move};
use crate::index::model::ModelStores;
use crate::index::ordered::{Change, Family, OrderedStore, OrderedStores};
use crate::journal::{Journal, JournalConfig, JournalOp, LogPos, Writer};
use crate::objects::{Objects, Origin};
use crate::read::Reader;
use crate::test_batches::batch;

const GROUPS: u8 = 3;
const SEGMENT: u64 = 64 << 10;
const LIMIT: u64 = 5 * SEGMENT;

pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
}

struct Still;

impl Clock for Still {
    fn wall_ms(&self) -> i64 {
        0
    }
    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

/// An entry of a shard's log.
#[derive(Clone, Debug)]
enum Entry {
    Put(PartitionId, Offset, Bytes),
    Trim(PartitionId, Offset),
}

impl Entry {
    fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        match self {
            Entry::Put(partition, base, batch) => {
                out.put_u8(1);
                out.put_slice(&partition.0);
                out.put_u64(*base);
                out.put_slice(batch);
            }
            Entry::Trim(partition, before) => {
                out.put_u8(2);
                out.put_slice(&partition.0);
                out.put_u64(*before);
            }
        }
        out.into()
    }
}

fn batches_in(entry: &[u8]) -> Vec<(PartitionId, Offset, Range<usize>)> {
    let mut bytes = entry;
    if bytes.is_empty() || bytes.get_u8() != 1 {
        return Vec::new();
    }
    let mut id = [0; 16];
    bytes.copy_to_slice(&mut id);
    vec![(PartitionId(id), bytes.get_u64(), 25..entry.len())]
}

/// A shard's replica.
#[derive(Debug)]
struct Shard {
    store: Arc<dyn OrderedStore>,
    locations: Locations,
    applied: u64,
    durable: u64,
    hidden: bool,
    /// An apply under way: the index, and the place that it has looked up.
    begun: Option<(u64, Location)>,
}

#[derive(Debug)]
pub struct Host {
    journal: Journal,
    shards: Mutex<BTreeMap<GroupId, Shard>>,
    purges: Mutex<Option<Chance2>>,
}

/// Some purges are late: then entries are carried.
#[derive(Debug)]
struct Chance2(u64);

impl Host {
    /// Looks up the place of the next entry, without writing it yet.
    pub fn begin_apply(&self, group: GroupId) -> Result<(), StoreError> {
        let mut shards = self.shards.lock().unwrap();
        let shard = shards.get_mut(&group).unwrap();
        let index = shard.applied + 1;
        let (_, payload) = self.journal.read_entry(group, index)?;
        if let Some((_, _, range)) = batches_in(&payload).pop() {
            shard.begun = Some((index, self.place(group, index, &range)));
        }
        Ok(())
    }

    fn place(&self, group: GroupId, index: u64, range: &Range<usize>) -> Location {
        let entry = self.journal.locate(group, index).unwrap();
        Location::Journal { entry, start: range.start as u32, length: range.len() as u32 }
    }

    fn apply(&self, group: GroupId, shard: &mut Shard) -> Result<bool, StoreError> {
        let index = shard.applied + 1;
        if self.journal.flushed_marks(group).last.is_none_or(|last| last.index < index) {
            return Ok(false);
        }
        let (_, payload) = self.journal.read_entry(group, index)?;
        for (partition, base, range) in batches_in(&payload) {
            let place = match shard.begun.take() {
                Some((begun, place)) if begun == index => place,
                _ => self.place(group, index, &range),
            };
            shard.locations.put_new(partition, base, place);
        }
        if payload[0] == 2 {
            let mut rest = &payload[1..];
            let mut id = [0; 16];
            rest.copy_to_slice(&mut id);
            shard.locations.remove_below(PartitionId(id), rest.get_u64())?;
        }
        let mut changes = shard.locations.take_changes();
        let applied = Bytes::copy_from_slice(&index.to_be_bytes());
        changes.push(Change::Put(Family::State, Bytes::from_static(b"applied"), applied));
        shard.store.write(changes)?;
        shard.applied = index;
        Ok(true)
    }

    pub fn hide(&self, group: GroupId, hidden: bool) {
        self.shards.lock().unwrap().get_mut(&group).unwrap().hidden = hidden;
    }

    fn with<T>(&self, group: GroupId, work: impl FnOnce(&mut Shard) -> T) -> T {
        work(self.shards.lock().unwrap().get_mut(&group).unwrap())
    }
}

impl GatherHost for Host {
    fn store(&self, group: GroupId) -> Option<Arc<dyn OrderedStore>> {
        let shards = self.shards.lock().unwrap();
        shards.get(&group).filter(|shard| !shard.hidden).map(|shard| shard.store.clone())
    }

    fn batches_in_entry(&self, entry: &[u8]) -> Vec<(PartitionId, Offset, Range<usize>)> {
        batches_in(entry)
    }

    fn repoint(&self, group: GroupId, moves: &[Move]) -> Result<(), StoreError> {
        self.with(group, |shard| {
            while shard.begun.is_some() && self.apply(group, shard)? {}
            shard.locations.repoint(moves)?;
            shard.store.write(shard.locations.take_changes())
        })
    }

    fn flush(&self, group: GroupId) -> Result<(), StoreError> {
        self.with(group, |shard| {
            shard.store.flush()?;
            shard.durable = shard.applied;
            Ok(())
        })
    }

    fn durable_applied(&self, group: GroupId) -> Option<u64> {
        self.with(group, |shard| (shard.durable > 0).then_some(shard.durable))
    }

    fn purge(&self, group: GroupId) {
        let mut purges = self.purges.lock().unwrap();
        let Some(chance) = purges.as_mut() else { return };
        chance.0 = Chance(chance.0).next();
        let durable = self.with(group, |shard| shard.durable);
        if chance.0.is_multiple_of(3)
            && let Some((id, _)) = self.journal.entry(group, durable)
        {
            self.journal.submit(vec![JournalOp::Purge { group, id }], Box::new(|_| ()));
        }
    }
}

pub struct World {
    pub disk: SimDisk,
    pub purges: bool,
    stores: ModelStores,
    node: Option<Running>,
    seed: u64,
    /// Every entry ever submitted that may still count, by group; index 1 first.
    logs: BTreeMap<GroupId, Vec<Entry>>,
    next: BTreeMap<(GroupId, PartitionId), Offset>,
    /// Acknowledged indexes.
    acked: Arc<Mutex<BTreeMap<GroupId, u64>>>,
}

struct Running {
    journal: Journal,
    writer: Writer,
    objects: Objects,
    host: Arc<Host>,
}

impl World {
    pub fn new(seed: u64) -> World {
        let (disk, stores) = (SimDisk::new(), ModelStores::new());
        stores.flush_every(5);
        let (logs, next, acked) = Default::default();
        let mut world = World { disk, purges: true, stores, node: None, seed, logs, next, acked };
        world.start();
        for n in 0..GROUPS {
            let create = JournalOp::Create { group: world.group(n), bytes: Bytes::new() };
            world.journal().submit(vec![create], Box::new(|outcome| outcome.unwrap()));
        }
        world.flush_journal();
        world.open_shards();
        world
    }

    pub fn group(&self, n: u8) -> GroupId {
        GroupId([n + 1; 16])
    }

    fn node(&mut self) -> &mut Running {
        self.node.as_mut().unwrap()
    }

    pub fn journal(&mut self) -> Journal {
        self.node().journal.clone()
    }

    pub fn host(&mut self) -> Arc<Host> {
        self.node().host.clone()
    }

    fn start(&mut self) {
        let config = JournalConfig { segment_bytes: SEGMENT, spares_max: 1, ..JournalConfig::default() };
        let disk = Arc::new(self.disk.clone());
        let dir = Path::new("/node");
        let (journal, writer) = Journal::open(disk.clone(), &dir.join("journal"), config, Arc::new(Still)).unwrap();
        let objects = Objects::open(disk, dir, Origin { node: NodeId([1; 32]), group: None }).unwrap();
        let purges = Mutex::new(None);
        let host = Arc::new(Host { journal: journal.clone(), shards: Mutex::default(), purges });
        self.node = Some(Running { journal, writer, objects, host });
    }

    fn open_shards(&mut self) {
        for n in 0..GROUPS {
            let group = self.group(n);
            let store = self.stores.open(group).unwrap();
            let applied = store.get(Family::State, b"applied").unwrap();
            let applied = applied.map_or(0, |v| u64::from_be_bytes(v.as_ref().try_into().unwrap()));
            let locations = Locations::open(store.clone()).unwrap();
            let shard = Shard { store, locations, applied, durable: applied, hidden: false, begun: None };
            self.host().shards.lock().unwrap().insert(group, shard);
        }
    }

    pub fn gatherer(&mut self) -> Gatherer {
        let config = GatherConfig {
            journal_limit: LIMIT,
            object_bytes: 40 << 10,
            files_per_round: 2,
            object_live_percent: 50,
            purge_patience: 4,
        };
        *self.host().purges.lock().unwrap() = self.purges.then_some(Chance2(self.seed));
        let node = self.node();
        Gatherer::new(node.journal.clone(), node.objects.clone(), node.host.clone(), config).unwrap()
    }

    pub fn flush_journal(&mut self) {
        while self.node().writer.step() {}
    }

    /// Something that a shard does: appends, trims, applies, flushes its index.
    pub fn operate(&mut self, chance: &mut Chance) -> Result<(), StoreError> {
        let n = chance.below(GROUPS.into()) as u8;
        let group = self.group(n);
        match chance.below(10) {
            0 => self.trim(chance, n)?,
            1 => self.host().flush(group)?,
            2 | 3 => {
                let host = self.host();
                let last = host.journal.flushed_marks(group).last.map_or(0, |last| last.index);
                if host.with(group, |shard| shard.applied) < last {
                    host.begin_apply(group)?;
                }
            }
            4 => self.host().purge(group),
            _ => self.append(chance, n)?,
        }
        for _ in 0..chance.below(3) {
            self.flush_journal();
            let host = self.host();
            host.with(group, |shard| host.apply(group, shard))?;
        }
        Ok(())
    }

    pub fn append(&mut self, chance: &mut Chance, n: u8) -> Result<(), StoreError> {
        let (p, count, size) = (chance.below(2) as u8, 1 + chance.below(3), 200 + chance.below(2000));
        self.put(n, p, count, size)
    }

    pub fn put(&mut self, n: u8, p: u8, count: u64, size: u64) -> Result<(), StoreError> {
        let (group, partition) = (self.group(n), PartitionId([p; 16]));
        let next = self.next.entry((group, partition)).or_default();
        let base = *next;
        *next += count;
        let batch = batch(base, count, size as usize).to_bytes();
        self.submit(group, Entry::Put(partition, base, batch))
    }

    fn trim(&mut self, chance: &mut Chance, n: u8) -> Result<(), StoreError> {
        let (group, partition) = (self.group(n), PartitionId([chance.below(2) as u8; 16]));
        let next = self.next.get(&(group, partition)).copied().unwrap_or(0);
        let bases = self.bases(group, partition);
        let keep = chance.below(bases.len() as u64 + 1) as usize;
        let before = bases.get(keep).copied().unwrap_or(next);
        self.submit(group, Entry::Trim(partition, before))
    }

    pub fn trim_all_but(&mut self, n: u8, p: u8, keep: usize) -> Result<(), StoreError> {
        let (group, partition) = (self.group(n), PartitionId([p; 16]));
        let bases = self.bases(group, partition);
        match bases.len().checked_sub(keep).and_then(|at| bases.get(at)) {
            Some(&before) => self.submit(group, Entry::Trim(partition, before)),
            None => Ok(()),
        }
    }

    fn bases(&self, group: GroupId, partition: PartitionId) -> Vec<Offset> {
        let log = self.logs.get(&group).map(Vec::as_slice).unwrap_or_default();
        model(log).range((partition, 0)..=(partition, Offset::MAX)).map(|((_, base), _)| *base).collect()
    }

    fn submit(&mut self, group: GroupId, entry: Entry) -> Result<(), StoreError> {
        let log = self.logs.entry(group).or_default();
        log.push(entry.clone());
        let index = log.len() as u64;
        let id = LogPos { term: 1, index, ..LogPos::default() };
        let acked = self.acked.clone();
        let op = JournalOp::Append { group, id, parts: vec![entry.encode()] };
        let done = move |outcome: Result<(), StoreError>| {
            if outcome.is_ok() {
                acked.lock().unwrap().insert(group, index);
            }
        };
        self.journal().submit(vec![op], Box::new(done));
        self.journal().poisoned().map_or(Ok(()), Err)
    }

    pub fn apply_all(&mut self) {
        self.flush_journal();
        let host = self.host();
        for n in 0..GROUPS {
            let group = self.group(n);
            host.with(group, |shard| while host.apply(group, shard).unwrap() {});
        }
    }

    /// The power fails and comes back; the node starts again, and applies its log.
    pub fn crash(&mut self, seed: u64) {
        self.node = None;
        self.disk.crash(seed);
        self.stores.crash();
        self.start();
        self.open_shards();
        for n in 0..GROUPS {
            let group = self.group(n);
            let marks = self.journal().marks(group);
            let last = marks.last.map_or(0, |last| last.index);
            let acked = self.acked.lock().unwrap().get(&group).copied().unwrap_or(0);
            assert!(last >= acked, "group {group}: {acked} was acknowledged, {last} is there");
            let applied = self.host().with(group, |shard| shard.applied);
            assert!(marks.purged.map_or(0, |id| id.index) <= applied, "group {group}: purged beyond what is applied");
            let log = self.logs.entry(group).or_default();
            log.truncate(last as usize);
            let log = log.clone();
            self.next.retain(|(of, _), _| *of != group);
            for entry in log {
                if let Entry::Put(partition, base, batch) = entry {
                    let batch = gem_types::batch::RecordBatch::open(batch).unwrap();
                    assert_eq!(batch.base_offset(), base);
                    self.next.insert((group, partition), batch.next_offset());
                }
            }
        }
        self.apply_all();
    }

    /// Every shard holds what its log says, and every batch reads right.
    pub fn verify(&mut self, when: &str) {
        self.apply_all();
        let node = self.node.as_mut().unwrap();
        let reader = Reader::new(node.journal.clone(), node.objects.clone());
        for (&group, log) in &self.logs {
            let store = node.host.with(group, |shard| shard.store.clone());
            let model = model(log);
            let mut live: BTreeMap<Holder, u64> = BTreeMap::new();
            for partition in [0, 1, 2].map(|p| PartitionId([p; 16])) {
                let rows = locations::scan(&*store, partition, 0, Offset::MAX, usize::MAX).unwrap();
                let there: Vec<_> = rows.iter().map(|(base, _)| (partition, *base)).collect();
                let range = (partition, 0)..=(partition, Offset::MAX);
                let wanted: Vec<_> = model.range(range.clone()).map(|(key, _)| *key).collect();
                assert_eq!(there, wanted, "{when}: group {group}");
                rows.iter().for_each(|(_, l)| *live.entry(l.holder()).or_default() += u64::from(l.length()));
                for ((_, base), batch) in model.range(range) {
                    let read = reader.find(&*store, group, partition, *base);
                    let read = read.unwrap_or_else(|e| panic!("{when}: group {group}, {partition} at {base}: {e}"));
                    assert_eq!(read.unwrap().to_bytes(), batch, "{when}: group {group}, {partition} at {base}");
                }
            }
            assert_eq!(locations::live_files(&*store).unwrap(), live, "{when}: the counters of group {group}");
        }
    }

    /// Gathers until there is nothing to do.
    pub fn settle(&mut self) {
        self.apply_all();
        let mut gatherer = self.gatherer();
        for _ in 0..100_000 {
            if gatherer.step().unwrap() == Next::Idle {
                return;
            }
            self.flush_journal();
        }
        panic!("gathering does not end: {:?}", gatherer.stage());
    }

    pub fn holders(&mut self) -> Vec<Holder> {
        let host = self.host();
        let shards = host.shards.lock().unwrap();
        let holders: BTreeSet<_> =
            shards.values().flat_map(|s| locations::live_files(&*s.store).unwrap().into_keys()).collect();
        holders.into_iter().collect()
    }

    pub fn live_bytes(&mut self) -> u64 {
        let host = self.host();
        let shards = host.shards.lock().unwrap();
        shards.values().flat_map(|shard| locations::live_files(&*shard.store).unwrap().into_values()).sum()
    }

    /// Objects hold at most about twice what lives in them, and the journal stays at its limit.
    pub fn check_disk_use(&mut self, seed: u64) {
        let live = self.live_bytes();
        let node = self.node();
        let in_use: u64 = node.journal.files().iter().map(|file| file.size).sum();
        assert!(in_use <= LIMIT + SEGMENT, "seed {seed}: the journal takes {in_use}");
        let objects = node.objects.bytes();
        assert!(objects <= 2 * live + SEGMENT, "seed {seed}: objects take {objects} for {live} live bytes");
    }
}

/// What a log says that a shard holds.
fn model(log: &[Entry]) -> BTreeMap<(PartitionId, Offset), Bytes> {
    let mut model = BTreeMap::new();
    for entry in log {
        match entry {
            Entry::Put(partition, base, batch) => {
                model.insert((*partition, *base), batch.clone());
            }
            Entry::Trim(partition, before) => {
                model.retain(|(of, base), _| of != partition || base >= before);
            }
        }
    }
    model
}
