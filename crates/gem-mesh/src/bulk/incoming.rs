//! What arrives on a link: bytes in, frames and whole parcels out. No I/O.
//!
//! A parcel's bytes are copied once, from the decrypted record into one buffer for the parcel, of
//! which its parts are slices.
//!
//! Invariants: parcels under way and not yet granted again hold at most the window and two parcels
//! of the largest size (one may begin while anything is left of the window, and takes at most half
//! of it, so that one larger than the window passes and others beside it); a peer that sends more
//! is cut off. Anything else kept is one frame's head.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};

use super::frame::{self, FRAME_BYTES_MAX, Frame, FrameError, Head};
use crate::seams::Parcel;

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    /// A call, whole.
    Request { id: u64, wait_ms: u32, parcel: Parcel, charge: u64 },
    /// An answer, whole.
    Answer { id: u64, parcel: Parcel, charge: u64 },
    /// A call that was cancelled before it had come whole.
    Dropped { charge: u64 },
    /// Any other frame.
    Frame(Frame),
}

/// Which way parcels go: calls go from who dialled, answers come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Takes calls.
    Answering,
    /// Takes answers.
    Calling,
}

/// A parcel under way.
struct Assembly {
    head: Head,
    wait_ms: u32,
    buffer: BytesMut,
    missing: usize,
}

/// The receiving half of a link.
pub(super) struct Incoming {
    side: Side,
    window: u64,
    calls: usize,
    /// Charges of all parcels begun, and what the writing half has granted again.
    taken: u64,
    granted: Arc<AtomicU64>,
    /// The beginning of a frame.
    partial: BytesMut,
    /// The piece under way: its call, and bytes that follow.
    piece: Option<(u64, usize)>,
    parcels: HashMap<u64, Assembly>,
}

impl Incoming {
    /// Takes `window` bytes beyond what `granted` counts, and `calls` parcels at once.
    pub(super) fn new(side: Side, window: u64, calls: usize, granted: Arc<AtomicU64>) -> Self {
        Incoming {
            side,
            window,
            calls,
            taken: 0,
            granted,
            partial: BytesMut::new(),
            piece: None,
            parcels: HashMap::new(),
        }
    }

    /// Takes all of `bytes` and hands on what they complete, in order.
    pub(super) fn take(&mut self, mut bytes: &[u8], arrived: &mut impl FnMut(Arrived)) -> Result<(), FrameError> {
        while !bytes.is_empty() {
            if let Some((id, missing)) = self.piece {
                let (now, later) = bytes.split_at(missing.min(bytes.len()));
                bytes = later;
                self.piece = (missing > now.len()).then_some((id, missing - now.len()));
                self.append(id, now, arrived)?;
                continue;
            }
            if self.partial.is_empty() {
                match frame::decode(bytes, FRAME_BYTES_MAX)? {
                    Some((frame, length)) => {
                        bytes = bytes.get(length..).unwrap_or_default();
                        self.frame(frame, arrived)?;
                    }
                    None => {
                        self.partial.extend_from_slice(bytes);
                        bytes = &[];
                    }
                }
                continue;
            }
            let wanted = frame::needed(&self.partial, FRAME_BYTES_MAX)?.saturating_sub(self.partial.len());
            let (now, later) = bytes.split_at(wanted.min(bytes.len()));
            self.partial.extend_from_slice(now);
            bytes = later;
            if let Some((frame, _)) = frame::decode(&self.partial, FRAME_BYTES_MAX)? {
                self.partial.clear();
                self.frame(frame, arrived)?;
            }
        }
        Ok(())
    }

    fn frame(&mut self, frame: Frame, arrived: &mut impl FnMut(Arrived)) -> Result<(), FrameError> {
        match (frame, self.side) {
            (Frame::Request { id, wait_ms, head, .. }, Side::Answering) => self.begin(id, wait_ms, head, arrived),
            (Frame::Answer { id, head }, Side::Calling) => self.begin(id, 0, head, arrived),
            (Frame::Data { id, bytes }, _) => {
                let parcel = self.parcels.get(&id).ok_or(FrameError::Order("bytes of a parcel that was not begun"))?;
                if bytes as usize > parcel.missing {
                    return Err(FrameError::Order("more bytes of a parcel than were announced"));
                }
                self.piece = Some((id, bytes as usize));
                Ok(())
            }
            (Frame::Cancel { id }, Side::Answering) => {
                match self.parcels.remove(&id) {
                    Some(parcel) => arrived(Arrived::Dropped { charge: parcel.head.charge(self.window) }),
                    None => arrived(Arrived::Frame(Frame::Cancel { id })),
                }
                Ok(())
            }
            (frame @ Frame::Failed { .. }, Side::Calling) => {
                arrived(Arrived::Frame(frame));
                Ok(())
            }
            (frame @ (Frame::Window { .. } | Frame::Ping(_) | Frame::Pong(_) | Frame::Refused(_)), _) => {
                arrived(Arrived::Frame(frame));
                Ok(())
            }
            (
                Frame::Hello(_)
                | Frame::Request { .. }
                | Frame::Answer { .. }
                | Frame::Failed { .. }
                | Frame::Cancel { .. },
                _,
            ) => Err(FrameError::Order("a frame that does not belong here")),
        }
    }

    fn begin(
        &mut self,
        id: u64,
        wait_ms: u32,
        head: Head,
        arrived: &mut impl FnMut(Arrived),
    ) -> Result<(), FrameError> {
        let outstanding = self.taken.saturating_sub(self.granted.load(Ordering::Acquire));
        if outstanding >= self.window {
            return Err(FrameError::Order("a parcel beyond the window"));
        }
        if self.parcels.len() >= self.calls {
            return Err(FrameError::Order("more calls than were agreed"));
        }
        if self.parcels.contains_key(&id) {
            return Err(FrameError::Order("a parcel that was begun already"));
        }
        self.taken = self.taken.saturating_add(head.charge(self.window));
        let missing = head.bytes() as usize;
        let parcel = Assembly { head, wait_ms, buffer: BytesMut::with_capacity(missing), missing };
        if missing == 0 {
            self.finish(id, parcel, arrived);
        } else {
            self.parcels.insert(id, parcel);
        }
        Ok(())
    }

    fn append(&mut self, id: u64, bytes: &[u8], arrived: &mut impl FnMut(Arrived)) -> Result<(), FrameError> {
        let parcel = self.parcels.get_mut(&id).ok_or(FrameError::Order("bytes of a parcel that was not begun"))?;
        parcel.buffer.extend_from_slice(bytes);
        parcel.missing = parcel.missing.saturating_sub(bytes.len());
        if parcel.missing == 0
            && let Some(parcel) = self.parcels.remove(&id)
        {
            self.finish(id, parcel, arrived);
        }
        Ok(())
    }

    fn finish(&self, id: u64, parcel: Assembly, arrived: &mut impl FnMut(Arrived)) {
        let charge = parcel.head.charge(self.window);
        let mut whole = parcel.buffer.freeze();
        let parts: Vec<Bytes> =
            parcel.head.parts.iter().map(|&n| whole.split_to((n as usize).min(whole.len()))).collect();
        let content = Parcel { kind: parcel.head.kind, parts };
        arrived(match self.side {
            Side::Answering => Arrived::Request { id, wait_ms: parcel.wait_ms, parcel: content, charge },
            Side::Calling => Arrived::Answer { id, parcel: content, charge },
        });
    }
}

#[cfg(test)]
#[path = "tests/incoming.rs"]
mod tests;
