//! What a link has to send, and in which order. No I/O.
//!
//! Small frames go first. Parcels of one lane go one after another; those of different lanes take
//! turns, a large one a chunk at a time. A parcel begins only while the window lasts and fewer than
//! the agreed calls are open; one that has begun goes on.
//!
//! Invariants: no part above a KiB is copied; parcels that were begun and not yet granted again are
//! charged at most the window and half of it; what waits is bounded by whoever adds it ([`Outgoing::waiting_bytes`]).

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::frame::{Frame, Head};
use crate::seams::Parcel;

/// Bytes on their way to the transport: slices, in order.
#[derive(Default)]
pub(super) struct Output {
    scratch: BytesMut,
    /// What is to be written.
    pub(super) slices: VecDeque<Bytes>,
    /// Bytes of `slices` and of what is not yet cut from the scratch buffer.
    bytes: usize,
}

/// Slices below this are copied beside the frames' heads: that costs less than a slice of its own.
const COPY_BYTES_MAX: usize = 1024;

impl Output {
    /// Bytes in it.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Appends a frame.
    pub(super) fn frame(&mut self, frame: &Frame) {
        let before = self.scratch.len();
        frame.encode(&mut self.scratch);
        self.bytes += self.scratch.len() - before;
    }

    fn slice(&mut self, slice: Bytes) {
        self.bytes += slice.len();
        if slice.len() <= COPY_BYTES_MAX {
            self.scratch.extend_from_slice(&slice);
            return;
        }
        self.cut();
        self.slices.push_back(slice);
    }

    /// Moves what was encoded to `slices`.
    pub(super) fn cut(&mut self) {
        if !self.scratch.is_empty() {
            self.slices.push_back(self.scratch.split().freeze());
        }
    }

    /// Counts from nothing again, once all slices are written.
    pub(super) fn written(&mut self) {
        self.bytes = 0;
    }
}

/// Whether a parcel asks or answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A call, and until when its caller waits.
    Request { deadline: Instant },
    /// An answer.
    Answer,
}

/// A parcel that waits, or is under way.
#[derive(Debug)]
struct Item {
    id: u64,
    lane: u64,
    purpose: Purpose,
    head: Head,
    parts: VecDeque<Bytes>,
    left: u64,
}

/// The sending half of a link.
#[derive(Debug)]
pub(super) struct Outgoing {
    chunk: usize,
    control: VecDeque<Frame>,
    pong: Option<u64>,
    /// Waiting parcels by lane, and the lanes whose first may begin, in turn.
    lanes: HashMap<u64, VecDeque<Item>>,
    turns: VecDeque<u64>,
    waiting: usize,
    waiting_bytes: u64,
    /// Begun, not yet sent whole.
    begun: VecDeque<Item>,
    /// What the other side takes, and what it has of it.
    window: u64,
    outstanding: u64,
    /// What is to be granted to the other side, and was, in all.
    due: u64,
    due_min: u64,
    granted: Arc<AtomicU64>,
}

impl Outgoing {
    /// Cuts parcels into chunks of `chunk` bytes; grants what came in when it is a quarter of
    /// `window_in`.
    pub(super) fn new(chunk: usize, window_in: u64) -> Self {
        Outgoing {
            chunk: chunk.max(1),
            control: VecDeque::new(),
            pong: None,
            lanes: HashMap::new(),
            turns: VecDeque::new(),
            waiting: 0,
            waiting_bytes: 0,
            begun: VecDeque::new(),
            window: 0,
            outstanding: 0,
            due: 0,
            due_min: (window_in / 4).max(1),
            granted: Arc::default(),
        }
    }

    /// Begins with a new connection, whose other side takes `window` bytes; what it has been
    /// granted is counted in what is returned. What waits stays.
    pub(super) fn connected(&mut self, window: u64) -> Arc<AtomicU64> {
        self.disconnected();
        self.window = window;
        self.granted = Arc::default();
        Arc::clone(&self.granted)
    }

    /// Forgets the connection; returns the parcels that were under way and never arrived whole.
    pub(super) fn disconnected(&mut self) -> HashSet<u64> {
        self.control.clear();
        self.pong = None;
        self.window = 0;
        self.outstanding = 0;
        self.due = 0;
        let cut: Vec<Item> = self.begun.drain(..).collect();
        for item in &cut {
            self.lane_is_free(item.lane);
        }
        cut.into_iter().map(|item| item.id).collect()
    }

    /// Drops what waits.
    pub(super) fn clear(&mut self) {
        self.lanes.clear();
        self.turns.clear();
        self.waiting = 0;
        self.waiting_bytes = 0;
    }

    /// Parcels that have not begun.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Weights of the parcels that have not begun.
    pub(super) fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes
    }

    /// Which parcels have not begun.
    pub(super) fn waiting_ids(&self) -> HashSet<u64> {
        self.lanes.values().flatten().map(|item| item.id).collect()
    }

    /// Adds a parcel at the end of its lane.
    pub(super) fn parcel(&mut self, id: u64, lane: u64, purpose: Purpose, parcel: Parcel) {
        let parts = parcel.parts.iter().map(|part| part.len() as u32).collect();
        let head = Head { kind: parcel.kind, parts };
        let left = head.bytes();
        self.waiting += 1;
        self.waiting_bytes += head.weight();
        let item = Item { id, lane, purpose, head, parts: parcel.parts.into(), left };
        let queue = self.lanes.entry(lane).or_default();
        queue.push_back(item);
        if queue.len() == 1 && !self.begun.iter().any(|item| item.lane == lane) {
            self.turns.push_back(lane);
        }
    }

    /// Adds a small frame.
    pub(super) fn control(&mut self, frame: Frame) {
        self.control.push_back(frame);
    }

    /// Answers a ping; of several only the last.
    pub(super) fn pong(&mut self, number: u64) {
        self.pong = Some(number);
    }

    /// The other side takes so many bytes more.
    pub(super) fn window(&mut self, bytes: u64) {
        self.outstanding = self.outstanding.saturating_sub(bytes);
    }

    /// So many bytes that came in have been used. True when it is time to say so.
    pub(super) fn used(&mut self, bytes: u64) -> bool {
        let before = self.due;
        self.due += bytes;
        before < self.due_min && self.due >= self.due_min
    }

    /// Takes `id` out if it has not begun.
    pub(super) fn cancel_waiting(&mut self, id: u64, lane: u64) -> bool {
        let Some(queue) = self.lanes.get_mut(&lane) else { return false };
        let Some(place) = queue.iter().position(|item| item.id == id) else { return false };
        let Some(item) = queue.remove(place) else { return false };
        if queue.is_empty() {
            self.lanes.remove(&lane);
            self.turns.retain(|turn| *turn != lane);
        }
        self.waiting -= 1;
        self.waiting_bytes -= item.head.weight();
        true
    }

    /// Sends no more of `id` if it is under way; the other side has to be told.
    pub(super) fn cancel_begun(&mut self, id: u64) -> bool {
        let Some(place) = self.begun.iter().position(|item| item.id == id) else { return false };
        if let Some(item) = self.begun.remove(place) {
            self.lane_is_free(item.lane);
        }
        true
    }

    /// Appends to `output` what can be sent now, until it holds `bytes`; begins at most `calls`
    /// parcels.
    pub(super) fn fill(&mut self, output: &mut Output, bytes: usize, mut calls: usize, now: Instant) {
        if self.due >= self.due_min {
            output.frame(&Frame::Window { bytes: self.due });
            self.granted.fetch_add(self.due, Ordering::AcqRel);
            self.due = 0;
        }
        if let Some(number) = self.pong.take() {
            output.frame(&Frame::Pong(number));
        }
        while output.len() < bytes
            && let Some(frame) = self.control.pop_front()
        {
            output.frame(&frame);
        }
        while output.len() < bytes {
            // A new one, then a piece of what has begun: neither starves the other.
            let next = if calls > 0 { self.begin(output, now) } else { None };
            let is_new = next.is_some();
            if let Some(item) = next {
                calls -= 1;
                self.piece(output, item);
            }
            match self.begun.pop_front() {
                Some(item) => self.piece(output, item),
                None if !is_new => break,
                None => {}
            }
        }
        output.cut();
    }

    /// Takes the next parcel whose turn it is, if the window lets one begin.
    fn begin(&mut self, output: &mut Output, now: Instant) -> Option<Item> {
        if self.outstanding >= self.window {
            return None;
        }
        let lane = self.turns.pop_front()?;
        let queue = self.lanes.get_mut(&lane)?;
        let item = queue.pop_front()?;
        if queue.is_empty() {
            self.lanes.remove(&lane);
        }
        self.waiting -= 1;
        self.waiting_bytes -= item.head.weight();
        self.outstanding += item.head.charge(self.window);
        let head = item.head.clone();
        output.frame(&match item.purpose {
            Purpose::Request { deadline } => {
                let wait = deadline.saturating_duration_since(now).as_millis().clamp(1, u128::from(u32::MAX));
                Frame::Request { id: item.id, lane, wait_ms: wait as u32, head }
            }
            Purpose::Answer => Frame::Answer { id: item.id, head },
        });
        Some(item)
    }

    /// Sends a chunk of `item`.
    fn piece(&mut self, output: &mut Output, mut item: Item) {
        let mut size = item.left.min(self.chunk as u64);
        if size > 0 {
            output.frame(&Frame::Data { id: item.id, bytes: size as u32 });
        }
        item.left -= size;
        while size > 0
            && let Some(part) = item.parts.front_mut()
        {
            let now = part.split_to(part.len().min(size as usize));
            if part.is_empty() {
                item.parts.pop_front();
            }
            size -= now.len() as u64;
            output.slice(now);
        }
        if item.left > 0 {
            self.begun.push_back(item);
        } else {
            self.lane_is_free(item.lane);
        }
    }

    /// Puts `lane` at the end of the turns, if it has more.
    fn lane_is_free(&mut self, lane: u64) {
        if self.lanes.contains_key(&lane) {
            self.turns.push_back(lane);
        }
    }
}

#[cfg(test)]
#[path = "tests/outgoing.rs"]
mod tests;
