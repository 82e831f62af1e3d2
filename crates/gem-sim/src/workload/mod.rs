//! The workload: producers, members, readers and operators, as they use the log of a shard.

pub mod admin;
pub mod audit;
pub mod members;
pub mod producers;
pub mod readers;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use gem_shard::Shard;
use gem_shard::log::{Append, GroupRef, Placed, ProducerBatch, ShardLog, TopicConfig};
use gem_types::batch::{BatchBuilder, RecordBatch};
use gem_types::{Code, GroupName, Message, Offset, PartitionId, Position, Result, TopicName, ring};
use tokio::task::JoinSet;

use crate::chance::Chance;
use crate::dead_letters::{SOURCE_OFFSET, SOURCE_PARTITION};
use crate::event::{Answer, Event, Kind, MessageId, Seen, Sent};
use crate::trace;
use crate::world::World;

/// Where clients come in.
pub trait Door: Send + Sync {
    /// The log of the shard that holds `position`; through which node, is drawn anew each time.
    fn log(&self, position: Position) -> Option<Arc<dyn ShardLog>>;
    /// The logs of all shards.
    fn logs(&self) -> Vec<Arc<dyn ShardLog>>;
    /// The replicas that can be looked into.
    fn replicas(&self) -> Vec<Arc<Shard>>;
    /// Notes who leads, before what a leader has handed out is judged.
    fn observe(&self) {}
}

/// The shards of one node that holds them all.
pub struct OneNode(pub Vec<Arc<Shard>>);

impl Door for OneNode {
    fn log(&self, position: Position) -> Option<Arc<dyn ShardLog>> {
        self.0.iter().find(|shard| shard.prefix().contains(position)).map(|shard| shard.clone() as Arc<dyn ShardLog>)
    }

    fn logs(&self) -> Vec<Arc<dyn ShardLog>> {
        self.0.iter().map(|shard| shard.clone() as Arc<dyn ShardLog>).collect()
    }

    fn replicas(&self) -> Vec<Arc<Shard>> {
        self.0.clone()
    }
}

/// What clients know of the nodes.
#[derive(Clone)]
pub struct Mesh {
    /// The world.
    pub world: Arc<World>,
    /// The way in.
    pub door: Arc<dyn Door>,
}

/// A message to be published.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Which.
    pub message: MessageId,
    /// Its key; empty: none.
    pub key: String,
    /// Its payload, which begins with its name.
    pub payload: Bytes,
}

impl Mesh {
    /// The shard that is a topic's home.
    pub fn home(&self, name: &TopicName) -> Option<Arc<dyn ShardLog>> {
        self.door.log(name.position())
    }

    /// The topic's only partition; made where `make` says with which configuration.
    pub async fn partition(&self, name: &TopicName, make: Option<&TopicConfig>) -> Option<PartitionId> {
        let home = self.home(name)?;
        let info = match home.topic(name.clone()).await {
            Err(error) if error.code == Code::NotFound => home.create_topic(name.clone(), make?.clone()).await.ok()?.0,
            other => other.ok()?,
        };
        let partition = info.partitions.first()?.id;
        self.world.meet(partition, name, &info.config);
        Some(partition)
    }

    /// Publishes one batch.
    pub async fn publish(
        &self,
        (topic, partition): (&TopicName, PartitionId),
        kind: Kind,
        messages: &[Outgoing],
        producer: Option<ProducerBatch>,
        wait: Duration,
    ) -> Answer<Vec<Placed>> {
        let Some(home) = self.home(topic) else { return Answer::Refused(Code::NotFound) };
        let op = self.world.op();
        let sent = messages.iter().map(|m| Sent { message: m.message, key: m.key.clone() }).collect();
        self.world.emit(Event::Publish { op, partition, kind, messages: sent });
        let dedup = match kind {
            Kind::Ids => messages.iter().map(|m| Some(digest(&m.key, &name_of(m.message)))).collect(),
            _ => Vec::new(),
        };
        let append = Append { partition, batch: batch_of(messages), dedup, producer, wait };
        let answer = Answer::of(home.append(append).await);
        self.world.emit(Event::Published { op, answer: answer.clone() });
        answer
    }

    /// A moment's rest.
    pub async fn rest(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

/// A topic's name in the workload.
pub fn topic(name: &str) -> Option<TopicName> {
    TopicName::new(name).ok()
}

/// A group of the workload.
pub fn group(topic: &TopicName, partition: PartitionId, name: &str) -> Option<GroupRef> {
    Some(GroupRef { topic: topic.clone(), partition, group: GroupName::new(name).ok()? })
}

fn name_of((producer, number): MessageId) -> String {
    format!("{producer}.{number}")
}

fn digest(key: &str, id: &str) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&ring::digest(&[b"sim id", key.as_bytes(), b"/", id.as_bytes()])[..16]);
    out
}

impl Outgoing {
    /// Message `number` of `producer`: its key and size are drawn.
    pub fn draw(producer: u32, number: u64, chance: &mut Chance) -> Outgoing {
        let key = if chance.percent(15) { String::new() } else { format!("k{}", chance.below(4)) };
        let length = if chance.percent(4) { chance.between(2_000, 6_000) } else { chance.between(10, 300) };
        let mut payload = format!("{}|", name_of((producer, number))).into_bytes();
        payload.resize(payload.len() + length as usize, b'a' + (number % 26) as u8);
        Outgoing { message: (producer, number), key, payload: payload.into() }
    }
}

fn batch_of(messages: &[Outgoing]) -> RecordBatch {
    let mut builder = BatchBuilder::new();
    for outgoing in messages {
        let message = Message {
            key: (!outgoing.key.is_empty()).then(|| Bytes::from(outgoing.key.clone().into_bytes())),
            payload: outgoing.payload.clone(),
            ..Message::default()
        };
        builder.push(&message, &name_of(outgoing.message));
    }
    builder.finish(0)
}

/// What a batch holds of `from..`.
pub fn seen_in(batch: &RecordBatch, from: Offset) -> Result<Vec<Seen>> {
    let mut all = Vec::new();
    for record in batch.records() {
        let record = record.map_err(|e| gem_types::Error::internal(e.to_string()))?;
        if record.offset < from {
            continue;
        }
        let text = String::from_utf8_lossy(&record.value);
        let name = text.split('|').next().and_then(|name| name.split_once('.'));
        let message = name.and_then(|(producer, number)| Some((producer.parse().ok()?, number.parse().ok()?)));
        let header = |name| record.header(name).and_then(|value| std::str::from_utf8(value).ok());
        let source_partition = header(SOURCE_PARTITION).and_then(|text| text.parse().ok());
        let source = source_partition.zip(header(SOURCE_OFFSET).and_then(|text| text.parse().ok()));
        all.push(Seen {
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            // Contents that nobody sent show as what they are: no message of the workload.
            message: message.unwrap_or((u32::MAX, 0)),
            key: record.key.as_ref().map(|key| String::from_utf8_lossy(key).into_owned()).unwrap_or_default(),
            hash: trace::hash(trace::EMPTY, &record.value),
            source,
        });
    }
    Ok(all)
}

/// State that outlives a life: the clients are other machines.
pub type Kept<T> = Arc<Mutex<T>>;

/// Looks at state that outlives a life, for one short moment.
pub fn with<T, R>(kept: &Kept<T>, look: impl FnOnce(&mut T) -> R) -> R {
    look(&mut kept.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The clients of a run.
pub struct Workload {
    producers: Vec<producers::Producer>,
    members: Vec<members::Member>,
    chance: Chance,
}

impl Workload {
    /// The clients that `world`'s setup asks for.
    pub fn new(world: &World, chance: &mut Chance) -> Workload {
        let mut members = Vec::new();
        for setup in &world.setup.topics {
            for (group, count) in &setup.groups {
                members.extend((0..*count).map(|n| members::Member::new(setup.name, group, n, chance)));
            }
        }
        Workload { producers: producers::all(world, chance), members, chance: chance.fork() }
    }

    /// Lets all work, as tasks of `tasks`, until these are aborted.
    pub fn start(&mut self, mesh: &Mesh, tasks: &mut JoinSet<()>) {
        for producer in &self.producers {
            tasks.spawn(producer.clone().run(mesh.clone(), self.chance.fork()));
        }
        for member in &self.members {
            tasks.spawn(member.clone().run(mesh.clone(), self.chance.fork()));
        }
        tasks.spawn(readers::run(mesh.clone(), "orders", self.chance.fork()));
        tasks.spawn(readers::run(mesh.clone(), "metrics", self.chance.fork()));
        tasks.spawn(admin::run(mesh.clone(), self.chance.fork()));
    }
}
