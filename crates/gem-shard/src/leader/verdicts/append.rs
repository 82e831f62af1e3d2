//! Verdicts on appends.

use std::collections::BTreeMap;

use gem_store::StoreError;
use gem_types::{Error, Offset, TimestampMs};

use super::flight::{AppendFlight, Kind, NumbersFlight, PartitionFlight};
use super::numbers::{self, Known};
use super::{Ticket, Verdict, Verdicts};
use crate::entry::{AppendBatch, Command, Number};
use crate::log::{Append, Placed, ProducerBatch};
use crate::machine::{ID_BYTES, Machine, no_partition, no_topic};

/// What a publisher of ids waits when their table is full.
const IDS_RETRY_MS: u64 = 1000;

/// What is to become of each record.
struct Plan {
    placed: Vec<Placed>,
    keep: Vec<bool>,
    /// The partition's next offset after it.
    next: Offset,
    /// The last proposal in flight that stores one of the duplicates.
    after: Option<Ticket>,
}

impl Verdicts {
    /// Judges an append: finds what is stored already, by number or id, in the batch itself too,
    /// and stamps the rest with its offsets and a time that never falls.
    pub fn append(
        &mut self,
        machine: &mut Machine,
        append: Append,
        now_ms: TimestampMs,
    ) -> Result<Verdict, StoreError> {
        let id = append.partition;
        let Some(partition) = machine.partition(id)? else { return Ok(Verdict::Refuse(no_partition(id))) };
        let (topic, applied_next, applied_ms) = (partition.topic.clone(), partition.next, partition.last_ms);
        if partition.sealed_at.is_some() {
            return Ok(Verdict::Refuse(Error::unavailable(format!("partition {id} is sealed: route again"), 0)));
        }
        if self.flight.is_deleting(&topic) {
            return Ok(Verdict::Refuse(no_topic(&topic)));
        }
        if let Err(error) = check_shape(&append) {
            return Ok(Verdict::Refuse(error));
        }
        let flight = self.flight.partition(id);
        let known = match &append.producer {
            Some(producer) => match numbers::judge(machine, id, flight, producer)? {
                Ok(known) => known,
                Err(error) => return Ok(Verdict::Refuse(error)),
            },
            None => vec![None; append.batch.count() as usize],
        };
        let base = flight.map_or(applied_next, |flight| flight.next.max(applied_next));
        let at_ms = flight.map_or(applied_ms, |flight| flight.last_ms.max(applied_ms)).max(now_ms);
        let plan = plan(machine, flight, &append, &known, base);

        let new_ids = append.dedup.iter().zip(&plan.keep).filter(|(id, keep)| id.is_some() && **keep).count() as u64;
        let ids_bytes = self.ids_elsewhere + machine.ids_bytes() + (self.flight.ids() + new_ids) * ID_BYTES;
        if new_ids > 0 && ids_bytes > self.dedup_bytes {
            return Ok(Verdict::Refuse(Error::throttled(
                "the table of message ids is full: publish without ids, slow down, or raise dedup_bytes",
                IDS_RETRY_MS,
            )));
        }
        Ok(self.propose(append, known, plan, (base, at_ms)))
    }

    fn propose(&mut self, append: Append, known: Known, plan: Plan, (base, at_ms): (Offset, TimestampMs)) -> Verdict {
        let Plan { placed, keep, next, after } = plan;
        let id = append.partition;
        let mut commands = Vec::with_capacity(1);
        let mut flight = AppendFlight { partition: id, next, at_ms, ids: Vec::new(), producer: None };
        // Numbers of records that were stored under an id: they must not be asked for again.
        let aliases = append.producer.as_ref().map(|producer| aliases(producer, &known, &placed, &keep));

        if keep.contains(&true) {
            let batch = if keep.contains(&false) {
                append.batch.select(|index| keep.get(index as usize).copied().unwrap_or(false))
            } else {
                Ok(append.batch)
            };
            let mut batch = match batch {
                Ok(batch) => batch,
                Err(error) => return Verdict::Refuse(Error::internal(format!("a batch could not be cut: {error}"))),
            };
            batch.stamp(base, at_ms);
            let kept = |index: &usize| keep.get(*index).copied().unwrap_or(false);
            let mut dedup = only(append.dedup, kept);
            if dedup.iter().all(Option::is_none) {
                dedup.clear();
            }
            flight.ids = dedup.iter().zip(base..).filter_map(|(digest, offset)| Some(((*digest)?, offset))).collect();
            let producer = append.producer.clone().map(|mut producer| {
                producer.numbers = only(producer.numbers, kept);
                producer
            });
            commands.push(Command::Append(AppendBatch { partition: id, batch, dedup, producer }));
        }
        if let (Some(producer), Some(aliases)) = (&append.producer, aliases) {
            let kept = producer.numbers.iter().zip(&placed).zip(&keep).filter(|(_, keep)| **keep);
            let mut numbers: Vec<(u64, Offset)> = kept.map(|((number, placed), _)| (*number, placed.offset)).collect();
            numbers.extend(&aliases);
            let (id, settled) = (producer.producer, producer.settled);
            flight.producer = Some(NumbersFlight { id, settled, numbers });
            if !aliases.is_empty() {
                let partition = append.partition;
                commands.push(Command::Number(Number { partition, producer: id, settled, placed: aliases }));
            }
        }
        if commands.is_empty() {
            return Verdict::Duplicate { placed, after };
        }
        let ticket = self.flight.add(Kind::Append(flight));
        Verdict::Propose { commands, ticket, placed }
    }
}

fn check_shape(append: &Append) -> Result<(), Error> {
    let records = append.batch.count() as usize;
    if !append.dedup.is_empty() && append.dedup.len() != records {
        return Err(Error::invalid(format!("{} ids for {records} records", append.dedup.len())));
    }
    let Some(producer) = &append.producer else { return Ok(()) };
    if producer.numbers.len() != records {
        return Err(Error::invalid(format!("{} numbers for {records} records", producer.numbers.len())));
    }
    let rises = producer.numbers.is_sorted_by(|a, b| a < b);
    if !rises || producer.numbers.first().is_none_or(|first| *first == 0 || *first <= producer.previous) {
        return Err(Error::invalid("a producer's numbers begin above 0 and above the previous one, and rise"));
    }
    Ok(())
}

/// Says where each record is or will be: the new ones from `base` on.
fn plan(machine: &Machine, flight: Option<&PartitionFlight>, append: &Append, known: &Known, base: Offset) -> Plan {
    let mut plan = Plan { placed: Vec::new(), keep: Vec::new(), next: base, after: None };
    let mut here: BTreeMap<[u8; 16], Offset> = BTreeMap::new();
    for (index, known) in known.iter().enumerate() {
        let digest = append.dedup.get(index).copied().flatten();
        let stored = known.or_else(|| {
            let digest = digest?;
            let applied = machine.dedup(append.partition, &digest).map(|offset| (offset, None));
            let flying = || flight?.ids.get(&digest).map(|(offset, ticket)| (*offset, Some(*ticket)));
            applied.or_else(flying).or_else(|| here.get(&digest).map(|offset| (*offset, None)))
        });
        match stored {
            Some((offset, ticket)) => {
                plan.placed.push(Placed { offset, duplicate: true });
                plan.after = plan.after.max(ticket);
            }
            None => {
                here.extend(digest.map(|digest| (digest, plan.next)));
                plan.placed.push(Placed { offset: plan.next, duplicate: false });
                plan.next += 1;
            }
        }
        plan.keep.push(stored.is_none());
    }
    plan
}

/// New numbers of records that are not stored again, and where the first ones are.
fn aliases(producer: &ProducerBatch, known: &Known, placed: &[Placed], keep: &[bool]) -> Vec<(u64, Offset)> {
    let records = producer.numbers.iter().zip(known).zip(placed).zip(keep);
    records
        .filter(|(((_, known), _), keep)| known.is_none() && !**keep)
        .map(|(((number, _), placed), _)| (*number, placed.offset))
        .collect()
}

fn only<T>(items: Vec<T>, kept: impl Fn(&usize) -> bool) -> Vec<T> {
    items.into_iter().enumerate().filter(|(index, _)| kept(index)).map(|(_, item)| item).collect()
}
