//! The commands' codec: a tag, the body's length, the body. Batches lie elsewhere ([`super`]).
//!
//! A new field goes to the end of its body under a new tag: old entries are read for ever.

use gem_types::batch::RecordBatch;
use gem_types::{GroupName, PartitionId, ProducerId};

use super::wire::{Malformed, Reader, Writer};
use super::{AppendBatch, Command, Number, Progress};
use crate::log::{GroupRef, Mode, Ordering, ProducerBatch, TopicChange, TopicConfig};

const APPEND: u8 = 1;
const NUMBER: u8 = 2;
const CREATE_TOPIC: u8 = 3;
const ALTER_TOPIC: u8 = 4;
const DELETE_TOPIC: u8 = 5;
const TRIM: u8 = 6;
const CREATE_GROUP: u8 = 7;
const DELETE_GROUP: u8 = 8;
const SEEK: u8 = 9;
const PROGRESS: u8 = 10;
const EXPIRE_IDS: u8 = 11;
const EXPIRE_PRODUCERS: u8 = 12;

impl Command {
    /// The encoded bytes, about, its batch included.
    pub fn size(&self) -> usize {
        match self {
            Command::Append(append) => {
                let numbers = append.producer.as_ref().map_or(0, |p| 16 + 2 * p.numbers.len());
                32 + append.batch.len() + 17 * append.dedup.len() + numbers
            }
            Command::Number(number) => 40 + 12 * number.placed.len(),
            Command::Progress(progress) => {
                let lists = progress.acked.len() + progress.attempts.len() + progress.delayed.len();
                64 + 12 * (lists + progress.moving.len() + progress.moved.len())
            }
            _ => 128,
        }
    }
}

/// Writes a command; of an append, all but the batch.
pub(super) fn put(out: &mut Writer, command: &Command) {
    let mut body = Writer::new();
    let tag = put_body(&mut body, command);
    out.u8(tag).bytes(&body.finish());
}

fn put_body(out: &mut Writer, command: &Command) -> u8 {
    match command {
        Command::Append(append) => {
            out.fixed(&append.partition.0).u64(append.batch.len() as u64);
            put_origin(out, &append.dedup, append.producer.as_ref());
            APPEND
        }
        Command::Number(number) => {
            out.fixed(&number.partition.0).i64(number.producer.0).u64(number.settled).u64(number.placed.len() as u64);
            for (n, offset) in &number.placed {
                out.u64(*n).u64(*offset);
            }
            NUMBER
        }
        Command::CreateTopic { name, config } => {
            out.bytes(name.as_str().as_bytes());
            put_config(out, config);
            CREATE_TOPIC
        }
        Command::AlterTopic { name, change } => {
            out.bytes(name.as_str().as_bytes());
            put_change(out, change);
            ALTER_TOPIC
        }
        Command::DeleteTopic { name } => {
            out.bytes(name.as_str().as_bytes());
            DELETE_TOPIC
        }
        Command::Trim { partition, before } => {
            out.fixed(&partition.0).u64(*before);
            TRIM
        }
        Command::CreateGroup { group, mode, start } => {
            put_group(out, group);
            out.u8(mode_tag(*mode)).u64(*start);
            CREATE_GROUP
        }
        Command::DeleteGroup { group } => {
            put_group(out, group);
            DELETE_GROUP
        }
        Command::Seek { group, offset } => {
            put_group(out, group);
            out.u64(*offset);
            SEEK
        }
        Command::Progress(progress) => {
            put_progress(out, progress);
            PROGRESS
        }
        Command::ExpireIds { partition, before_ms } => {
            out.fixed(&partition.0).i64(*before_ms);
            EXPIRE_IDS
        }
        Command::ExpireProducers { partition, before_ms } => {
            out.fixed(&partition.0).i64(*before_ms);
            EXPIRE_PRODUCERS
        }
    }
}

/// Reads a command; `batch` takes the next batch of so many bytes.
pub(super) fn take(
    input: &mut Reader<'_>,
    batch: impl FnOnce(usize) -> Result<RecordBatch, Malformed>,
) -> Result<Command, Malformed> {
    let tag = input.u8()?;
    let mut body = Reader::new(input.bytes()?, "command");
    let command = take_body(tag, &mut body, batch)?;
    body.end()?;
    Ok(command)
}

fn take_body(
    tag: u8,
    body: &mut Reader<'_>,
    batch: impl FnOnce(usize) -> Result<RecordBatch, Malformed>,
) -> Result<Command, Malformed> {
    Ok(match tag {
        APPEND => {
            let partition = body.partition()?;
            let batch = batch(batch_len(body)?)?;
            let (dedup, producer) = take_origin(body, batch.count() as usize)?;
            Command::Append(AppendBatch { partition, batch, dedup, producer })
        }
        NUMBER => {
            let (partition, producer, settled) = (body.partition()?, ProducerId(body.i64()?), body.u64()?);
            let mut placed = Vec::with_capacity(body.clone().count(2)?);
            for _ in 0..body.count(2)? {
                placed.push((body.u64()?, body.u64()?));
            }
            Command::Number(Number { partition, producer, settled, placed })
        }
        CREATE_TOPIC => Command::CreateTopic { name: body.topic()?, config: take_config(body)? },
        ALTER_TOPIC => Command::AlterTopic { name: body.topic()?, change: take_change(body)? },
        DELETE_TOPIC => Command::DeleteTopic { name: body.topic()? },
        TRIM => Command::Trim { partition: body.partition()?, before: body.u64()? },
        CREATE_GROUP => Command::CreateGroup { group: take_group(body)?, mode: take_mode(body)?, start: body.u64()? },
        DELETE_GROUP => Command::DeleteGroup { group: take_group(body)? },
        SEEK => Command::Seek { group: take_group(body)?, offset: body.u64()? },
        PROGRESS => Command::Progress(take_progress(body)?),
        EXPIRE_IDS => Command::ExpireIds { partition: body.partition()?, before_ms: body.i64()? },
        EXPIRE_PRODUCERS => Command::ExpireProducers { partition: body.partition()?, before_ms: body.i64()? },
        _ => return Err(Malformed("command: not a kind that this release knows")),
    })
}

/// Passes over a command; of an append, answers the partition and the batch's length.
pub(super) fn peek_batch(input: &mut Reader<'_>) -> Result<Option<(PartitionId, usize)>, Malformed> {
    let tag = input.u8()?;
    let mut body = Reader::new(input.bytes()?, "command");
    if tag != APPEND {
        return Ok(None);
    }
    let partition = body.partition()?;
    Ok(Some((partition, batch_len(&mut body)?)))
}

fn batch_len(body: &mut Reader<'_>) -> Result<usize, Malformed> {
    usize::try_from(body.u64()?).map_err(|_| body.malformed())
}

/// Writes by what the records of an append are known again: clients' ids, a producer's numbers.
pub(crate) fn put_origin(out: &mut Writer, dedup: &[Option<[u8; 16]>], producer: Option<&ProducerBatch>) {
    out.u64(dedup.len() as u64);
    for id in dedup {
        match id {
            Some(id) => out.u8(1).fixed(id),
            None => out.u8(0),
        };
    }
    match producer {
        Some(producer) => {
            out.u8(1).i64(producer.producer.0).u64(producer.previous).u64(producer.settled);
            out.rising(producer.numbers.iter().copied());
        }
        None => {
            out.u8(0);
        }
    }
}

/// What [`put_origin`] wrote of an append.
type Origin = (Vec<Option<[u8; 16]>>, Option<ProducerBatch>);

/// Reads what [`put_origin`] wrote of an append of `records` records.
pub(crate) fn take_origin(body: &mut Reader<'_>, records: usize) -> Result<Origin, Malformed> {
    let (dedup, producer) = (take_dedup(body)?, take_producer(body)?);
    let fits = dedup.is_empty() || dedup.len() == records;
    if fits && producer.as_ref().is_none_or(|producer| producer.numbers.len() == records) {
        Ok((dedup, producer))
    } else {
        Err(body.malformed())
    }
}

fn take_dedup(body: &mut Reader<'_>) -> Result<Vec<Option<[u8; 16]>>, Malformed> {
    let count = body.count(1)?;
    let mut dedup = Vec::with_capacity(count);
    for _ in 0..count {
        dedup.push(match body.u8()? {
            0 => None,
            1 => Some(body.fixed()?),
            _ => return Err(body.malformed()),
        });
    }
    Ok(dedup)
}

fn take_producer(body: &mut Reader<'_>) -> Result<Option<ProducerBatch>, Malformed> {
    match body.u8()? {
        0 => Ok(None),
        1 => {
            let (producer, previous, settled) = (ProducerId(body.i64()?), body.u64()?, body.u64()?);
            Ok(Some(ProducerBatch { producer, numbers: body.rising()?, previous, settled }))
        }
        _ => Err(body.malformed()),
    }
}

/// Writes which group is meant.
pub(crate) fn put_group(out: &mut Writer, group: &GroupRef) {
    out.bytes(group.topic.as_str().as_bytes()).fixed(&group.partition.0).bytes(group.group.as_str().as_bytes());
}

/// Reads what [`put_group`] wrote.
pub(crate) fn take_group(body: &mut Reader<'_>) -> Result<GroupRef, Malformed> {
    let (topic, partition) = (body.topic()?, body.partition()?);
    let group = GroupName::new(body.text()?).map_err(|_| body.malformed())?;
    Ok(GroupRef { topic, partition, group })
}

fn put_progress(out: &mut Writer, progress: &Progress) {
    put_group(out, &progress.group);
    out.option(progress.frontier).u64(progress.redelivered).u64(progress.acked.len() as u64);
    for (from, to) in &progress.acked {
        out.u64(*from).u64(to.saturating_sub(*from));
    }
    out.u64(progress.attempts.len() as u64);
    for (offset, attempts) in &progress.attempts {
        out.u64(*offset).u64((*attempts).into());
    }
    out.u64(progress.delayed.len() as u64);
    for (offset, due_ms) in &progress.delayed {
        out.u64(*offset).i64(*due_ms);
    }
    for list in [&progress.moving, &progress.moved] {
        out.u64(list.len() as u64);
        list.iter().for_each(|offset| {
            out.u64(*offset);
        });
    }
}

fn take_progress(body: &mut Reader<'_>) -> Result<Progress, Malformed> {
    let mut progress = Progress::of(take_group(body)?);
    progress.frontier = body.option()?;
    progress.redelivered = body.u64()?;
    progress.acked = body.ranges()?;
    for _ in 0..body.count(2)? {
        progress.attempts.push((body.u64()?, body.u32()?));
    }
    for _ in 0..body.count(2)? {
        progress.delayed.push((body.u64()?, body.i64()?));
    }
    for _ in 0..body.count(1)? {
        progress.moving.push(body.u64()?);
    }
    for _ in 0..body.count(1)? {
        progress.moved.push(body.u64()?);
    }
    Ok(progress)
}

/// Writes a topic's configuration: in commands and in rows.
pub(crate) fn put_config(out: &mut Writer, config: &TopicConfig) {
    out.u64(config.retention_ms).option(config.retention_bytes).u64(config.max_deliveries.into());
    out.u64(config.ack_timeout_ms).u8(ordering_tag(config.ordering)).u64(config.dedup_window_ms);
}

/// Reads what [`put_config`] wrote.
pub(crate) fn take_config(body: &mut Reader<'_>) -> Result<TopicConfig, Malformed> {
    Ok(TopicConfig {
        retention_ms: body.u64()?,
        retention_bytes: body.option()?,
        max_deliveries: body.u32()?,
        ack_timeout_ms: body.u64()?,
        ordering: take_ordering(body)?,
        dedup_window_ms: body.u64()?,
    })
}

/// Writes a change of a topic: which keys are given, as bits in the order of the fields, and those.
pub(crate) fn put_change(out: &mut Writer, change: &TopicChange) {
    let given = [
        change.retention_ms.is_some(),
        change.retention_bytes.is_some(),
        change.max_deliveries.is_some(),
        change.ack_timeout_ms.is_some(),
        change.ordering.is_some(),
        change.dedup_window_ms.is_some(),
    ];
    out.u8(given.iter().enumerate().map(|(bit, given)| u8::from(*given) << bit).sum());
    if let Some(value) = change.retention_ms {
        out.u64(value);
    }
    if let Some(value) = change.retention_bytes {
        out.option(value);
    }
    if let Some(value) = change.max_deliveries {
        out.u64(value.into());
    }
    if let Some(value) = change.ack_timeout_ms {
        out.u64(value);
    }
    if let Some(value) = change.ordering {
        out.u8(ordering_tag(value));
    }
    if let Some(value) = change.dedup_window_ms {
        out.u64(value);
    }
}

/// Reads what [`put_change`] wrote.
pub(crate) fn take_change(body: &mut Reader<'_>) -> Result<TopicChange, Malformed> {
    let given = body.u8()?;
    if given >= 1 << 6 {
        return Err(body.malformed());
    }
    let has = |bit: u8| given & (1 << bit) != 0;
    Ok(TopicChange {
        retention_ms: has(0).then(|| body.u64()).transpose()?,
        retention_bytes: has(1).then(|| body.option()).transpose()?,
        max_deliveries: has(2).then(|| body.u32()).transpose()?,
        ack_timeout_ms: has(3).then(|| body.u64()).transpose()?,
        ordering: has(4).then(|| take_ordering(body)).transpose()?,
        dedup_window_ms: has(5).then(|| body.u64()).transpose()?,
    })
}

fn ordering_tag(ordering: Ordering) -> u8 {
    match ordering {
        Ordering::Key => 0,
        Ordering::Total => 1,
    }
}

fn take_ordering(body: &mut Reader<'_>) -> Result<Ordering, Malformed> {
    match body.u8()? {
        0 => Ok(Ordering::Key),
        1 => Ok(Ordering::Total),
        _ => Err(body.malformed()),
    }
}

/// A mode as it is written.
pub(crate) fn mode_tag(mode: Mode) -> u8 {
    match mode {
        Mode::Shared => 0,
        Mode::Key => 1,
    }
}

/// Reads what [`mode_tag`] gave.
pub(crate) fn take_mode(body: &mut Reader<'_>) -> Result<Mode, Malformed> {
    match body.u8()? {
        0 => Ok(Mode::Shared),
        1 => Ok(Mode::Key),
        _ => Err(body.malformed()),
    }
}
