//! Calls on the wire, and for which shard each is.
//!
//! ```text
//!  version u8 │ kind u8 │ group 16 │ prefix 9 │ epoch u64 │ flags u8 │ position 8, if flagged │ parameters
//!                                               varint      1: any replica, 2: a position
//! ```
//!
//! What it is: [`Request::encode`], [`Request::decode`], and [`Target::peek`], which reads no further
//! than it must. A batch is a part of its own ([`crate::parts`]).

use std::sync::Arc;

use bytes::Bytes;
use gem_types::{GroupId, Position, Prefix};

use super::call::{Call, Kind};
use super::values::*;
use crate::entry::wire::{Malformed, Reader, Writer};
use crate::entry::{
    mode_tag, put_change, put_config, put_group, put_origin, take_change, take_config, take_group, take_mode,
    take_origin,
};
use crate::log::{Append, Pull, Read};
use crate::parts::{PartsReader, PartsWriter};

pub(super) const VERSION: u8 = 1;
const WHAT: &str = "request to a shard";

const ANY: u8 = 1;
const POSITION: u8 = 2;

/// The shard that a request is for, as whoever asks knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its Raft group.
    pub group: GroupId,
    /// The part of the ring that it held. A listing is of all of it: a shard that holds less by now
    /// must redirect.
    pub prefix: Prefix,
    /// The epoch of the descriptor that said so: a node that knows a higher one may redirect.
    pub epoch: u64,
    /// The position that the call concerns; `None`: all of the prefix.
    pub position: Option<Position>,
    /// Whether a replica that does not lead may answer.
    pub is_read_any: bool,
}

/// A call and the shard that it is for.
#[derive(Clone, Debug)]
pub struct Request {
    /// For whom.
    pub target: Target,
    /// What is asked.
    pub call: Call,
}

impl Target {
    /// For whom a request is: reads its head alone.
    pub fn peek(parts: &[Bytes]) -> Result<Target, Malformed> {
        let mut parts = PartsReader::new(parts, VERSION, WHAT)?;
        take_target(&mut parts.head).map(|(_, target)| target)
    }
}

impl Request {
    /// `call`, for `target`, whose position is that of the call; `is_read_any` is dropped where the
    /// call needs a leader.
    pub fn new(target: Target, call: Call) -> Request {
        let is_read_any = target.is_read_any && call.kind().is_for_any();
        Request { target: Target { position: call.position(), is_read_any, ..target }, call }
    }

    /// The request's parts.
    pub fn encode(&self) -> Vec<Bytes> {
        let mut out = PartsWriter::new(VERSION);
        put_target(&mut out.head, self.call.kind(), &self.target);
        put_call(&mut out, &self.call);
        out.finish()
    }

    /// Reads a request. Batches are slices of the parts, their checksums verified.
    pub fn decode(parts: &[Bytes]) -> Result<Request, Malformed> {
        let mut parts = PartsReader::new(parts, VERSION, WHAT)?;
        let (kind, target) = take_target(&mut parts.head)?;
        let call = take_call(&mut parts, kind)?;
        parts.end()?;
        if call.position() != target.position {
            return Err(Malformed("request to a shard: it is for another position than it says"));
        }
        Ok(Request { target, call })
    }
}

fn put_target(out: &mut Writer, kind: Kind, target: &Target) {
    out.u8(kind as u8).fixed(&target.group.0);
    put_prefix(out, target.prefix);
    let any = if target.is_read_any { ANY } else { 0 };
    match target.position {
        Some(position) => out.u64(target.epoch).u8(any | POSITION).fixed(&position.0.to_be_bytes()),
        None => out.u64(target.epoch).u8(any),
    };
}

fn take_target(head: &mut Reader<'_>) -> Result<(Kind, Target), Malformed> {
    let kind = Kind::of(head.u8()?).ok_or(Malformed("request to a shard: not a call that this release knows"))?;
    let (group, prefix, epoch) = (GroupId(head.fixed()?), take_prefix(head)?, head.u64()?);
    let flags = head.u8()?;
    if flags > (ANY | POSITION) {
        return Err(head.malformed());
    }
    let is_read_any = flags & ANY != 0;
    if is_read_any && !kind.is_for_any() {
        return Err(Malformed("request to a shard: it asks any replica for what only a leader may do"));
    }
    let position = match flags & POSITION {
        0 => None,
        _ => Some(Position(u64::from_be_bytes(head.fixed()?))),
    };
    Ok((kind, Target { group, prefix, epoch, position, is_read_any }))
}

fn put_call(out: &mut PartsWriter, call: &Call) {
    let head = &mut out.head;
    match call {
        Call::CreateTopic { name, config } => {
            put_text(head, name.as_str());
            put_config(head, config);
        }
        Call::Topic { name } | Call::DeleteTopic { name } => put_text(head, name.as_str()),
        Call::AlterTopic { name, change } => {
            put_text(head, name.as_str());
            put_change(head, change);
        }
        Call::ListTopics { prefix, after, limit } => {
            put_text(head, prefix);
            put_option(head, after.as_deref(), put_text);
            head.u64(*limit as u64);
        }
        Call::Append(append) => {
            head.fixed(&append.partition.0);
            put_wait(head, append.wait);
            out.batch(&append.batch);
            put_origin(&mut out.head, &append.dedup, append.producer.as_ref());
        }
        Call::Read(read) => {
            head.fixed(&read.partition.0).u64(read.from).u64(read.max_bytes as u64);
            put_wait(head, read.wait);
        }
        Call::Stats { partition } => {
            head.fixed(&partition.0);
        }
        Call::Resolve { partition, number, from } => {
            head.fixed(&partition.0).u64((*number).into());
            put_from(head, *from);
        }
        Call::Trim { partition, before } => {
            head.fixed(&partition.0);
            put_option(head, *before, put_number);
        }
        Call::Pull(pull) => put_pull(head, pull),
        Call::Settle { group, verbs } => {
            put_group(head, group);
            put_list(head, verbs, |out, (token, verb)| {
                put_text(out, token);
                put_verb(out, *verb);
            });
        }
        Call::Heartbeat { group, consumer } => {
            put_group(head, group);
            put_text(head, consumer);
        }
        Call::CloseStream { group, consumer, stream } => {
            put_group(head, group);
            put_text(head, consumer);
            head.u64(*stream);
        }
        Call::Groups { topic, partition } => {
            put_text(head, topic.as_str());
            head.fixed(&partition.0);
        }
        Call::Group { group } | Call::DeleteGroup { group } => put_group(head, group),
        Call::Seek { group, offset } => {
            put_group(head, group);
            head.u64(*offset);
        }
    }
}

fn take_call(parts: &mut PartsReader<'_>, kind: Kind) -> Result<Call, Malformed> {
    let head = &mut parts.head;
    Ok(match kind {
        Kind::CreateTopic => Call::CreateTopic { name: head.topic()?, config: take_config(head)? },
        Kind::Topic => Call::Topic { name: head.topic()? },
        Kind::AlterTopic => Call::AlterTopic { name: head.topic()?, change: take_change(head)? },
        Kind::DeleteTopic => Call::DeleteTopic { name: head.topic()? },
        Kind::ListTopics => {
            Call::ListTopics { prefix: take_text(head)?, after: take_option(head, take_text)?, limit: take_size(head)? }
        }
        Kind::Append => {
            let (partition, wait) = (head.partition()?, take_wait(head)?);
            let batch = parts.batch()?;
            let (dedup, producer) = take_origin(&mut parts.head, batch.count() as usize)?;
            Call::Append(Append { partition, batch, dedup, producer, wait })
        }
        Kind::Read => Call::Read(Read {
            partition: head.partition()?,
            from: head.u64()?,
            max_bytes: take_size(head)?,
            wait: take_wait(head)?,
        }),
        Kind::Stats => Call::Stats { partition: head.partition()? },
        Kind::Resolve => Call::Resolve { partition: head.partition()?, number: head.u32()?, from: take_from(head)? },
        Kind::Trim => Call::Trim { partition: head.partition()?, before: take_option(head, Reader::u64)? },
        Kind::Pull => Call::Pull(take_pull(head)?),
        Kind::Settle => {
            let group = take_group(head)?;
            let verbs = take_list(head, 2, |input| Ok((take_text(input)?, take_verb(input)?)))?;
            Call::Settle { group, verbs: Arc::new(verbs) }
        }
        Kind::Heartbeat => Call::Heartbeat { group: take_group(head)?, consumer: take_text(head)? },
        Kind::CloseStream => {
            Call::CloseStream { group: take_group(head)?, consumer: take_text(head)?, stream: head.u64()? }
        }
        Kind::Groups => Call::Groups { topic: head.topic()?, partition: head.partition()? },
        Kind::Group => Call::Group { group: take_group(head)? },
        Kind::Seek => Call::Seek { group: take_group(head)?, offset: head.u64()? },
        Kind::DeleteGroup => Call::DeleteGroup { group: take_group(head)? },
    })
}

fn put_pull(head: &mut Writer, pull: &Pull) {
    put_group(head, &pull.group);
    put_text(head, &pull.consumer);
    put_option(head, pull.mode, |out, mode| {
        out.u8(mode_tag(mode));
    });
    put_option(head, pull.from, put_from);
    head.u64(pull.max as u64).u64(pull.max_bytes as u64);
    put_wait(head, pull.wait);
    put_option(head, pull.stream, put_number);
}

fn take_pull(head: &mut Reader<'_>) -> Result<Pull, Malformed> {
    Ok(Pull {
        group: take_group(head)?,
        consumer: take_text(head)?,
        mode: take_option(head, take_mode)?,
        from: take_option(head, take_from)?,
        max: take_size(head)?,
        max_bytes: take_size(head)?,
        wait: take_wait(head)?,
        stream: take_option(head, Reader::u64)?,
    })
}
