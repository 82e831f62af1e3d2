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
use gem_types::{Code, Error, NodeId, Position, Prefix, Result};
use tokio::time::Instant;

use super::agent::Agent;
use super::kinds;
use super::raft::expect;
use crate::shards::Shards;

/// How long a call is tried again while nobody leads its shard: longer than an election.
const PATIENCE: Duration = Duration::from_secs(8);
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
        let routed = |prefix: Prefix| {
            Arc::new(Routed { router: self.0.clone(), position: prefix.first() }) as Arc<dyn ShardLog>
        };
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
    fn leader_of(&self, position: Position) -> Option<(Descriptor, NodeId)> {
        let known = self.agent.find(position);
        if let Some(shard) = self.shards.holding(position)
            && let Status::Following { leader, term } = shard.status()
            && known.as_ref().is_none_or(|known| known.group != shard.id() || known.term <= term)
        {
            let descriptor = super::describe(&shard);
            return Some((descriptor, leader.node));
        }
        let descriptor = known?;
        // Any replica tells more, where it is not known who leads.
        let first = descriptor.seats.iter().map(|seat| seat.replica.node).find(|node| *node != self.agent.node());
        let node = descriptor.leader.filter(|node| *node != self.agent.node()).or(first)?;
        Some((descriptor, node))
    }
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
        if let Some(shard) = router.led_here(self.position) {
            // The usual case of a node alone, and a third of those of a mesh of three.
            let made = serve::make(&*shard, call.clone()).await;
            match &made {
                Err(error) if is_elsewhere(error, &shard) => {}
                _ => return made,
            }
        }
        let until = Instant::now() + call.wait().max(PATIENCE);
        let mut pause = PAUSE.0;
        // Once a try went unheard it may have been carried out, whatever later ones are told: only
        // an answer says what became of it.
        let mut unheard: Option<Error> = None;
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
                Err(error) if is_elsewhere(&error, &shard) => Err(Missed::Again(error)),
                made => Ok(made),
            };
        }
        let Some((descriptor, node)) = router.leader_of(self.position) else {
            let what = format!("nobody is known to lead the shard that holds position {:016x}", self.position.0);
            return Err(Missed::Again(Error::unavailable(what, 200)));
        };
        let lane = self.position.0;
        let line = Arc::new(Line { router: router.clone(), to: node, lane });
        let remote = RemoteShard::new(line, descriptor.group, descriptor.prefix, descriptor.epoch);
        match remote.call(call).await {
            Ok(Err(error)) if error.code == Code::Unavailable => Err(Missed::Again(error)),
            Ok(answer) => Ok(answer),
            Err(miss) if miss.may_be_tried_again(call) => Err(Missed::Again(miss.into_error(call, descriptor.prefix))),
            Err(miss @ Miss::Lost(_)) => Err(Missed::Final(miss.into_error(call, descriptor.prefix))),
            Err(miss) => Err(Missed::Again(miss.into_error(call, descriptor.prefix))),
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

/// The log that answers a call of another node, or the hint where else to ask.
pub async fn serving(
    shards: &Shards,
    agent: &Agent,
    target: &Target,
) -> std::result::Result<Arc<dyn ShardLog>, Bytes> {
    let position = target.position.unwrap_or(target.prefix.first());
    let shard = shards.get(target.group).filter(|shard| shard.prefix().contains(position));
    if let Some(shard) = shard.or_else(|| shards.holding(position)) {
        let holds_all = target.position.is_some() || shard.prefix() == target.prefix;
        match shard.status() {
            Status::Leading { .. } if holds_all => return Ok(shard),
            Status::Following { .. } | Status::Starting | Status::Leading { .. } | Status::Stopped { .. } => {
                return Err(hint(&super::describe(&shard)));
            }
        }
    }
    Err(agent.find(position).map(|descriptor| hint(&descriptor)).unwrap_or_default())
}

fn hint(descriptor: &Descriptor) -> Bytes {
    // Plain values: they always serialise.
    serde_json::to_vec(descriptor).unwrap_or_default().into()
}
