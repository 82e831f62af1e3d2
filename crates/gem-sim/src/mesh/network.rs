//! The network between the nodes of a run: both planes, by seed.
//!
//! What it is: one queue of what is on its way, in order of its time of arrival, then of its link
//! and its number there, so that the order in which tasks of one instant send does not matter; one
//! task that hands it over. Control messages are delayed, lost, doubled and overtaken; calls of a
//! lane arrive in order, and their answers are delayed or lost. A link may be cut, each way by
//! itself; a node may be paused: what it sends and gets waits.
//!
//! Invariants:
//! - Nothing reaches, and nothing leaves, a life of a node that has ended.
//! - Every call ends within its time: with an answer, lost, or unreachable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use gem_mesh::{Answers, CallError, Calls, Control, Hears, Parcel};
use gem_types::NodeId;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::chance::Chance;

/// How long it takes to find that nobody listens at an address.
const REFUSED_MS: u64 = 1;
/// How long a connection is tried where nothing comes back.
const CONNECT_MS: u64 = 2_000;

/// How the network is just now.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// A message takes up to so long.
    pub delay_ms: u64,
    /// Now and then, of a hundred, one takes up to a second.
    pub slow_percent: u64,
    /// Of a hundred control messages so many are lost.
    pub lost_percent: u64,
    /// Of a hundred control messages so many come twice.
    pub doubled_percent: u64,
}

impl Weather {
    /// A good day.
    pub const FAIR: Weather = Weather { delay_ms: 2, slow_percent: 0, lost_percent: 0, doubled_percent: 0 };
}

type Link = (NodeId, NodeId);

/// What is on its way.
enum Load {
    Control(Bytes),
    /// A call of the caller's life `1`, to be answered into `2`.
    Call(Parcel, u64, oneshot::Sender<Result<Parcel, CallError>>),
    Answer(Result<Parcel, CallError>, u64, oneshot::Sender<Result<Parcel, CallError>>),
}

/// A node that runs.
struct End {
    life: u64,
    hears: Arc<dyn Hears>,
    answers: Arc<dyn Answers>,
    /// Its answers at work; they end with it.
    tasks: JoinSet<()>,
}

struct State {
    seed: u64,
    weather: Weather,
    ends: BTreeMap<NodeId, End>,
    lives: u64,
    cuts: BTreeSet<Link>,
    paused: BTreeSet<NodeId>,
    links: BTreeMap<Link, LinkState>,
    queue: BTreeMap<(u64, Link, u64), Load>,
    held: BTreeMap<(u64, Link, u64), Load>,
    /// Calls of which nobody will say anything: their callers wait until their time is over.
    silent: Vec<oneshot::Sender<Result<Parcel, CallError>>>,
}

struct LinkState {
    chance: Chance,
    sent: u64,
    /// When the last call of each lane arrives.
    lanes: BTreeMap<u64, u64>,
}

/// The network. Shared by all nodes of a run.
pub struct Network {
    began: Instant,
    state: Mutex<State>,
    sent: Notify,
}

impl State {
    fn link(&mut self, link: Link) -> &mut LinkState {
        let seed = self.seed;
        let number = |id: NodeId| id.0.iter().fold(0u64, |all, byte| all.wrapping_mul(31).wrapping_add((*byte).into()));
        self.links.entry(link).or_insert_with(|| LinkState {
            chance: Chance::new(seed ^ number(link.0).rotate_left(17) ^ number(link.1)),
            sent: 0,
            lanes: BTreeMap::new(),
        })
    }

    fn push(&mut self, now: u64, link: Link, lane: Option<u64>, load: Load) {
        let weather = self.weather;
        let state = self.link(link);
        let slow = state.chance.percent(weather.slow_percent);
        let delay = if slow { state.chance.below(1_000) } else { state.chance.below(weather.delay_ms + 1) };
        state.sent += 1;
        let number = state.sent;
        let mut due = now + delay;
        if let Some(lane) = lane {
            let last = state.lanes.entry(lane).or_default();
            due = due.max(*last);
            *last = due;
        }
        if self.paused.contains(&link.0) {
            self.held.insert((due, link, number), load);
        } else {
            self.queue.insert((due, link, number), load);
        }
    }
}

impl State {
    fn keep_silent(&mut self, answer: oneshot::Sender<Result<Parcel, CallError>>) {
        self.silent.retain(|waits| !waits.is_closed());
        self.silent.push(answer);
    }
}

impl Network {
    /// A network with good weather.
    pub fn new(seed: u64) -> Arc<Network> {
        let state = State {
            seed,
            weather: Weather::FAIR,
            ends: BTreeMap::new(),
            lives: 0,
            cuts: BTreeSet::new(),
            paused: BTreeSet::new(),
            links: BTreeMap::new(),
            queue: BTreeMap::new(),
            held: BTreeMap::new(),
            silent: Vec::new(),
        };
        Arc::new(Network { began: Instant::now(), state: Mutex::new(state), sent: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic ends the run, and is reported as what it is.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// A new life of `node`: its way to the others. It hears of them after [`listen`](Self::listen).
    pub fn socket(self: &Arc<Self>, node: NodeId) -> Arc<Socket> {
        let mut state = self.state();
        state.lives += 1;
        let life = state.lives;
        Arc::new(Socket { network: self.clone(), node, life })
    }

    /// The node of `socket` takes what others send.
    pub fn listen(&self, socket: &Socket, hears: Arc<dyn Hears>, answers: Arc<dyn Answers>) {
        let end = End { life: socket.life, hears, answers, tasks: JoinSet::new() };
        self.state().ends.insert(socket.node, end);
    }

    /// The life of `node` has ended.
    pub fn end(&self, node: NodeId) {
        let end = self.state().ends.remove(&node);
        // What it was answering is dropped outside the lock.
        drop(end);
    }

    /// Sets the weather.
    pub fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// Cuts the way from one node to another, or heals it.
    pub fn cut(&self, from: NodeId, to: NodeId, is_cut: bool) {
        let mut state = self.state();
        if is_cut {
            state.cuts.insert((from, to));
        } else {
            state.cuts.remove(&(from, to));
        }
    }

    /// Heals every cut.
    pub fn heal(&self) {
        self.state().cuts.clear();
    }

    /// What `node` sends and gets waits from now on, or does no more.
    pub fn pause(&self, node: NodeId, is_paused: bool) {
        let mut state = self.state();
        if is_paused {
            state.paused.insert(node);
            return;
        }
        state.paused.remove(&node);
        let now = self.now();
        for ((due, link, number), load) in std::mem::take(&mut state.held) {
            if state.paused.contains(&link.0) || state.paused.contains(&link.1) {
                state.held.insert((due, link, number), load);
            } else {
                state.queue.insert((due.max(now), link, number), load);
            }
        }
        drop(state);
        self.sent.notify_one();
    }

    /// Hands over what arrives, until it is aborted.
    pub async fn run(self: Arc<Self>) {
        loop {
            let due = self.state().queue.first_key_value().map(|((due, ..), _)| *due);
            let now = self.now();
            match due {
                Some(due) if due <= now => self.hand_over(now),
                Some(due) => {
                    let _ = tokio::time::timeout(Duration::from_millis(due - now), self.sent.notified()).await;
                }
                None => self.sent.notified().await,
            }
        }
    }

    /// Hands over the first that has arrived.
    fn hand_over(self: &Arc<Self>, now: u64) {
        let mut state = self.state();
        let Some(((due, link, number), load)) = state.queue.pop_first() else { return };
        let (from, to) = link;
        if state.paused.contains(&to) {
            state.held.insert((due, link, number), load);
            return;
        }
        let is_cut = state.cuts.contains(&link);
        match load {
            Load::Control(message) => {
                let hears = state.ends.get(&to).map(|end| end.hears.clone());
                drop(state);
                if let Some(hears) = hears.filter(|_| !is_cut) {
                    hears.hear(from, message);
                }
            }
            // Dropped by the way: the caller waits until its time is over.
            Load::Call(_, _, answer) if is_cut => state.keep_silent(answer),
            Load::Call(request, life, answer) => {
                let Some(answers) = state.ends.get(&to).map(|end| end.answers.clone()) else {
                    let lost = Err(CallError::Lost { to, why: "the connection was reset".into() });
                    state.push(now, (to, from), None, Load::Answer(lost, life, answer));
                    return;
                };
                drop(state);
                // In the order of arrival: that is the order of the lane.
                let future = answers.answer(from, request);
                let network = self.clone();
                let mut state = self.state();
                let Some(end) = state.ends.get_mut(&to) else { return };
                while end.tasks.try_join_next().is_some() {}
                end.tasks.spawn(async move {
                    let made = future.await;
                    let now = network.now();
                    network.state().push(now, (to, from), None, Load::Answer(Ok(made), life, answer));
                    network.sent.notify_one();
                });
            }
            Load::Answer(_, _, answer) if is_cut => state.keep_silent(answer),
            Load::Answer(made, life, answer) => {
                if state.ends.contains_key(&from) || made.is_err() {
                    let is_there = state.ends.get(&to).is_some_and(|end| end.life == life);
                    drop(state);
                    if is_there {
                        let _ = answer.send(made);
                    }
                } else {
                    drop(state);
                    let _ = answer.send(Err(CallError::Lost { to: from, why: "the connection was reset".into() }));
                }
            }
        }
    }
}

/// One life's way to the others.
pub struct Socket {
    network: Arc<Network>,
    node: NodeId,
    life: u64,
}

impl Socket {
    fn is_open(&self, state: &State) -> bool {
        state.ends.get(&self.node).is_some_and(|end| end.life == self.life)
    }
}

impl Control for Socket {
    fn send(&self, to: NodeId, message: Bytes) {
        let now = self.network.now();
        let mut state = self.network.state();
        if !self.is_open(&state) {
            return;
        }
        let weather = state.weather;
        let link = (self.node, to);
        let chance = &mut state.link(link).chance;
        let (is_lost, is_doubled) = (chance.percent(weather.lost_percent), chance.percent(weather.doubled_percent));
        if !is_lost {
            state.push(now, link, None, Load::Control(message.clone()));
        }
        if is_doubled {
            state.push(now, link, None, Load::Control(message));
        }
        drop(state);
        self.network.sent.notify_one();
    }
}

impl Calls for Socket {
    fn call(
        &self,
        to: NodeId,
        lane: u64,
        request: Parcel,
        wait: Duration,
    ) -> BoxFuture<'static, Result<Parcel, CallError>> {
        let now = self.network.now();
        let mut state = self.network.state();
        let unreachable = |why: &str| CallError::Unreachable { to, why: why.into() };
        let link = (self.node, to);
        let refusal = if !self.is_open(&state) {
            Some((unreachable("this node has ended"), REFUSED_MS))
        } else if !state.ends.contains_key(&to) {
            Some((unreachable("connection refused"), REFUSED_MS))
        } else if (state.cuts.contains(&link) || state.cuts.contains(&(to, self.node)))
            && state.link(link).chance.percent(50)
        {
            // The link had broken, and no new one is made.
            Some((unreachable("no connection"), CONNECT_MS.min(wait.as_millis() as u64)))
        } else {
            None
        };
        if let Some((error, ms)) = refusal {
            drop(state);
            return async move {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                Err(error)
            }
            .boxed();
        }
        let (sender, receiver) = oneshot::channel();
        state.push(now, link, Some(lane), Load::Call(request, self.life, sender));
        drop(state);
        self.network.sent.notify_one();
        async move {
            match tokio::time::timeout(wait, receiver).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(CallError::Lost { to, why: "the node ended".into() }),
                Err(_) => Err(CallError::Lost { to, why: "no answer in time".into() }),
            }
        }
        .boxed()
    }
}
