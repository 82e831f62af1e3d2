//! The frames of a link, as bytes. No I/O, no state.
//!
//! ```text
//! every frame   length: u32 (of what follows) | kind: u8 | body            all numbers little-endian
//! Hello         version: u16 | mesh: 16 | window: u64 | calls: u32 | proof: 32 |
//!               older: u8 | runs: as in `runs/past.rs`
//! Refused       reason: UTF-8
//! Request       id: u64 | lane: u64 | wait_ms: u32 | kind: u16 | parts: u32 | length of each: u32…
//! Answer        id: u64 | kind: u16 | parts: u32 | length of each: u32…
//! Data          id: u64 | bytes of the parcel…
//! Failed        id: u64 | reason: UTF-8
//! Cancel        id: u64
//! Window        bytes: u64
//! Ping, Pong    number: u64
//! ```
//! A parcel is a `Request` or `Answer` followed by `Data` frames until all its bytes have come;
//! those of several parcels may alternate, so that a small one does not wait for a large one.
//!
//! Invariants: whatever the bytes, decoding neither panics nor allocates more than the frame's own
//! length, which is at most [`FRAME_BYTES_MAX`]; what decodes, encodes to the same bytes.

use bytes::{Buf, BufMut, BytesMut};
use gem_types::MeshId;

use crate::runs::Runs;
use crate::seams::{PARCEL_BYTES_MAX, PARCEL_PARTS_MAX};

/// Of the frames: a change that an older node would misread raises it.
pub const VERSION: u16 = 1;
/// The most bytes of a frame that is decoded whole: a parcel's head with the longest table.
pub const FRAME_BYTES_MAX: usize = 64 + 4 * PARCEL_PARTS_MAX;
/// The most bytes of a frame before the hello.
pub const HELLO_BYTES_MAX: usize = 1024;
/// The most bytes of a parcel in one [`Frame::Data`].
pub const DATA_BYTES_MAX: usize = 1 << 20;
/// The most bytes of a reason.
const REASON_BYTES_MAX: usize = 512;
/// Length and kind.
const HEAD_BYTES: usize = 5;
/// What a parcel is charged beyond its bytes, and for each part.
const CHARGE_PARCEL: u64 = 64;
const CHARGE_PART: u64 = 8;

/// What a node says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Of the frames that it speaks: [`VERSION`].
    pub version: u16,
    /// The mesh that it belongs to.
    pub mesh: MeshId,
    /// The bytes of parcels that it takes before it has granted more.
    pub window: u64,
    /// The calls that it keeps open on this link.
    pub calls: u32,
    /// That it knows the join secret, for this connection alone.
    pub proof: [u8; 32],
    /// That the other side's disk is older than one that was met: the last that this side says.
    pub is_older: bool,
    /// The runs that it has had.
    pub runs: Runs,
}

/// A parcel, announced: its bytes follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// [`crate::Parcel::kind`].
    pub kind: u16,
    /// Bytes of each part.
    pub parts: Vec<u32>,
}

impl Head {
    /// Bytes of all parts.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|&n| u64::from(n)).sum()
    }

    /// What it holds in memory: its bytes, and something for each call and part, so that empty ones
    /// are bounded too.
    pub fn weight(&self) -> u64 {
        self.bytes() + CHARGE_PARCEL + CHARGE_PART * self.parts.len() as u64
    }

    /// What it takes of a window of `window` bytes: its weight, and at most half the window, so
    /// that beside one parcel larger than the window others still pass.
    pub fn charge(&self, window: u64) -> u64 {
        self.weight().min((window / 2).max(1))
    }
}

/// A frame. Of [`Frame::Data`] only the head: the bytes follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The first frame of either side.
    Hello(Hello),
    /// Why the link ends: the last frame.
    Refused(String),
    /// A call.
    Request {
        /// Names the call on this link; rises.
        id: u64,
        /// See [`crate::Calls::call`].
        lane: u64,
        /// For how long the caller will wait.
        wait_ms: u32,
        /// What follows.
        head: Head,
    },
    /// The answer of a call.
    Answer {
        /// The call's.
        id: u64,
        /// What follows.
        head: Head,
    },
    /// A piece of a parcel.
    Data {
        /// The parcel's call.
        id: u64,
        /// How many bytes of it follow; at least one.
        bytes: u32,
    },
    /// A call has no answer.
    Failed {
        /// The call's.
        id: u64,
        /// Why.
        reason: String,
    },
    /// The caller has gone: what came of the request may be dropped, and no answer is needed.
    Cancel {
        /// The call's.
        id: u64,
    },
    /// So many bytes more may be sent.
    Window {
        /// Charges of parcels, see [`Head::charge`].
        bytes: u64,
    },
    /// Asks for a sign of life.
    Ping(u64),
    /// The answer to a ping.
    Pong(u64),
}

/// Bytes that are no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than it may be.
    #[error("a frame of kind {kind} and {bytes} bytes is longer than {most}")]
    TooLong {
        /// Its kind.
        kind: u8,
        /// Its length.
        bytes: usize,
        /// The most.
        most: usize,
    },
    /// No kind of frame that this version knows.
    #[error("{0} is no kind of frame")]
    Kind(u8),
    /// Its body does not hold what its kind needs.
    #[error("a frame of kind {0} is malformed")]
    Malformed(u8),
    /// It announces a parcel beyond [`PARCEL_BYTES_MAX`] or [`PARCEL_PARTS_MAX`].
    #[error("a parcel of {bytes} bytes in {parts} parts is larger than a link carries")]
    Parcel {
        /// Its bytes.
        bytes: u64,
        /// Its parts.
        parts: u64,
    },
    /// It breaks the order of frames: a bug of the other side.
    #[error("{0}")]
    Order(&'static str),
}

mod kind {
    pub const HELLO: u8 = 1;
    pub const REFUSED: u8 = 2;
    pub const REQUEST: u8 = 3;
    pub const ANSWER: u8 = 4;
    pub const DATA: u8 = 5;
    pub const FAILED: u8 = 6;
    pub const CANCEL: u8 = 7;
    pub const WINDOW: u8 = 8;
    pub const PING: u8 = 9;
    pub const PONG: u8 = 10;
}

/// A reason, cut to what a frame of it takes.
fn cut(reason: &str) -> &str {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

impl Frame {
    /// Appends the frame. After [`Frame::Data`] the caller sends the bytes that it tells.
    pub fn encode(&self, out: &mut BytesMut) {
        let start = out.len();
        out.put_u32_le(0);
        let mut follows = 0;
        match self {
            Frame::Hello(hello) => {
                out.put_u8(kind::HELLO);
                out.put_u16_le(hello.version);
                out.put_slice(&hello.mesh.0);
                out.put_u64_le(hello.window);
                out.put_u32_le(hello.calls);
                out.put_slice(&hello.proof);
                out.put_u8(hello.is_older.into());
                hello.runs.encode(out);
            }
            Frame::Refused(reason) => {
                out.put_u8(kind::REFUSED);
                out.put_slice(cut(reason).as_bytes());
            }
            Frame::Request { id, lane, wait_ms, head } => {
                out.put_u8(kind::REQUEST);
                out.put_u64_le(*id);
                out.put_u64_le(*lane);
                out.put_u32_le(*wait_ms);
                put_head(out, head);
            }
            Frame::Answer { id, head } => {
                out.put_u8(kind::ANSWER);
                out.put_u64_le(*id);
                put_head(out, head);
            }
            Frame::Data { id, bytes } => {
                out.put_u8(kind::DATA);
                out.put_u64_le(*id);
                follows = *bytes;
            }
            Frame::Failed { id, reason } => {
                out.put_u8(kind::FAILED);
                out.put_u64_le(*id);
                out.put_slice(cut(reason).as_bytes());
            }
            Frame::Cancel { id } => put_number(out, kind::CANCEL, *id),
            Frame::Window { bytes } => put_number(out, kind::WINDOW, *bytes),
            Frame::Ping(number) => put_number(out, kind::PING, *number),
            Frame::Pong(number) => put_number(out, kind::PONG, *number),
        }
        let length = (out.len() - start - 4) as u32 + follows;
        out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    }
}

fn put_number(out: &mut BytesMut, kind: u8, number: u64) {
    out.put_u8(kind);
    out.put_u64_le(number);
}

fn put_head(out: &mut BytesMut, head: &Head) {
    out.put_u16_le(head.kind);
    out.put_u32_le(head.parts.len() as u32);
    out.reserve(4 * head.parts.len());
    head.parts.iter().for_each(|&n| out.put_u32_le(n));
}

/// How many bytes, from the beginning of a frame, must be there for [`decode`] to get further than
/// it got with `bytes`; at most [`FRAME_BYTES_MAX`].
///
/// # Errors
/// It is no frame, or longer than `most` bytes (its payload in [`Frame::Data`] apart).
pub fn needed(bytes: &[u8], most: usize) -> Result<usize, FrameError> {
    let Some((length, kind)) = prelude(bytes) else { return Ok(HEAD_BYTES) };
    if kind == kind::DATA {
        if length < 10 || length - 9 > DATA_BYTES_MAX {
            return Err(FrameError::TooLong { kind, bytes: length, most: DATA_BYTES_MAX + 9 });
        }
        return Ok(HEAD_BYTES + 8);
    }
    if !(kind::HELLO..=kind::PONG).contains(&kind) {
        return Err(FrameError::Kind(kind));
    }
    if length > most.min(FRAME_BYTES_MAX) - 4 {
        return Err(FrameError::TooLong { kind, bytes: length, most });
    }
    Ok(4 + length.max(1))
}

/// Length and kind, once both are there.
fn prelude(bytes: &[u8]) -> Option<(usize, u8)> {
    let head: &[u8; HEAD_BYTES] = bytes.first_chunk()?;
    Some((u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize, head[4]))
}

/// The frame at the beginning of `bytes` and how long it is ([`Frame::Data`] without its payload);
/// nothing while it is incomplete.
///
/// # Errors
/// It is no frame, or longer than `most` bytes.
pub fn decode(bytes: &[u8], most: usize) -> Result<Option<(Frame, usize)>, FrameError> {
    let length = needed(bytes, most)?;
    let Some((told, kind)) = prelude(bytes) else { return Ok(None) };
    let Some(mut body) = bytes.get(HEAD_BYTES..length) else { return Ok(None) };
    let malformed = || FrameError::Malformed(kind);
    if told == 0 {
        return Err(malformed());
    }
    let body = &mut body;
    let frame = match kind {
        kind::HELLO => Frame::Hello(Hello {
            version: body.try_get_u16_le().map_err(|_| malformed())?,
            mesh: MeshId(array(body).ok_or_else(malformed)?),
            window: body.try_get_u64_le().map_err(|_| malformed())?,
            calls: body.try_get_u32_le().map_err(|_| malformed())?,
            proof: array(body).ok_or_else(malformed)?,
            is_older: flag(body).ok_or_else(malformed)?,
            runs: Runs::decode(body).ok_or_else(malformed)?,
        }),
        kind::REFUSED => Frame::Refused(reason(body).ok_or_else(malformed)?),
        kind::REQUEST => Frame::Request {
            id: body.try_get_u64_le().map_err(|_| malformed())?,
            lane: body.try_get_u64_le().map_err(|_| malformed())?,
            wait_ms: body.try_get_u32_le().map_err(|_| malformed())?,
            head: get_head(body, kind)?,
        },
        kind::ANSWER => {
            Frame::Answer { id: body.try_get_u64_le().map_err(|_| malformed())?, head: get_head(body, kind)? }
        }
        kind::DATA => {
            // `needed` checked the range.
            Frame::Data { id: body.try_get_u64_le().map_err(|_| malformed())?, bytes: (told - 9) as u32 }
        }
        kind::FAILED => {
            let id = body.try_get_u64_le().map_err(|_| malformed())?;
            Frame::Failed { id, reason: reason(body).ok_or_else(malformed)? }
        }
        kind::CANCEL => Frame::Cancel { id: body.try_get_u64_le().map_err(|_| malformed())? },
        kind::WINDOW => Frame::Window { bytes: body.try_get_u64_le().map_err(|_| malformed())? },
        kind::PING => Frame::Ping(body.try_get_u64_le().map_err(|_| malformed())?),
        kind::PONG => Frame::Pong(body.try_get_u64_le().map_err(|_| malformed())?),
        other => return Err(FrameError::Kind(other)),
    };
    // A later version may append to a hello: this one would still read the version that it refuses.
    if !body.is_empty() && kind != kind::HELLO {
        return Err(malformed());
    }
    Ok(Some((frame, length)))
}

fn flag(body: &mut &[u8]) -> Option<bool> {
    match body.try_get_u8().ok()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn array<const N: usize>(body: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = body.split_first_chunk::<N>()?;
    *body = rest;
    Some(*first)
}

fn reason(body: &mut &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok().filter(|text| text.len() <= REASON_BYTES_MAX)?.to_owned();
    *body = &[];
    Some(text)
}

fn get_head(body: &mut &[u8], kind: u8) -> Result<Head, FrameError> {
    let malformed = |_| FrameError::Malformed(kind);
    let parcel = body.try_get_u16_le().map_err(malformed)?;
    let count = body.try_get_u32_le().map_err(malformed)? as usize;
    // The table is there before anything is allocated for it.
    if count > PARCEL_PARTS_MAX || body.len() != 4 * count {
        return Err(FrameError::Malformed(kind));
    }
    let parts = (0..count).map(|_| body.try_get_u32_le()).collect::<Result<Vec<_>, _>>().map_err(malformed)?;
    let head = Head { kind: parcel, parts };
    if head.bytes() > PARCEL_BYTES_MAX as u64 {
        return Err(FrameError::Parcel { bytes: head.bytes(), parts: count as u64 });
    }
    Ok(head)
}

#[cfg(test)]
#[path = "tests/frame.rs"]
pub(in crate::bulk) mod tests;
