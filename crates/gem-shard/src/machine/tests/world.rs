//! A leader and its machine, driven by small numbers: for property tests that shrink.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gem_store::index::locations::Location;
use gem_store::index::model::ModelStores;
use gem_store::index::ordered::{OrderedStore, OrderedStores};
use gem_types::batch::{BatchBuilder, RecordBatch};
use gem_types::{GroupId, GroupName, Message, Offset, PartitionId, ProducerId, TopicName};

use crate::entry::{Command, Entry, LogPos, Progress};
use crate::leader::verdicts::{Ruling, Verdict, Verdicts};
use crate::log::{Append, GroupRef, Mode, Placed, ProducerBatch, TopicChange, TopicConfig};
use crate::machine::{Machine, Outcome};

pub const GROUP: GroupId = GroupId([3; 16]);

pub fn open(stores: &ModelStores) -> Machine {
    Machine::open(store(stores)).unwrap()
}

pub fn store(stores: &ModelStores) -> Arc<dyn OrderedStore> {
    stores.open(GROUP).unwrap()
}

pub fn pos(index: u64) -> LogPos {
    LogPos { term: 1, index, ..LogPos::default() }
}

pub fn name(text: &str) -> TopicName {
    TopicName::new(text).unwrap()
}

pub fn digest(id: u8) -> [u8; 16] {
    [id; 16]
}

pub fn batch(records: usize) -> RecordBatch {
    let mut builder = BatchBuilder::new();
    for n in 0..records {
        let message = Message { payload: Bytes::from(vec![n as u8; 10]), ..Message::default() };
        builder.push(&message, "made");
    }
    builder.finish(1)
}

pub fn append(partition: PartitionId, ids: &[Option<u8>]) -> Append {
    let dedup =
        if ids.iter().all(Option::is_none) { Vec::new() } else { ids.iter().map(|id| id.map(digest)).collect() };
    Append { partition, batch: batch(ids.len()), dedup, producer: None, wait: Duration::ZERO }
}

pub fn numbered(partition: PartitionId, producer: i64, numbers: &[u64], previous: u64, settled: u64) -> Append {
    let numbers_of = ProducerBatch { producer: ProducerId(producer), numbers: numbers.to_vec(), previous, settled };
    Append {
        partition,
        batch: batch(numbers.len()),
        dedup: Vec::new(),
        producer: Some(numbers_of),
        wait: Duration::ZERO,
    }
}

pub fn place(index: u64, entry: &Entry) -> impl Fn(usize) -> Option<Location> {
    let length = |command: &Command| match command {
        Command::Append(append) => append.batch.len() as u32,
        _ => 0,
    };
    let lengths: Vec<u32> = entry.commands.iter().map(length).collect();
    move |command| Some(Location::Object { object: index / 3, position: command as u64, length: lengths[command] })
}

/// A leader that applies what it proposes, at once or some entries later.
pub struct World {
    pub machine: Machine,
    pub verdicts: Verdicts,
    pub now_ms: i64,
    /// All entries proposed, by index from 1.
    pub log: Vec<Entry>,
    /// How many entries fly at most.
    pub fly: usize,
    flying: Vec<u64>,
    ticket: u64,
    /// The outcomes of the entry applied last.
    outcomes: Vec<Outcome>,
}

impl World {
    pub fn new(fly: usize) -> World {
        let machine = open(&ModelStores::new());
        let verdicts = Verdicts::new(1 << 20);
        World {
            machine,
            verdicts,
            now_ms: 1_000_000,
            log: Vec::new(),
            fly,
            flying: Vec::new(),
            ticket: 0,
            outcomes: Vec::new(),
        }
    }

    /// Proposes commands in one entry, and applies what may no longer fly.
    pub fn propose(&mut self, commands: Vec<Command>) {
        self.log.push(Entry { now_ms: self.now_ms, commands });
        self.flying.push(self.ticket);
        while self.flying.len() > self.fly {
            self.land();
        }
    }

    /// Applies all that flies; answers the last entry's outcomes.
    pub fn settle(&mut self) -> &[Outcome] {
        while !self.flying.is_empty() {
            self.land();
        }
        &self.outcomes
    }

    fn land(&mut self) {
        let index = (self.log.len() - self.flying.len() + 1) as u64;
        let entry = self.log[index as usize - 1].clone();
        self.outcomes = self.machine.apply(pos(index), &entry, place(index, &entry)).unwrap();
        self.machine.commit().unwrap();
        let ticket = self.flying.remove(0);
        let fits = self.verdicts.applied(ticket, &self.outcomes);
        assert!(fits, "within a term every batch fits: {:?}", self.outcomes);
    }

    pub fn append(&mut self, append: Append) -> Result<Vec<Placed>, gem_types::Error> {
        match self.verdicts.append(&mut self.machine, append, self.now_ms).unwrap() {
            Verdict::Propose { commands, ticket, placed } => {
                self.ticket = ticket;
                self.propose(commands);
                Ok(placed)
            }
            Verdict::Duplicate { placed, after } => {
                assert!(after.is_none_or(|after| after <= self.ticket));
                Ok(placed)
            }
            Verdict::Refuse(error) => Err(error),
        }
    }

    /// Judges and proposes any other command; answers its outcome where it is applied by now.
    pub fn command(&mut self, command: Command) -> Option<Outcome> {
        match self.verdicts.judge(&mut self.machine, command).unwrap() {
            Ruling::Propose(command, ticket) => {
                self.ticket = ticket;
                self.propose(vec![command]);
                if self.fly == 0 { self.outcomes.last().cloned() } else { None }
            }
            Ruling::Known(outcome) => Some(outcome),
        }
    }

    pub fn create(&mut self, topic: &str) -> PartitionId {
        self.command(Command::CreateTopic { name: name(topic), config: config() });
        self.settle();
        self.partition(topic).unwrap()
    }

    pub fn partition(&mut self, topic: &str) -> Option<PartitionId> {
        Some(self.machine.topic(&name(topic)).unwrap()?.partitions[0].id)
    }

    pub fn group(&mut self, topic: &str, group: &str) -> Option<GroupRef> {
        let partition = self.partition(topic)?;
        Some(GroupRef { topic: name(topic), partition, group: GroupName::new(group).unwrap() })
    }

    pub fn next(&mut self, partition: PartitionId) -> Offset {
        self.machine.partition(partition).unwrap().unwrap().next
    }

    /// One step, of whatever kind the numbers say.
    pub fn step(&mut self, (kind, a, b, c): Step) {
        self.now_ms += i64::from(c) % 50 - 5;
        let topic = ["ta", "tb", "tc"][a as usize % 3];
        let group = ["g1", "g2"][b as usize % 2];
        let partition = self.partition(topic);
        match (kind % 16, partition) {
            (0, _) => drop(self.command(Command::CreateTopic { name: name(topic), config: config() })),
            (1, Some(_)) if b % 8 == 0 => drop(self.command(Command::DeleteTopic { name: name(topic) })),
            (1, Some(_)) => {
                let change = TopicChange { max_deliveries: Some(u32::from(b)), ..TopicChange::default() };
                drop(self.command(Command::AlterTopic { name: name(topic), change }))
            }
            (2 | 3, Some(partition)) => {
                let ids: Vec<Option<u8>> =
                    (0..1 + c % 4).map(|n| (n != 1).then_some(b.wrapping_add(n as u8) % 24)).collect();
                drop(self.append(append(partition, &ids)))
            }
            (4 | 5, Some(partition)) => drop(self.append(append(partition, &vec![None; 1 + c as usize % 5]))),
            (6 | 7, Some(partition)) => self.numbered_step(partition, a, b, c),
            (8, Some(partition)) => {
                let before = (c % 3 != 0).then(|| u64::from(b));
                if let Ruling::Propose(command, ticket) =
                    self.verdicts.trim(&mut self.machine, partition, before).unwrap()
                {
                    self.ticket = ticket;
                    self.propose(vec![command]);
                }
            }
            (9, Some(_)) => {
                let Some(group) = self.group(topic, group) else { return };
                let command = match c % 6 {
                    0 => Command::DeleteGroup { group },
                    1 => Command::Seek { group, offset: u64::from(b) },
                    _ => Command::CreateGroup { group, mode: Mode::Shared, start: u64::from(a) },
                };
                drop(self.command(command))
            }
            (10..=13, Some(partition)) => {
                let Some(group) = self.group(topic, group) else { return };
                let next = self.next(partition).max(1);
                drop(self.command(Command::Progress(progress(group, (a, b, c), next))))
            }
            (14, Some(partition)) => {
                let before_ms = self.now_ms - i64::from(b);
                drop(self.command(Command::ExpireIds { partition, before_ms }))
            }
            (15, Some(partition)) => {
                let before_ms = self.now_ms - i64::from(b);
                drop(self.command(Command::ExpireProducers { partition, before_ms }))
            }
            _ => {}
        }
    }

    /// A producer that retries, skips and overlaps as it likes.
    fn numbered_step(&mut self, partition: PartitionId, a: u8, b: u8, c: u16) {
        let producer = ProducerId::new(self.now_ms / 400 * 400 - 200, u64::from(b % 2)).0;
        let last = match self.machine.producer(partition, ProducerId(producer)).unwrap() {
            Some(row) => row.last,
            None => 0,
        };
        let first = (last + 1).saturating_sub(u64::from(a % 3)).max(1);
        let numbers: Vec<u64> = (first..first + 1 + u64::from(c % 3)).collect();
        let settled = last.saturating_sub(u64::from(b % 5));
        drop(self.append(numbered(partition, producer, &numbers, first - 1, settled)))
    }
}

/// Kind and three numbers.
pub type Step = (u8, u8, u8, u16);

pub fn config() -> TopicConfig {
    TopicConfig { retention_ms: 1000, dedup_window_ms: 200, ..TopicConfig::default() }
}

pub fn progress(group: GroupRef, (a, b, c): (u8, u8, u16), next: Offset) -> Progress {
    let at = u64::from(c) % next;
    let mut progress = Progress::of(group);
    match a % 5 {
        0 | 1 => progress.acked = vec![(at, at + 1 + u64::from(b % 4)), (at + 6, at + 7)],
        2 => progress.attempts = vec![(at, u32::from(b)), (at + 2, 2)],
        3 => progress.delayed = vec![(at, i64::from(b))],
        _ if b % 2 == 0 => progress.moving = vec![at, at + 1],
        _ => progress.moved = vec![at],
    }
    progress.frontier = (b % 7 == 0).then_some(at);
    progress.redelivered = u64::from(b % 2);
    progress
}
