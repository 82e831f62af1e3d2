//! Answers on the wire.
//!
//! ```text
//!  version u8 │ 0: answered │ kind of the call u8 │ values
//!             │ 1: refused  │ error
//!             │ 2: redirect │ hint, to the end
//! ```
//!
//! The messages of a pull name their batches by number: each batch goes once, whichever messages
//! lie in it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use gem_types::batch::RecordBatch;
use gem_types::{Error, Offset};

use super::call::Kind;
use super::values::*;
use super::wire::VERSION;
use crate::entry::wire::{Malformed, Reader};
use crate::log::{Delivered, GroupInfo, PartitionStats, Placed, ReadOut, Status, TopicInfo, TopicPage};
use crate::parts::{PartsReader, PartsWriter};

const WHAT: &str = "answer of a shard";

const ANSWERED: u8 = 0;
const REFUSED: u8 = 1;
const REDIRECT: u8 = 2;

/// What a call that succeeded comes to.
#[derive(Clone, Debug)]
pub enum Output {
    /// Of `create_topic`: the topic, and whether it is new.
    Created(TopicInfo, bool),
    /// Of `topic` and `alter_topic`.
    Topic(TopicInfo),
    /// Of `list_topics`.
    Topics(TopicPage),
    /// Of `append`.
    Placed(Vec<Placed>),
    /// Of `read`.
    Read(ReadOut),
    /// Of `stats`.
    Stats(PartitionStats),
    /// Of `resolve`.
    Offset(Offset),
    /// Of `pull`.
    Delivered(Vec<Delivered>),
    /// Of `settle`.
    Settled(Vec<Status>),
    /// Of `heartbeat`.
    Count(u64),
    /// Of `groups`.
    Groups(Vec<GroupInfo>),
    /// Of `group`.
    Group(GroupInfo),
    /// Of all that answer nothing.
    Done,
}

/// What comes back for a request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The shard's own answer.
    Answered(Output),
    /// The shard's own refusal.
    Refused(Error),
    /// Not carried out: another node leads the shard, or holds that part of the ring. The hint is
    /// the nodes' own.
    Redirect(Bytes),
}

impl Answer {
    /// The answer's parts; `kind` is that of the call.
    pub(super) fn encode(&self, kind: Kind) -> Vec<Bytes> {
        let mut out = PartsWriter::new(VERSION);
        match self {
            Answer::Answered(output) => {
                out.head.u8(ANSWERED).u8(kind as u8);
                put_output(&mut out, output);
            }
            Answer::Refused(error) => put_error(out.head.u8(REFUSED), error),
            Answer::Redirect(hint) => {
                out.head.u8(REDIRECT).fixed(hint);
            }
        }
        out.finish()
    }

    /// Reads the answer to a call of `kind`. Batches are slices of the parts, their checksums
    /// verified.
    pub(super) fn decode(parts: &[Bytes], kind: Kind) -> Result<Answer, Malformed> {
        let mut parts = PartsReader::new(parts, VERSION, WHAT)?;
        let answer = match parts.head.u8()? {
            ANSWERED => {
                if parts.head.u8()? != kind as u8 {
                    return Err(Malformed("answer of a shard: it is one to another call"));
                }
                Answer::Answered(take_output(&mut parts, kind)?)
            }
            REFUSED => Answer::Refused(take_error(&mut parts.head)?),
            REDIRECT => {
                let left = parts.head.left();
                Answer::Redirect(Bytes::copy_from_slice(parts.head.take(left)?))
            }
            _ => return Err(Malformed("answer of a shard: not a kind that this release knows")),
        };
        parts.end()?;
        Ok(answer)
    }
}

fn put_output(out: &mut PartsWriter, output: &Output) {
    let head = &mut out.head;
    match output {
        Output::Created(topic, is_new) => {
            put_topic(head, topic);
            put_flag(head, *is_new);
        }
        Output::Topic(topic) => put_topic(head, topic),
        Output::Topics(page) => {
            put_list(head, &page.topics, put_topic);
            put_flag(head, page.more);
        }
        Output::Placed(placed) => put_list(head, placed, put_placed),
        Output::Read(read) => {
            head.u64(read.next);
            put_stats(head, &read.stats);
            head.u64(read.batches.len() as u64);
            read.batches.iter().for_each(|batch| out.batch(batch));
        }
        Output::Stats(stats) => put_stats(head, stats),
        Output::Offset(number) | Output::Count(number) => put_number(head, *number),
        Output::Delivered(messages) => put_delivered(out, messages),
        Output::Settled(statuses) => put_list(head, statuses, |out, status| put_status(out, *status)),
        Output::Groups(groups) => put_list(head, groups, put_group_info),
        Output::Group(group) => put_group_info(head, group),
        Output::Done => {}
    }
}

fn take_output(parts: &mut PartsReader<'_>, kind: Kind) -> Result<Output, Malformed> {
    let head = &mut parts.head;
    Ok(match kind {
        Kind::CreateTopic => Output::Created(take_topic(head)?, take_flag(head)?),
        Kind::Topic | Kind::AlterTopic => Output::Topic(take_topic(head)?),
        Kind::ListTopics => {
            Output::Topics(TopicPage { topics: take_list(head, 10, take_topic)?, more: take_flag(head)? })
        }
        Kind::Append => Output::Placed(take_list(head, 2, take_placed)?),
        Kind::Read => {
            let (next, stats) = (head.u64()?, take_stats(head)?);
            Output::Read(ReadOut { batches: take_batches(parts)?, next, stats })
        }
        Kind::Stats => Output::Stats(take_stats(head)?),
        Kind::Resolve => Output::Offset(head.u64()?),
        Kind::Pull => Output::Delivered(take_delivered(parts)?),
        Kind::Settle => Output::Settled(take_list(head, 1, take_status)?),
        Kind::Heartbeat => Output::Count(head.u64()?),
        Kind::Groups => Output::Groups(take_list(head, 8, take_group_info)?),
        Kind::Group => Output::Group(take_group_info(head)?),
        Kind::DeleteTopic | Kind::Trim | Kind::CloseStream | Kind::Seek | Kind::DeleteGroup => Output::Done,
    })
}

fn take_batches(parts: &mut PartsReader<'_>) -> Result<Vec<RecordBatch>, Malformed> {
    let count = parts.head.count(1)?;
    let mut batches = Vec::with_capacity(count.min(1024));
    for _ in 0..count {
        batches.push(parts.batch()?);
    }
    Ok(batches)
}

fn put_delivered(out: &mut PartsWriter, messages: &[Delivered]) {
    let mut numbers: HashMap<*const RecordBatch, u64> = HashMap::new();
    let mut batches: Vec<&RecordBatch> = Vec::new();
    for message in messages {
        numbers.entry(Arc::as_ptr(&message.batch)).or_insert_with(|| {
            batches.push(&message.batch);
            batches.len() as u64 - 1
        });
    }
    out.head.u64(batches.len() as u64);
    batches.into_iter().for_each(|batch| out.batch(batch));
    put_list(&mut out.head, messages, |out, message| {
        let number = numbers.get(&Arc::as_ptr(&message.batch)).copied().unwrap_or_default();
        out.u64(number).u64(message.index.into()).u64(message.offset).u64(message.delivery.into());
        put_token(out, &message.token);
    });
}

fn take_delivered(parts: &mut PartsReader<'_>) -> Result<Vec<Delivered>, Malformed> {
    let batches: Vec<Arc<RecordBatch>> = take_batches(parts)?.into_iter().map(Arc::new).collect();
    take_list(&mut parts.head, 5, |input: &mut Reader<'_>| {
        let number = take_size(input)?;
        let batch = batches.get(number).ok_or_else(|| input.malformed())?.clone();
        let (index, offset, delivery) = (input.u32()?, input.u64()?, input.u32()?);
        if index >= batch.count() {
            return Err(Malformed("answer of a shard: a message lies beyond its batch"));
        }
        Ok(Delivered { batch, index, offset, delivery, token: take_token(input)? })
    })
}
