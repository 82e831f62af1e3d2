//! The calls that wait for one link to one node, or are open on it. No I/O: [`super::dialling`]
//! moves the bytes.
//!
//! Invariants: every call ends once, by its answer, its deadline, its caller's going or the link's
//! end; what ends *Unreachable* was never handed over on the other side, for it did not arrive
//! whole; calls of one lane are sent in the order in which they were added, over as many
//! connections as it takes.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gem_types::NodeId;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::config::BulkLimits;
use super::error::LinkError;
use super::frame::{Frame, FrameError};
use super::hello::Terms;
use super::incoming::Arrived;
use super::outgoing::{Outgoing, Output, Purpose};
use super::stream::{WRITE_BYTES, lock};
use crate::seams::{CallError, Parcel};

/// The calls to one node over one link.
pub(super) struct Calling {
    pub(super) to: NodeId,
    state: Mutex<State>,
    /// Something may be there to send. One task waits for it: the link's.
    pub(super) wake: Notify,
}

struct State {
    outgoing: Outgoing,
    /// All calls that have not ended.
    calls: HashMap<u64, Open>,
    next_id: u64,
    /// Counts connections: what a former one left behind does not touch this one.
    connection: u64,
    /// Calls that the other side keeps open.
    calls_max: usize,
    queue_bytes: u64,
    queue_calls: usize,
    /// Why the last connection failed or ended, while there is none.
    trouble: Option<Arc<str>>,
    /// Nobody will send what is added: the link's task has gone.
    is_closed: bool,
}

struct Open {
    lane: u64,
    reply: oneshot::Sender<Result<Answered, CallError>>,
}

/// An answer; while it is not taken, it counts against the window.
pub(super) struct Answered {
    parcel: Parcel,
    _used: Used,
}

/// Gives back to the window, when dropped.
struct Used {
    calling: Arc<Calling>,
    connection: u64,
    charge: u64,
}

impl Drop for Used {
    fn drop(&mut self) {
        let mut state = lock(&self.calling.state);
        if state.connection == self.connection && state.outgoing.used(self.charge) {
            drop(state);
            self.calling.wake.notify_one();
        }
    }
}

/// Why a call was not added.
pub(super) enum NotAdded {
    /// The link's task has gone; a new one takes the parcel.
    Closed(Parcel),
    /// It can't be taken.
    Refused(CallError),
}

impl Calling {
    pub(super) fn new(to: NodeId, limits: &BulkLimits) -> Self {
        let state = State {
            outgoing: Outgoing::new(limits.chunk_bytes, limits.window_bytes),
            calls: HashMap::new(),
            next_id: 1,
            connection: 0,
            calls_max: 0,
            queue_bytes: limits.queue_bytes,
            queue_calls: limits.queue_calls,
            trouble: None,
            is_closed: false,
        };
        Calling { to, state: Mutex::new(state), wake: Notify::new() }
    }

    /// Adds a call at the end of its lane.
    pub(super) fn add(
        self: &Arc<Self>,
        lane: u64,
        request: Parcel,
        deadline: Instant,
        wait: Duration,
    ) -> Result<Waiting, NotAdded> {
        let mut state = lock(&self.state);
        if state.is_closed {
            return Err(NotAdded::Closed(request));
        }
        if state.outgoing.waiting_bytes() >= state.queue_bytes || state.outgoing.waiting() >= state.queue_calls {
            let why = state.not_sent("as many calls as may already wait for its link");
            return Err(NotAdded::Refused(CallError::Unreachable { to: self.to, why }));
        }
        let id = state.next_id;
        state.next_id += 1;
        let (reply, answer) = oneshot::channel();
        state.calls.insert(id, Open { lane, reply });
        state.outgoing.parcel(id, lane, Purpose::Request { deadline }, request);
        drop(state);
        self.wake.notify_one();
        Ok(Waiting { calling: Arc::clone(self), id, deadline, wait, answer, is_over: false })
    }

    /// Whether calls wait for a connection.
    pub(super) fn is_wanted(&self) -> bool {
        lock(&self.state).outgoing.waiting() > 0
    }

    /// Takes no more calls, if there are none.
    pub(super) fn close_if_idle(&self) -> bool {
        let mut state = lock(&self.state);
        state.is_closed |= state.calls.is_empty();
        state.is_closed
    }

    /// Takes no more calls and ends all.
    pub(super) fn close(&self, why: &LinkError) {
        lock(&self.state).is_closed = true;
        self.disconnected(why);
        self.not_connected(why);
    }

    /// Begins with a new connection: the window granted on it is counted in what is returned.
    pub(super) fn connected(&self, terms: Terms, calls_max: usize) -> Arc<AtomicU64> {
        let mut state = lock(&self.state);
        state.connection += 1;
        state.calls_max = calls_max.min(terms.calls).max(1);
        state.trouble = None;
        state.outgoing.connected(terms.window)
    }

    /// No connection could be made: all that waits ends now, so that its callers can do something
    /// else with their time.
    pub(super) fn not_connected(&self, why: &LinkError) {
        let why: Arc<str> = why.to_string().into();
        let mut state = lock(&self.state);
        state.trouble = Some(Arc::clone(&why));
        let ended: Vec<Open> = state.outgoing.waiting_ids().iter().filter_map(|id| state.calls.remove(id)).collect();
        state.outgoing.clear();
        drop(state);
        for open in ended {
            let _ = open.reply.send(Err(CallError::Unreachable { to: self.to, why: Arc::clone(&why) }));
        }
    }

    /// The connection ended: what was sent is lost; what waits may wait for the next.
    pub(super) fn disconnected(&self, why: &LinkError) {
        let why: Arc<str> = why.to_string().into();
        let mut state = lock(&self.state);
        state.connection += 1;
        state.trouble = Some(Arc::clone(&why));
        let cut = state.outgoing.disconnected();
        let waiting = state.outgoing.waiting_ids();
        let ended: Vec<(u64, Open)> = state.calls.extract_if(|id, _| !waiting.contains(id)).collect();
        drop(state);
        for (id, open) in ended {
            let (to, why) = (self.to, Arc::clone(&why));
            let _ = open.reply.send(Err(match cut.contains(&id) {
                true => CallError::Unreachable { to, why },
                false => CallError::Lost { to, why },
            }));
        }
    }

    /// Appends what can be sent now.
    pub(super) fn fill(&self, output: &mut Output) {
        let mut state = lock(&self.state);
        let open = state.calls.len().saturating_sub(state.outgoing.waiting());
        let room = state.calls_max.saturating_sub(open);
        state.outgoing.fill(output, WRITE_BYTES, room, Instant::now());
    }

    /// Asks for a sign of life.
    pub(super) fn ping(&self, number: u64) {
        lock(&self.state).outgoing.control(Frame::Ping(number));
        self.wake.notify_one();
    }

    /// Something came in.
    pub(super) fn arrived(self: &Arc<Self>, what: Arrived) -> Result<(), LinkError> {
        match what {
            Arrived::Answer { id, parcel, charge } => {
                let mut state = lock(&self.state);
                let used = Used { calling: Arc::clone(self), connection: state.connection, charge };
                let open = state.calls.remove(&id);
                // Dropping `used` takes the lock again.
                drop(state);
                let answered = Answered { parcel, _used: used };
                if let Some(open) = open {
                    let _ = open.reply.send(Ok(answered));
                }
                // A call may have waited for one that is open to end.
                self.wake.notify_one();
                Ok(())
            }
            Arrived::Frame(Frame::Failed { id, reason }) => {
                let open = lock(&self.state).calls.remove(&id);
                if let Some(open) = open {
                    let _ = open.reply.send(Err(CallError::Lost { to: self.to, why: reason.into() }));
                }
                self.wake.notify_one();
                Ok(())
            }
            Arrived::Frame(Frame::Window { bytes }) => {
                lock(&self.state).outgoing.window(bytes);
                self.wake.notify_one();
                Ok(())
            }
            Arrived::Frame(Frame::Ping(number)) => {
                lock(&self.state).outgoing.pong(number);
                self.wake.notify_one();
                Ok(())
            }
            Arrived::Frame(Frame::Pong(_)) => Ok(()),
            Arrived::Frame(Frame::Refused(reason)) => Err(LinkError::Refused(reason)),
            Arrived::Request { .. } | Arrived::Dropped { .. } | Arrived::Frame(_) => {
                Err(FrameError::Order("a frame that does not belong here").into())
            }
        }
    }

    /// Ends a call whose caller has gone or waits no longer; how far it had come, if it had not
    /// ended.
    fn give_up(&self, id: u64) -> Option<CallError> {
        let mut state = lock(&self.state);
        let open = state.calls.remove(&id)?;
        if state.outgoing.cancel_waiting(id, open.lane) {
            let why = state.not_sent("the calls before it have not been answered");
            return Some(CallError::Unreachable { to: self.to, why });
        }
        let is_cut = state.outgoing.cancel_begun(id);
        state.outgoing.control(Frame::Cancel { id });
        drop(state);
        self.wake.notify_one();
        let to = self.to;
        Some(match is_cut {
            true => CallError::Unreachable { to, why: "only a part of it could be sent in time".into() },
            false => CallError::Lost { to, why: "no answer in time".into() },
        })
    }
}

impl State {
    /// Why a call was not sent.
    fn not_sent(&self, connected: &str) -> Arc<str> {
        match &self.trouble {
            Some(trouble) => Arc::clone(trouble),
            None if self.connection == 0 => "no link to it is there yet".into(),
            None => connected.into(),
        }
    }
}

/// A call that has been added. Dropping it ends the call.
pub(super) struct Waiting {
    calling: Arc<Calling>,
    id: u64,
    deadline: Instant,
    wait: Duration,
    answer: oneshot::Receiver<Result<Answered, CallError>>,
    is_over: bool,
}

impl Waiting {
    /// The answer, or why there is none; at its deadline at the latest.
    pub(super) async fn answer(mut self) -> Result<Parcel, CallError> {
        let to = self.calling.to;
        let outcome = tokio::time::timeout_at(self.deadline, &mut self.answer).await;
        self.is_over = outcome.is_ok();
        match outcome {
            Ok(Ok(answered)) => answered.map(|answered| answered.parcel),
            Ok(Err(_)) => Err(CallError::Lost { to, why: "this node is stopping".into() }),
            Err(_) => {
                self.is_over = true;
                let wait = self.wait;
                // Where it has ended meanwhile, its answer came too late by a moment.
                let late = || CallError::Lost { to, why: "no answer in time".into() };
                Err(match self.calling.give_up(self.id).unwrap_or_else(late) {
                    CallError::Unreachable { to, why } => {
                        CallError::Unreachable { to, why: format!("not sent within {wait:?}: {why}").into() }
                    }
                    CallError::Lost { to, why } => CallError::Lost { to, why: format!("after {wait:?}: {why}").into() },
                    other => other,
                })
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.is_over {
            self.calling.give_up(self.id);
        }
    }
}
