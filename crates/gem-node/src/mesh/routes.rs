//! From a ring position to whoever leads its shard, on this node or another: the gateway's router.
//!
//! A route is a guess from what the mesh tells. A wrong one is answered with a newer descriptor,
//! or with nothing; either way the call goes on, the same each time, until it is answered or its
//! time is over. What was carried out unheard is recognised by ids and numbers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use gem_mesh::directory::Descriptor;
use gem_mesh::{CallError, Calls, Parcel};
use gem_shard::log::{Router, ShardLog};
use gem_shard::remote::{Call, Carries, Miss, Output, Pipe, PipeError, RemoteShard, Target, serve};
use gem_shard::{Shard, Status};
use gem_types::{Code, Error, GroupId, NodeId, Position, Prefix, Result};
use tokio::time::Instant;

use super::agent::Agent;
use super::kinds;
use super::raft::expect;
use crate::shards::Shards;

/// How long a call is tried again while nobody leads its shard: longer than an election.
const PATIENCE: Duration = Duration::from_secs(8);
/// After so many tries others are asked who leads.
const ASK_AFTER: u32 = 3;
/// Between tries, where nothing new is learned: doubles from the first to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

/// What every route of a node shares.
pub struct MeshRouter {
    /// The shards of this node.
    pub shards: Shards,
    /// What is known of the others'.
    pub agent: Arc<Agent>,
    /// The way there.
    pub calls: Arc<dyn Calls>,
}

/// A shard, wherever it is led.
struct Routed {
    router: Arc<MeshRouter>,
    position: Position,
}

/// The router that a gateway holds.
pub struct MeshRoutes(pub Arc<MeshRouter>);

impl Router for MeshRoutes {
    fn route(&self, position: Position) -> Result<Arc<dyn ShardLog>> {
        Ok(Arc::new(Routed { router: self.0.clone(), position }))
    }

    fn all(&self) -> Vec<Arc<dyn ShardLog>> {
        let routed =
            |prefix: Prefix| Arc::new(Routed { router: self.0.clone(), position: prefix.first() }) as Arc<dyn ShardLog>;
        self.0.prefixes().into_iter().map(routed).collect()
    }
}

impl MeshRouter {
    /// The prefixes that tile the ring, as far as is known: of those that overlap, the longer.
    pub fn prefixes(&self) -> Vec<Prefix> {
        let mut all: Vec<Prefix> = self.agent.shards().into_iter().map(|shard| shard.prefix).collect();
        all.extend(self.shards.all().iter().map(|shard| shard.prefix()));
        all.sort_by_key(|prefix| (prefix.first(), prefix.length()));
        all.dedup();
        // A prefix is followed by those inside it: it is gone where one of them begins at its start.
        let mut tiles: Vec<Prefix> = Vec::with_capacity(all.len());
        for prefix in all {
            while tiles.last().is_some_and(|last| last.contains(prefix.first())) {
                tiles.pop();
            }
            tiles.push(prefix);
        }
        tiles
    }

    /// Whether the known prefixes tile the ring, and each has a leader.
    pub fn is_whole(&self) -> bool {
        let mut next = Some(0u64);
        for prefix in self.prefixes() {
            let has_leader = self.led_here(prefix.first()).is_some() || self.leader_of(prefix.first()).is_some();
            if next != Some(prefix.first().0) || !has_leader {
                return false;
            }
            next = prefix.last().0.checked_add(1);
        }
        next.is_none()
    }

    /// The shard here that holds `position` and may judge.
    fn led_here(&self, position: Position) -> Option<Arc<Shard>> {
        let shard = self.shards.holding(position)?;
        matches!(shard.status(), Status::Leading { .. }).then_some(shard)
    }

    /// Who leads the shard that holds `position`, as far as is known: what a replica here saw goes
    /// before what gossip says.
    fn leader_of(&self, position: Position) -> Option<Lead> {
        let known = self.agent.find(position);
        if let Some(shard) = self.shards.holding(position)
            && let Status::Following { leader, term } = shard.status()
            && known.as_ref().is_none_or(|known| known.group != shard.id() || known.term <= term)
        {
            let (group, prefix, epoch) = (shard.id(), shard.prefix(), shard.epoch());
            return Some(Lead { node: leader.node, group, prefix, epoch, term });
        }
        let Descriptor { group, prefix, epoch, term, leader, seats } = known?;
        // Any replica tells more, where it is not known who leads.
        let others = leader.into_iter().chain(seats.iter().map(|seat| seat.replica.node));
        let node = others.into_iter().find(|node| *node != self.agent.node())?;
        Some(Lead { node, group, prefix, epoch, term })
    }
}

/// Whom to ask for a shard, and what is known of it.
struct Lead {
    node: NodeId,
    group: GroupId,
    prefix: Prefix,
    epoch: u64,
    term: u64,
}

/// The way to one node.
struct Line {
    router: Arc<MeshRouter>,
    to: NodeId,
    lane: u64,
}

impl Pipe for Line {
    fn call(
        &self,
        request: Vec<Bytes>,
        wait: Duration,
    ) -> BoxFuture<'static, std::result::Result<Vec<Bytes>, PipeError>> {
        let call = self.router.calls.call(self.to, self.lane, Parcel { kind: kinds::SHARD, parts: request }, wait);
        async move {
            match call.await {
                Err(error @ (CallError::Unreachable { .. } | CallError::TooLarge { .. })) => {
                    Err(PipeError::Unreachable(error.to_string()))
                }
                Err(error @ CallError::Lost { .. }) => Err(PipeError::Lost(error.to_string())),
                answer => expect(kinds::SHARD, answer).map_err(PipeError::Unreachable),
            }
        }
        .boxed()
    }

    fn redirected(&self, hint: Bytes) {
        if let Ok(descriptor) = serde_json::from_slice::<Descriptor>(&hint) {
            self.router.agent.learn(descriptor);
        }
    }
}

impl Carries for Routed {
    fn carry(&self, call: Call) -> BoxFuture<'_, Result<Output>> {
        self.carry_until(call).boxed()
    }
}

impl Routed {
    async fn carry_until(&self, call: Call) -> Result<Output> {
        let router = &self.router;
        // Once a try went unheard it may have been carried out, whatever later ones are told: only
        // an answer says what became of it.
        let mut unheard: Option<Error> = None;
        if let Some(shard) = router.led_here(self.position) {
            // The usual case of a node alone, and a third of those of a mesh of three.
            let made = serve::make(&*shard, call.clone()).await;
            match &made {
                Err(error) if is_open(error, &call) => unheard = Some(error.clone()),
                Err(error) if is_elsewhere(error, &shard) => {}
                _ => return made,
            }
        }
        let until = Instant::now() + call.wait().max(PATIENCE);
        let (mut pause, mut tries) = (PAUSE.0, 0u32);
        loop {
            let mut learned = router.agent.learned();
            let error = match self.once(&call).await {
                Ok(Ok(output)) => return Ok(output),
                Ok(Err(error)) => return Err(unheard.unwrap_or(error)),
                Err(Missed::Final(error)) => return Err(error),
                Err(Missed::Again(error)) => error,
            };
            if error.code == Code::Deadline {
                unheard.get_or_insert_with(|| error.clone());
            }
            if Instant::now() + pause >= until {
                return Err(unheard.unwrap_or(error));
            }
            if tries == ASK_AFTER {
                // What is known leads nowhere: others may know more.
                router.agent.ask(self.position);
            }
            tries += 1;
            let news = async {
                let local = router.shards.holding(self.position);
                tokio::select! {
                    biased;
                    _ = learned.changed() => {}
                    () = async { match local { Some(shard) => shard.changed().await, None => std::future::pending().await } } => {}
                }
            };
            // What is learned may be of another shard: then the next try is as good as the last.
            let _ = tokio::time::timeout(pause, news).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    async fn once(&self, call: &Call) -> std::result::Result<Result<Output>, Missed> {
        let router = &self.router;
        if let Some(shard) = router.led_here(self.position) {
            let made = serve::make(&*shard, call.clone()).await;
            return match made {
                Err(error) if is_elsewhere(&error, &shard) || is_open(&error, call) => Err(Missed::Again(error)),
                made => Ok(made),
            };
        }
        let Some(lead) = router.leader_of(self.position) else {
            let what = format!("nobody is known to lead the shard that holds position {:016x}", self.position.0);
            return Err(Missed::Again(Error::unavailable(what, 200)));
        };
        let lane = self.position.0;
        let line = Arc::new(Line { router: router.clone(), to: lead.node, lane });
        let remote = RemoteShard::new(line, lead.group, lead.prefix, lead.epoch);
        let made = tokio::select! {
            biased;
            made = remote.call(call) => made,
            // A leader that is cut off or stopped answers late or never: another leads by now.
            () = self.moved(&lead), if call.is_repeatable() || !call.changes() => {
                // It left, and may yet be carried out.
                let what = format!("shard {}: its leader has changed", lead.prefix);
                return Err(Missed::Again(match call.changes() {
                    true => Error::deadline(format!("{what}; the outcome is unknown: retry with the same id")),
                    false => Error::unavailable(format!("{what}; try again"), 200),
                }));
            }
        };
        match made {
            Ok(Err(error)) if error.code == Code::Unavailable || is_open(&error, call) => Err(Missed::Again(error)),
            Ok(answer) => Ok(answer),
            Err(miss) if miss.may_be_tried_again(call) => Err(Missed::Again(miss.into_error(call, lead.prefix))),
            Err(miss @ Miss::Lost(_)) => Err(Missed::Final(miss.into_error(call, lead.prefix))),
            Err(miss) => Err(Missed::Again(miss.into_error(call, lead.prefix))),
        }
    }
}

impl Routed {
    /// Returns once another is known to lead, in a later term.
    async fn moved(&self, lead: &Lead) {
        let mut learned = self.router.agent.learned();
        loop {
            let local = self.router.shards.holding(self.position);
            let here = async {
                match local {
                    Some(shard) => shard.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The agent lives as long as the node.
                _ = learned.changed() => {}
                () = here => {}
            }
            let now = self.router.leader_of(self.position);
            let is_other = now.is_some_and(|now| now.node != lead.node && now.term > lead.term);
            if is_other || self.router.led_here(self.position).is_some() {
                return;
            }
        }
    }
}

enum Missed {
    /// Not carried out, or harmless to repeat.
    Again(Error),
    /// May have been carried out, and must not be repeated unasked.
    Final(Error),
}

/// Whether the refusal says that another replica leads by now.
fn is_elsewhere(error: &Error, shard: &Shard) -> bool {
    error.code == Code::Unavailable && !matches!(shard.status(), Status::Leading { .. })
}

/// Whether the outcome is unknown, and the same call may simply be made again: a repeat is
/// recognised.
fn is_open(error: &Error, call: &Call) -> bool {
    error.code == Code::Deadline && call.is_repeatable()
}

/// The log that answers a call of another node, or the hint where else to ask.
pub fn serving(shards: &Shards, agent: &Agent, target: &Target) -> std::result::Result<Arc<dyn ShardLog>, Bytes> {
    let position = target.position.unwrap_or(target.prefix.first());
    let shard = shards.get(target.group).filter(|shard| shard.prefix().contains(position));
    let Some(shard) = shard.or_else(|| shards.holding(position)) else {
        return Err(agent.find(position).map(|descriptor| hint(&descriptor)).unwrap_or_default());
    };
    let holds_all = target.position.is_some() || shard.prefix() == target.prefix;
    if holds_all && matches!(shard.status(), Status::Leading { .. }) {
        return Ok(shard);
    }
    Err(hint(&super::describe(&shard)))
}

fn hint(descriptor: &Descriptor) -> Bytes {
    // Plain values: they always serialise.
    serde_json::to_vec(descriptor).unwrap_or_default().into()
}
