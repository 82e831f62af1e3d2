//! A link that another node dialled: its calls are handed over, its answers sent back.
//!
//! Invariants: calls are handed over in the order in which they arrived whole, each once; a call's
//! future ends with its answer, its time, its caller's going or the link; a request is charged to
//! the window until then; finished answers that wait are bounded in bytes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gem_types::NodeId;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::counters::{Gauge, add};
use super::error::LinkError;
use super::frame::{Frame, FrameError};
use super::hello::Terms;
use super::incoming::{Arrived, Incoming, Side};
use super::outgoing::{Outgoing, Output, Purpose};
use super::shared::Shared;
use super::stream::{self, Connection, Tls, WRITE_BYTES, lock};
use crate::seams::{Answers, PARCEL_BYTES_MAX, PARCEL_PARTS_MAX, Parcel};

/// One link's calls.
struct Answering {
    state: Mutex<State>,
    wake: Notify,
    answer_bytes: u64,
}

struct State {
    outgoing: Outgoing,
    running: HashMap<u64, AbortHandle>,
}

/// Serves `from`'s link until it ends.
pub(super) async fn serve(
    shared: &Shared,
    answers: &Arc<dyn Answers>,
    from: NodeId,
    stream: Tls,
    terms: Terms,
) -> LinkError {
    let limits = &shared.limits;
    let counting = &shared.counting;
    let _standing = Gauge::new(&counting.links_accepted);
    let mut outgoing = Outgoing::new(limits.chunk_bytes, limits.window_bytes);
    let granted = outgoing.connected(terms.window);
    let answering = Arc::new(Answering {
        state: Mutex::new(State { outgoing, running: HashMap::new() }),
        wake: Notify::new(),
        answer_bytes: limits.answer_bytes,
    });
    let mut incoming = Incoming::new(Side::Answering, limits.window_bytes, limits.calls, granted);
    // Ends what still runs when the link ends.
    let mut tasks = JoinSet::new();
    let connection = Connection::new(stream);
    let mut output = Output::default();
    let why = tokio::select! {
        () = shared.stopping.cancelled() => LinkError::Stopping,
        why = stream::read_loop(&connection, &mut incoming, limits.silence_max, counting, |what| {
            while tasks.try_join_next().is_some() {}
            match what {
                Arrived::Request { id, wait_ms, parcel, charge } => {
                    add(&counting.answers, 1);
                    if answering.is_full(id, limits.calls) {
                        return Err(FrameError::Order("more calls than were agreed").into());
                    }
                    let work = answers.answer(from, parcel);
                    answering.run(&mut tasks, id, Duration::from_millis(wait_ms.into()), charge, work);
                    Ok(())
                }
                other => answering.arrived(other),
            }
        }) => why,
        why = stream::write_loop(&connection, &mut output, &answering.wake, counting, |output| {
            // Each answer was asked for: their number needs no bound here.
            lock(&answering.state).outgoing.fill(output, WRITE_BYTES, usize::MAX, Instant::now());
        }) => why,
    };
    tasks.abort_all();
    let _ = tokio::time::timeout(Duration::from_millis(200), connection.end(&mut output, &why)).await;
    why
}

impl Answering {
    fn is_full(&self, id: u64, calls: usize) -> bool {
        let state = lock(&self.state);
        state.running.len() >= calls || state.running.contains_key(&id)
    }

    /// Runs a call's future in a task.
    fn run(
        self: &Arc<Self>,
        tasks: &mut JoinSet<()>,
        id: u64,
        wait: Duration,
        charge: u64,
        work: futures::future::BoxFuture<'static, Parcel>,
    ) {
        let running = Running { answering: Arc::clone(self), id, charge };
        // The lock is held over the spawn: the task can't end before it is in the table.
        let mut state = lock(&self.state);
        let handle = tasks.spawn(async move {
            if let Ok(answer) = tokio::time::timeout(wait, work).await {
                running.answer(answer);
            }
        });
        state.running.insert(id, handle);
    }

    fn arrived(&self, what: Arrived) -> Result<(), LinkError> {
        let mut state = lock(&self.state);
        let is_worth_waking = match what {
            Arrived::Dropped { charge } => state.outgoing.used(charge),
            Arrived::Frame(Frame::Cancel { id }) => {
                match state.running.remove(&id) {
                    Some(handle) => handle.abort(),
                    // An answer that is under way goes on: the other side drops it.
                    None => _ = state.outgoing.cancel_waiting(id, id),
                }
                false
            }
            Arrived::Frame(Frame::Window { bytes }) => {
                state.outgoing.window(bytes);
                true
            }
            Arrived::Frame(Frame::Ping(number)) => {
                state.outgoing.pong(number);
                true
            }
            Arrived::Frame(Frame::Pong(_)) => false,
            Arrived::Frame(Frame::Refused(reason)) => return Err(LinkError::Refused(reason)),
            Arrived::Request { .. } | Arrived::Answer { .. } | Arrived::Frame(_) => {
                return Err(FrameError::Order("a frame that does not belong here").into());
            }
        };
        drop(state);
        if is_worth_waking {
            self.wake.notify_one();
        }
        Ok(())
    }
}

/// A call whose future runs. Dropped without an answer, it tells the caller that there is none,
/// unless that one has gone.
struct Running {
    answering: Arc<Answering>,
    id: u64,
    charge: u64,
}

impl Running {
    fn answer(&self, answer: Parcel) {
        let mut state = lock(&self.answering.state);
        if state.running.remove(&self.id).is_none() {
            return;
        }
        let why = if answer.len() > PARCEL_BYTES_MAX || answer.parts.len() > PARCEL_PARTS_MAX {
            "its answer is larger than a link carries"
        } else if state.outgoing.waiting_bytes() >= self.answering.answer_bytes {
            "more answers wait for this link than may: ask for less at once"
        } else {
            state.outgoing.parcel(self.id, self.id, Purpose::Answer, answer);
            return;
        };
        state.outgoing.control(Frame::Failed { id: self.id, reason: why.into() });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = lock(&self.answering.state);
        if state.running.remove(&self.id).is_some() {
            // Its time is up, or it panicked.
            let reason = "the call ended without an answer".into();
            state.outgoing.control(Frame::Failed { id: self.id, reason });
        }
        state.outgoing.used(self.charge);
        drop(state);
        self.answering.wake.notify_one();
    }
}
