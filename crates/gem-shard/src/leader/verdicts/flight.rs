//! What is in flight: proposed, and not yet known to be applied.
//!
//! Bounded by the entries that the proposer lets fly.

use std::collections::{BTreeMap, VecDeque};

use gem_types::{GroupName, Offset, PartitionId, ProducerId, TimestampMs, TopicName};

use super::Ticket;

/// All that is in flight.
#[derive(Debug, Default)]
pub(super) struct Flight {
    last: Ticket,
    proposals: VecDeque<(Ticket, Kind)>,
    partitions: BTreeMap<PartitionId, PartitionFlight>,
    topics: BTreeMap<TopicName, TopicFlight>,
    groups: BTreeMap<(PartitionId, GroupName), u32>,
    ids: u64,
}

/// What of a proposal later verdicts have to know.
#[derive(Debug)]
pub(super) enum Kind {
    Append(AppendFlight),
    Topic(TopicName),
    Deletion(TopicName),
    Group((PartitionId, GroupName)),
    ProducerExpiry(PartitionId, TimestampMs),
    Other,
}

/// An append in flight.
#[derive(Debug)]
pub(super) struct AppendFlight {
    pub partition: PartitionId,
    /// The partition's next offset after it.
    pub next: Offset,
    /// Its append time.
    pub at_ms: TimestampMs,
    /// The ids that it stores, and where.
    pub ids: Vec<([u8; 16], Offset)>,
    /// The numbers that it stores, and where.
    pub producer: Option<NumbersFlight>,
}

/// Numbers of a producer in flight.
#[derive(Debug)]
pub(super) struct NumbersFlight {
    pub id: ProducerId,
    pub settled: u64,
    pub numbers: Vec<(u64, Offset)>,
}

/// A partition with something in flight.
#[derive(Debug, Default)]
pub(super) struct PartitionFlight {
    proposals: u32,
    /// The next offset after all that is in flight.
    pub next: Offset,
    /// The last append time.
    pub last_ms: TimestampMs,
    /// Ids in flight: where they will be, and which proposal stores them.
    pub ids: BTreeMap<[u8; 16], (Offset, Ticket)>,
    pub producers: BTreeMap<ProducerId, ProducerFlight>,
    /// Producers last seen before this time are about to be forgotten.
    pub expiring_ms: Option<TimestampMs>,
}

/// A producer with numbers in flight.
#[derive(Debug, Default)]
pub(super) struct ProducerFlight {
    proposals: u32,
    pub settled: u64,
    pub last: u64,
    pub numbers: BTreeMap<u64, (Offset, Ticket)>,
}

#[derive(Debug, Default)]
struct TopicFlight {
    proposals: u32,
    deletions: u32,
}

impl Flight {
    pub fn len(&self) -> usize {
        self.proposals.len()
    }

    pub fn clear(&mut self) {
        *self = Flight { last: self.last, ..Flight::default() };
    }

    pub fn partition(&self, partition: PartitionId) -> Option<&PartitionFlight> {
        self.partitions.get(&partition)
    }

    /// How many ids are in flight.
    pub fn ids(&self) -> u64 {
        self.ids
    }

    pub fn concerns_topic(&self, name: &TopicName) -> bool {
        self.topics.contains_key(name)
    }

    pub fn concerns_group(&self, group: &crate::log::GroupRef) -> bool {
        self.groups.contains_key(&(group.partition, group.group.clone()))
    }

    pub fn is_deleting(&self, name: &TopicName) -> bool {
        self.topics.get(name).is_some_and(|topic| topic.deletions > 0)
    }

    /// Takes off; answers the ticket.
    pub fn add(&mut self, kind: Kind) -> Ticket {
        self.last += 1;
        let ticket = self.last;
        match &kind {
            Kind::Append(append) => self.add_append(append, ticket),
            Kind::Topic(name) => self.topics.entry(name.clone()).or_default().proposals += 1,
            Kind::Deletion(name) => {
                let topic = self.topics.entry(name.clone()).or_default();
                topic.proposals += 1;
                topic.deletions += 1;
            }
            Kind::Group(group) => *self.groups.entry(group.clone()).or_default() += 1,
            Kind::ProducerExpiry(partition, before_ms) => {
                let flight = self.partitions.entry(*partition).or_default();
                flight.proposals += 1;
                flight.expiring_ms = flight.expiring_ms.max(Some(*before_ms));
            }
            Kind::Other => {}
        }
        self.proposals.push_back((ticket, kind));
        ticket
    }

    /// Lands all up to `ticket`.
    pub fn land(&mut self, ticket: Ticket) {
        while let Some((_, kind)) = self.proposals.pop_front_if(|(first, _)| *first <= ticket) {
            match kind {
                Kind::Append(append) => self.land_append(&append, ticket),
                Kind::Topic(name) => self.land_topic(&name, 0),
                Kind::Deletion(name) => self.land_topic(&name, 1),
                Kind::Group(group) => {
                    if let Some(proposals) = self.groups.get_mut(&group) {
                        *proposals -= 1;
                        if *proposals == 0 {
                            self.groups.remove(&group);
                        }
                    }
                }
                Kind::ProducerExpiry(partition, before_ms) => {
                    if let Some(flight) = self.partitions.get_mut(&partition)
                        && flight.expiring_ms == Some(before_ms)
                    {
                        flight.expiring_ms = None;
                    }
                    self.land_partition(partition);
                }
                Kind::Other => {}
            }
        }
    }

    fn add_append(&mut self, append: &AppendFlight, ticket: Ticket) {
        let flight = self.partitions.entry(append.partition).or_default();
        flight.proposals += 1;
        flight.next = append.next;
        flight.last_ms = append.at_ms;
        flight.ids.extend(append.ids.iter().map(|(digest, offset)| (*digest, (*offset, ticket))));
        self.ids += append.ids.len() as u64;
        if let Some(NumbersFlight { id, settled, numbers }) = &append.producer {
            let producer = flight.producers.entry(*id).or_default();
            producer.proposals += 1;
            producer.settled = producer.settled.max(*settled);
            producer.last = numbers.iter().map(|(number, _)| *number).fold(producer.last, u64::max);
            producer.numbers.extend(numbers.iter().map(|(number, offset)| (*number, (*offset, ticket))));
        }
    }

    fn land_append(&mut self, append: &AppendFlight, ticket: Ticket) {
        self.ids = self.ids.saturating_sub(append.ids.len() as u64);
        let Some(flight) = self.partitions.get_mut(&append.partition) else { return };
        for (digest, _) in &append.ids {
            flight.ids.remove(digest);
        }
        if let Some(NumbersFlight { id, numbers, .. }) = &append.producer
            && let Some(producer) = flight.producers.get_mut(id)
        {
            for (number, _) in numbers {
                if producer.numbers.get(number).is_some_and(|(_, of)| *of <= ticket) {
                    producer.numbers.remove(number);
                }
            }
            producer.proposals -= 1;
            if producer.proposals == 0 {
                flight.producers.remove(id);
            }
        }
        self.land_partition(append.partition);
    }

    fn land_partition(&mut self, partition: PartitionId) {
        if let Some(flight) = self.partitions.get_mut(&partition) {
            flight.proposals -= 1;
            if flight.proposals == 0 {
                self.partitions.remove(&partition);
            }
        }
    }

    fn land_topic(&mut self, name: &TopicName, deletions: u32) {
        if let Some(topic) = self.topics.get_mut(name) {
            topic.proposals -= 1;
            topic.deletions -= deletions;
            if topic.proposals == 0 {
                self.topics.remove(name);
            }
        }
    }
}
