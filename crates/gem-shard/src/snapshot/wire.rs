//! A snapshot's messages between nodes, as parts ([`crate::parts`]).
//!
//! ```text
//!  offer    version u8 │ group 16 │ to: replica │ from: replica │ vote
//!  fetch    version u8 │ group 16 │ of: replica │ kind u8 │ body
//!  answer   version u8 │ 0 error: code, detail, retry after │ 1 vote │ 2… a part of the snapshot
//! ```

use bytes::Bytes;
use gem_types::{Code, Error, GroupId, ReplicaId, Result as GemResult};

use super::{Fetch, Fetched};
use crate::entry::wire::{Malformed, Reader, Writer};
use crate::parts::{PartsReader, PartsWriter};
use crate::raft::types::Vote;
use crate::raft::wire::{put_replica, put_vote, take_replica, take_vote};

const VERSION: u8 = 1;

const OPEN: u8 = 0;
const ROWS: u8 = 1;
const BATCHES: u8 = 2;
const CLOSE: u8 = 3;

const ERROR: u8 = 0;
const VOTE: u8 = 1;
const OPENED: u8 = 2;
const SOME_ROWS: u8 = 3;
const SOME_BATCHES: u8 = 4;
const CLOSED: u8 = 5;
const GONE: u8 = 6;

/// A leader's wish that a replica should take in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The group.
    pub group: GroupId,
    /// The replica that is meant.
    pub to: ReplicaId,
    /// Of whom it may be fetched.
    pub from: ReplicaId,
    /// The leader's vote.
    pub vote: Vote,
}

impl Offer {
    /// The offer's parts.
    pub fn encode(&self) -> Vec<Bytes> {
        let mut out = PartsWriter::new(VERSION);
        out.head.fixed(&self.group.0);
        put_replica(&mut out.head, &self.to);
        put_replica(&mut out.head, &self.from);
        put_vote(&mut out.head, &self.vote);
        out.finish()
    }

    /// Reads back what [`encode`](Self::encode) wrote.
    pub fn decode(parts: &[Bytes]) -> Result<Offer, Malformed> {
        let mut parts = PartsReader::new(parts, VERSION, "offer of a snapshot")?;
        let head = &mut parts.head;
        let group = GroupId(head.fixed()?);
        let offer = Offer { group, to: take_replica(head)?, from: take_replica(head)?, vote: take_vote(head)? };
        parts.end()?;
        Ok(offer)
    }
}

/// A request for a part of a snapshot.
pub fn encode_fetch(group: GroupId, of: ReplicaId, fetch: &Fetch) -> Vec<Bytes> {
    let mut out = PartsWriter::new(VERSION);
    out.head.fixed(&group.0);
    put_replica(&mut out.head, &of);
    match fetch {
        Fetch::Open => {
            out.head.u8(OPEN);
        }
        Fetch::Rows { copy, after, bytes_max } => {
            out.head.u8(ROWS).u64(*copy).bytes(after).u64((*bytes_max).into());
        }
        Fetch::Batches { copy, partition, from, bytes_max } => {
            out.head.u8(BATCHES).u64(*copy).fixed(&partition.0).u64(*from).u64((*bytes_max).into());
        }
        Fetch::Close { copy } => {
            out.head.u8(CLOSE).u64(*copy);
        }
    }
    out.finish()
}

/// Reads back what [`encode_fetch`] wrote.
pub fn decode_fetch(parts: &[Bytes]) -> Result<(GroupId, ReplicaId, Fetch), Malformed> {
    let mut parts = PartsReader::new(parts, VERSION, "request for a snapshot")?;
    let head = &mut parts.head;
    let (group, of) = (GroupId(head.fixed()?), take_replica(head)?);
    let fetch = match head.u8()? {
        OPEN => Fetch::Open,
        ROWS => Fetch::Rows { copy: head.u64()?, after: Bytes::copy_from_slice(head.bytes()?), bytes_max: head.u32()? },
        BATCHES => Fetch::Batches {
            copy: head.u64()?,
            partition: gem_types::PartitionId(head.fixed()?),
            from: head.u64()?,
            bytes_max: head.u32()?,
        },
        CLOSE => Fetch::Close { copy: head.u64()? },
        _ => return Err(Malformed("request for a snapshot: not a kind that this release knows")),
    };
    parts.end()?;
    Ok((group, of, fetch))
}

fn put_error(head: &mut Writer, error: &Error) {
    head.u8(ERROR).bytes(error.code.as_str().as_bytes()).bytes(error.detail.as_bytes()).option(error.retry_after_ms);
}

fn take_error(head: &mut Reader<'_>) -> Result<Error, Malformed> {
    let code = Code::parse(head.text()?).ok_or(Malformed("error's code"))?;
    Ok(Error { code, detail: head.text()?.to_owned(), retry_after_ms: head.option()? })
}

/// What an offer came to.
pub fn encode_offered(answer: &GemResult<Vote>) -> Vec<Bytes> {
    let mut out = PartsWriter::new(VERSION);
    match answer {
        Ok(vote) => put_vote(out.head.u8(VOTE), vote),
        Err(error) => put_error(&mut out.head, error),
    }
    out.finish()
}

/// Reads back what [`encode_offered`] wrote.
pub fn decode_offered(parts: &[Bytes]) -> Result<GemResult<Vote>, Malformed> {
    let mut parts = PartsReader::new(parts, VERSION, "answer to an offer")?;
    let answer = match parts.head.u8()? {
        VOTE => Ok(take_vote(&mut parts.head)?),
        ERROR => Err(take_error(&mut parts.head)?),
        _ => return Err(Malformed("answer to an offer")),
    };
    parts.end()?;
    Ok(answer)
}

/// What a fetch came to.
pub fn encode_fetched(answer: &GemResult<Fetched>) -> Vec<Bytes> {
    let mut out = PartsWriter::new(VERSION);
    match answer {
        Err(error) => put_error(&mut out.head, error),
        Ok(Fetched::Opened { copy }) => {
            out.head.u8(OPENED).u64(*copy);
        }
        Ok(Fetched::Rows { rows, is_end }) => {
            out.head.u8(SOME_ROWS).u8(u8::from(*is_end)).u64(rows.len() as u64);
            for (key, value) in rows {
                out.head.bytes(key).bytes(value);
            }
        }
        Ok(Fetched::Batches { batches }) => {
            out.head.u8(SOME_BATCHES).u64(batches.len() as u64);
            batches.iter().for_each(|batch| out.batch(batch));
        }
        Ok(Fetched::Closed) => {
            out.head.u8(CLOSED);
        }
        Ok(Fetched::Gone { why }) => {
            out.head.u8(GONE).bytes(why.as_bytes());
        }
    }
    out.finish()
}

/// Reads back what [`encode_fetched`] wrote.
pub fn decode_fetched(parts: &[Bytes]) -> Result<GemResult<Fetched>, Malformed> {
    let mut parts = PartsReader::new(parts, VERSION, "part of a snapshot")?;
    let head = &mut parts.head;
    let answer = match head.u8()? {
        ERROR => Err(take_error(head)?),
        OPENED => Ok(Fetched::Opened { copy: head.u64()? }),
        SOME_ROWS => {
            let is_end = head.u8()? == 1;
            let count = head.count(2)?;
            let row = |head: &mut Reader<'_>| {
                Ok((Bytes::copy_from_slice(head.bytes()?), Bytes::copy_from_slice(head.bytes()?)))
            };
            let rows = (0..count).map(|_| row(head)).collect::<Result<_, _>>()?;
            Ok(Fetched::Rows { rows, is_end })
        }
        SOME_BATCHES => {
            let count = head.count(1)?;
            let batches = (0..count).map(|_| parts.batch()).collect::<Result<_, _>>()?;
            Ok(Fetched::Batches { batches })
        }
        CLOSED => Ok(Fetched::Closed),
        GONE => Ok(Fetched::Gone { why: head.text()?.to_owned() }),
        _ => return Err(Malformed("part of a snapshot: not a kind that this release knows")),
    };
    parts.end()?;
    Ok(answer)
}
