//! From what a client sent to record batches, one a partition. Checks everything first: what is
//! malformed or too large refuses the whole publish before anything is written.

use bytes::Bytes;
use gem_shard::log::{PartitionInfo, key_hash};
use gem_types::batch::{BatchBuilder, Record, RecordBatch};
use gem_types::limits::Limits;
use gem_types::message::ID_HEADER;
use gem_types::{Error, Message, PartitionId, Result, TimestampMs, ring};

use super::ids::IdRun;
use super::topics::Topic;

/// The most messages of one publish.
pub const MESSAGES_MAX: usize = 100_000;

/// Text as long as a UUID's.
const NIL_ID: &str = "00000000-0000-0000-0000-000000000000";

/// What a client wants published.
#[derive(Debug)]
pub enum Input {
    /// Messages one by one.
    Messages(Vec<Message>),
    /// A whole record batch, not yet checked.
    Encoded(Bytes),
}

impl Input {
    /// The bytes that count against the limits and the budget, before any check.
    pub fn size(&self) -> usize {
        match self {
            Input::Messages(messages) => messages.iter().map(Message::size).sum(),
            Input::Encoded(bytes) => bytes.len(),
        }
    }
}

/// A publish that was checked and packed.
#[derive(Debug)]
pub struct Prepared {
    /// One per partition concerned.
    pub parts: Vec<Part>,
    /// How many messages.
    pub count: usize,
    /// Their bytes.
    pub bytes: usize,
    /// What they are called.
    pub ids: Ids,
}

/// The messages of one partition.
#[derive(Debug)]
pub struct Part {
    /// The partition's id; changes where its topic is made anew meanwhile.
    pub partition: PartitionId,
    /// Its number.
    pub number: u32,
    /// The messages.
    pub batch: RecordBatch,
    /// See [`gem_shard::log::Append::dedup`].
    pub dedup: Vec<Option<[u8; 16]>>,
    /// Each message's index in the publish; empty where the part is all of it.
    pub indexes: Vec<u32>,
}

/// What the messages of a publish are called.
#[derive(Debug)]
pub struct Ids {
    /// The clients' own, by index; empty where no message has one.
    pub own: Vec<Option<String>>,
    /// The gateway's; `None` where a record batch came whole: a record without an id is called
    /// by its place.
    pub run: Option<IdRun>,
}

impl Ids {
    /// The id of message `index`, stored at that place.
    pub fn text(&self, index: usize, partition: u32, offset: u64) -> String {
        match (self.own.get(index), self.run) {
            (Some(Some(own)), _) => own.clone(),
            (_, Some(run)) => run.text(index),
            (_, None) => place_id(partition, offset),
        }
    }
}

/// What a record without an id is called: by its place, which never changes.
pub fn place_id(partition: u32, offset: u64) -> String {
    format!("{partition}:{offset}")
}

/// The digest under which a client's own id is remembered: of the key and the id. The topic is
/// that of the partition that remembers.
pub fn dedup_digest(key: Option<&[u8]>, id: &[u8]) -> [u8; 16] {
    let mut out = [0; 16];
    let digest = ring::digest(&[b"gem message id", &[u8::from(key.is_some())], key.unwrap_or_default(), id]);
    out.copy_from_slice(&digest[..16]);
    out
}

/// Checks and packs `input` for `topic`. `run` names the messages without an id.
pub fn prepare(topic: &Topic, input: Input, limits: &Limits, run: IdRun, now_ms: TimestampMs) -> Result<Prepared> {
    match input {
        Input::Messages(messages) => pack(topic, messages, limits, run, now_ms),
        Input::Encoded(bytes) => take_whole(topic, bytes, limits, run, now_ms),
    }
}

fn check_messages(messages: &[Message], limits: &Limits) -> Result<usize> {
    check_count(messages.len())?;
    let mut total = 0usize;
    for (index, message) in messages.iter().enumerate() {
        limits.check(message).and_then(|()| check_headers(message)).map_err(|e| at(index, messages.len(), e))?;
        total += message.size();
    }
    check_total(total, limits)?;
    Ok(total)
}

fn check_count(count: usize) -> Result<()> {
    match count {
        0 => Err(Error::invalid("no messages: send at least one")),
        n if n > MESSAGES_MAX => Err(Error::too_large(format!(
            "{n} messages in one batch; at most {MESSAGES_MAX} are allowed: send several"
        ))),
        _ => Ok(()),
    }
}

fn check_total(total: usize, limits: &Limits) -> Result<()> {
    // A single message may be as large as max_message allows, whatever max_batch says.
    if total > limits.max_batch.max(limits.max_message) {
        return Err(Error::too_large(format!(
            "the batch has {total} bytes; at most {} are allowed (max_batch): send smaller batches, or raise max_batch",
            limits.max_batch
        )));
    }
    Ok(())
}

fn check_headers(message: &Message) -> Result<()> {
    for (name, _) in &message.headers {
        if name.is_empty() || name.bytes().any(|b| b.is_ascii_uppercase() || b.is_ascii_control()) {
            return Err(Error::invalid(format!("{name:?} is not a header name: use lower-case letters, at least one")));
        }
        if name == ID_HEADER {
            return Err(Error::invalid("the header gem-id is the system's: give the id in its own field"));
        }
    }
    Ok(())
}

/// Says which message of a batch is meant.
fn at(index: usize, count: usize, error: Error) -> Error {
    if count == 1 {
        return error;
    }
    Error { detail: format!("message {index} (counted from 0): {}", error.detail), ..error }
}

fn pack(topic: &Topic, messages: Vec<Message>, limits: &Limits, run: IdRun, now_ms: TimestampMs) -> Result<Prepared> {
    let bytes = check_messages(&messages, limits)?;
    let count = messages.len();
    let parts = match topic.only() {
        Some(partition) => vec![pack_part(partition, &messages, Vec::new(), run, now_ms)],
        None => pack_parts(topic, &messages, run, now_ms)?,
    };
    let own =
        if messages.iter().any(|m| m.id.is_some()) { messages.into_iter().map(|m| m.id).collect() } else { Vec::new() };
    Ok(Prepared { parts, count, bytes, ids: Ids { own, run: Some(run) } })
}

fn pack_parts(topic: &Topic, messages: &[Message], run: IdRun, now_ms: TimestampMs) -> Result<Vec<Part>> {
    let mut shares: Vec<(&PartitionInfo, Vec<u32>)> = Vec::new();
    let mut text = [0; 36];
    for (index, message) in messages.iter().enumerate() {
        let hash = match (&message.key, &message.id) {
            (Some(key), _) => key_hash(key),
            (None, Some(id)) => key_hash(id.as_bytes()),
            (None, None) => key_hash(run.write(index, &mut text).as_bytes()),
        };
        let partition = topic.holding(hash)?;
        match shares.iter_mut().find(|(p, _)| p.number == partition.number) {
            Some((_, indexes)) => indexes.push(index as u32),
            None => shares.push((partition, vec![index as u32])),
        }
    }
    Ok(shares.into_iter().map(|(p, indexes)| pack_part(p, messages, indexes, run, now_ms)).collect())
}

/// The most bytes that the batch of [`pack_part`] takes: a buffer that grows on the way would be
/// copied each time, into pages that are new to the process.
fn room(messages: &[Message], indexes: &[u32]) -> usize {
    // An id of the gateway's is as long as any UUID.
    let size = |message: &Message| BatchBuilder::encoded_size(message, message.id.as_deref().unwrap_or(NIL_ID));
    let records: usize = match indexes {
        [] => messages.iter().map(size).sum(),
        chosen => chosen.iter().filter_map(|index| messages.get(*index as usize)).map(size).sum(),
    };
    gem_types::batch::HEAD_LEN + records
}

/// Packs the messages of `indexes` (all, where that is empty) into one batch.
fn pack_part(
    partition: &PartitionInfo,
    messages: &[Message],
    indexes: Vec<u32>,
    run: IdRun,
    now_ms: TimestampMs,
) -> Part {
    let mut builder = BatchBuilder::with_capacity(room(messages, &indexes));
    let mut dedup = Vec::new();
    let mut text = [0; 36];
    let mut push = |index: usize, message: &Message| {
        let id = match &message.id {
            Some(id) => id.as_str(),
            None => run.write(index, &mut text),
        };
        if message.id.is_some() {
            dedup.resize(builder.count() as usize, None);
            dedup.push(Some(dedup_digest(message.key.as_deref(), id.as_bytes())));
        }
        builder.push(message, id);
    };
    if indexes.is_empty() {
        messages.iter().enumerate().for_each(|(index, message)| push(index, message));
    } else {
        let chosen = indexes.iter().filter_map(|i| Some((*i as usize, messages.get(*i as usize)?)));
        chosen.for_each(|(index, message)| push(index, message));
    }
    if !dedup.is_empty() {
        dedup.resize(builder.count() as usize, None);
    }
    Part { partition: partition.id, number: partition.number, batch: builder.finish(now_ms), dedup, indexes }
}

/// Uses a record batch as it came where it falls into one partition; else takes it apart.
fn take_whole(topic: &Topic, bytes: Bytes, limits: &Limits, run: IdRun, now_ms: TimestampMs) -> Result<Prepared> {
    let encoded = bytes.len();
    if encoded > 2 * limits.max_batch {
        check_total(encoded, limits)?;
    }
    let batch = RecordBatch::check(bytes).map_err(|e| Error::invalid(format!("the record batch is damaged: {e}")))?;
    check_count(batch.count() as usize)?;
    let Some(partition) = topic.only() else {
        return pack(topic, take_apart(&batch)?, limits, run, now_ms);
    };
    let mut total = 0;
    let (mut own, mut dedup) = (Vec::new(), Vec::new());
    for (index, record) in batch.records().enumerate() {
        let record = record.map_err(|e| Error::invalid(format!("record {index} is damaged: {e}")))?;
        if record.headers.iter().any(|(name, _)| name.iter().any(u8::is_ascii_uppercase)) {
            // Header names are lower-case on every interface: this one has to be packed anew.
            return pack(topic, take_apart(&batch)?, limits, run, now_ms);
        }
        let key = record.key.clone();
        let message = record.into_message();
        limits.check(&message).map_err(|e| at(index, batch.count() as usize, e))?;
        total += message.size();
        if let Some(id) = message.id {
            own.resize(index, None);
            dedup.resize(index, None);
            dedup.push(Some(dedup_digest(key.as_deref(), id.as_bytes())));
            own.push(Some(id));
        }
    }
    check_total(total, limits)?;
    let count = batch.count() as usize;
    if !dedup.is_empty() {
        dedup.resize(count, None);
    }
    let part = Part { partition: partition.id, number: partition.number, batch, dedup, indexes: Vec::new() };
    Ok(Prepared { parts: vec![part], count, bytes: total, ids: Ids { own, run: None } })
}

fn take_apart(batch: &RecordBatch) -> Result<Vec<Message>> {
    let read = |record: std::result::Result<Record, _>| match record {
        Ok(record) => {
            let mut message: Message = Record::into_message(record);
            message.headers.iter_mut().for_each(|(name, _)| name.make_ascii_lowercase());
            Ok(message)
        }
        Err(error) => Err(bad_record(error)),
    };
    batch.records().map(read).collect()
}

fn bad_record(error: gem_types::batch::BatchError) -> Error {
    Error::invalid(format!("the record batch is damaged: {error}"))
}
