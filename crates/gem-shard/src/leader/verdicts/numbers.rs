//! Verdicts on numbered producers: which numbers are known, and whether a batch is in order.
//!
//! RIFL (Lee et al., SOSP 2015), with an order on top: a batch names its producer's previous
//! number in the partition. A leader that knows neither that number nor a settled mark above it
//! would store the batch ahead of what it follows, so it refuses; the gateway sends again from
//! the first number that is not settled.

use gem_store::StoreError;
use gem_types::{Code, Error, Offset, PartitionId};

use super::Ticket;
use super::flight::PartitionFlight;
use crate::log::ProducerBatch;
use crate::machine::{Machine, is_internal};

/// A partition remembers at most so many unsettled numbers of one producer.
const UNSETTLED_MAX: u64 = 65_536;
const OUT_OF_ORDER: &str = "out of order: ";

/// The refusal of a batch whose predecessor is not here: send again from the first unsettled
/// number. Gateways do; users never see it.
pub fn out_of_order(previous: u64) -> Error {
    Error::unavailable(format!("{OUT_OF_ORDER}number {previous} of this producer has not arrived"), 0)
}

/// Whether `error` is [`out_of_order`].
pub fn is_out_of_order(error: &Error) -> bool {
    error.code == Code::Unavailable && error.detail.starts_with(OUT_OF_ORDER)
}

/// Where each number of a batch is stored or about to be; `None` for new ones.
pub(super) type Known = Vec<Option<(Offset, Option<Ticket>)>>;

/// Judges the numbers of a batch for `partition`, of which `flight` is in flight.
pub(super) fn judge(
    machine: &mut Machine,
    partition: PartitionId,
    flight: Option<&PartitionFlight>,
    batch: &ProducerBatch,
) -> Result<Result<Known, Error>, StoreError> {
    let id = batch.producer;
    let frontier_ms = machine.partition(partition)?.map_or(0, |partition| partition.producer_frontier_ms);
    let expiring_ms = flight.and_then(|flight| flight.expiring_ms).unwrap_or(i64::MIN);
    let flying = flight.and_then(|flight| flight.producers.get(&id));
    let row = machine.producer(partition, id)?;

    let is_forgotten = match row {
        Some(row) => flying.is_none() && row.seen_ms < expiring_ms,
        None => flying.is_none() && id.created_ms().is_some_and(|made_ms| made_ms < frontier_ms.max(expiring_ms)),
    };
    if is_forgotten && !is_internal(id) {
        return Ok(Err(Error::conflict(format!(
            "producer {} was idle for too long and is forgotten: go on under a new producer id",
            id.0
        ))));
    }

    let settled = row.map_or(0, |row| row.settled).max(flying.map_or(0, |flying| flying.settled));
    let last = row.map_or(0, |row| row.last).max(flying.map_or(0, |flying| flying.last));
    let find = |number: u64| {
        row.and_then(|row| row.find(number)).map(|offset| (offset, None)).or_else(|| {
            let (offset, ticket) = flying?.numbers.get(&number)?;
            Some((*offset, Some(*ticket)))
        })
    };
    let known: Known = batch.numbers.iter().map(|number| find(*number)).collect();

    let mut new = batch.numbers.iter().zip(&known).filter(|(_, known)| known.is_none()).map(|(number, _)| *number);
    let Some(first_new) = new.next() else { return Ok(Ok(known)) };
    if first_new < settled {
        return Ok(Err(Error::conflict(format!(
            "number {first_new} lies below {settled}, under which this producer said all is settled"
        ))));
    }
    if is_internal(id) {
        return Ok(Ok(known));
    }
    if first_new <= last {
        return Ok(Err(Error::conflict(format!(
            "number {first_new} comes after number {last} of this producer was stored: order is lost"
        ))));
    }
    let previous = batch.previous;
    let follows = previous == 0
        || previous == last
        || previous < settled.max(batch.settled)
        || find(previous).is_some()
        || batch.numbers.first().is_some_and(|first| *first < first_new);
    if !follows {
        return Ok(Err(out_of_order(previous)));
    }
    let held = row.map_or(0, |row| row.held()) + flying.map_or(0, |flying| flying.numbers.len() as u64);
    if held + 1 + new.count() as u64 > UNSETTLED_MAX {
        return Ok(Err(Error::throttled(
            format!("this producer has {held} unsettled messages in one partition: settle some before more are sent"),
            100,
        )));
    }
    Ok(Ok(known))
}
