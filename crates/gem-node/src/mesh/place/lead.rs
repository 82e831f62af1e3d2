//! The shards that this node leads: what they need next, one step each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use gem_mesh::membership::{Load, State as Alive};
use gem_mesh::placement::{self, Replica, Sight, Step, plan};
use gem_shard::raft::group::GroupView;
use gem_shard::{Shard, Status};
use gem_types::{NodeId, ReplicaId};

use super::wire::Request;
use super::{PlaceSettings, Placer, describe};

/// A replica is caught up when so few entries of the leader's log are not there yet.
const LAG_MAX: u64 = 64;
/// A change of members, or a handing over, is given up after so long. It may yet come to be.
const STEP_WAIT: Duration = Duration::from_secs(30);
/// Between two steps of this node that only balance.
const BALANCE_PAUSE: Duration = Duration::from_secs(3);
/// Nothing is moved for the sake of balance until so long after nodes came, went or fell silent.
const CALM: Duration = Duration::from_secs(8);
/// A replica that has not answered its leader for so long is not given leadership, nor a vote.
pub(crate) const SILENT_MS: u64 = 500;
/// What a node whose load is not known is taken to hold.
const CAPACITY: u64 = 1 << 30;

impl Placer {
    /// Begins the next step of every shard that this node leads and that has none under way.
    pub(super) fn lead(self: &Arc<Self>) {
        let nodes = self.sights();
        let has_silent = nodes.values().any(|sight| sight.is_suspect);
        let mut has_balanced = false;
        let led = self.shards.all().into_iter().filter(|shard| matches!(shard.status(), Status::Leading { .. }));
        self.agent.stand_for(&led.map(|shard| describe(&shard)).collect::<Vec<_>>());
        for shard in self.shards.all() {
            if !matches!(shard.status(), Status::Leading { .. }) {
                self.state().doing.remove(&shard.id());
                continue;
            }
            self.agent.tell_shard(describe(&shard));
            let view = shard.view();
            if self.state().busy.contains(&shard.id()) {
                continue;
            }
            if let Some(voters) = view.half_changed.clone() {
                self.begin_step(shard, view, Step::SetVoters(voters));
                continue;
            }
            if view.is_changing {
                continue;
            }
            let now = self.clock.monotonic();
            let rested = |at: Duration| now.saturating_sub(at) >= BALANCE_PAUSE;
            let is_calm = self.state().changed.is_none_or(|at| now.saturating_sub(at) >= CALM);
            let may_balance = is_calm && !has_silent && !has_balanced && self.state().balanced.is_none_or(rested);
            let seen = seen(&shard, &view, &nodes);
            let PlaceSettings { replicas, replace_after } = self.settings;
            let well = plan(&seen, &nodes, replicas, replace_after, false);
            let step = match well {
                Step::Rest if may_balance => {
                    let step = plan(&seen, &nodes, replicas, replace_after, true);
                    if step != Step::Rest {
                        has_balanced = true;
                        self.state().balanced = Some(now);
                    }
                    step
                }
                step => step,
            };
            if step == Step::Rest {
                self.state().doing.remove(&shard.id());
                continue;
            }
            self.begin_step(shard, view, step);
        }
    }

    /// Takes a step, beside all else; meanwhile no other is begun for the shard.
    fn begin_step(self: &Arc<Self>, shard: Arc<Shard>, view: GroupView, step: Step) {
        let mut state = self.state();
        state.busy.insert(shard.id());
        state.doing.insert(shard.id(), words(&step));
        drop(state);
        let placer = self.clone();
        self.tasks.spawn(async move {
            let group = shard.id();
            let prefix = shard.prefix();
            let done = tokio::time::timeout(STEP_WAIT, placer.take(&shard, &view, step)).await;
            match done {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::info!(%prefix, "a step of placement was not taken: {error}"),
                Err(_) => tracing::warn!(%prefix, "a step of placement takes long: it is looked at again"),
            }
            placer.state().busy.remove(&group);
            if matches!(shard.status(), Status::Leading { .. }) {
                placer.agent.tell_shard(describe(&shard));
            }
        });
    }

    async fn take(self: &Arc<Self>, shard: &Shard, view: &GroupView, step: Step) -> Result<(), String> {
        tracing::info!(prefix = %shard.prefix(), "{}", words(&step));
        let text = |error: std::io::Error| error.to_string();
        match step {
            Step::Rest => Ok(()),
            Step::Add(node) => {
                let request = Request::Make { group: shard.id(), prefix: shard.prefix() };
                let replica = self.ask(node, request).await.map_err(|error| error.to_string())?;
                let replica = replica.ok_or("the node made no replica")?;
                shard.add_learner(replica).await.map_err(text)
            }
            Step::SetVoters(voters) => {
                let gone: BTreeSet<ReplicaId> =
                    view.seats.keys().filter(|replica| !voters.contains(replica)).copied().collect();
                shard.set_voters(voters).await.map_err(text)?;
                self.drop_replicas(shard, gone).await;
                Ok(())
            }
            Step::DropLearners(learners) => {
                shard.drop_learners(learners.clone()).await.map_err(text)?;
                self.drop_replicas(shard, learners).await;
                Ok(())
            }
            Step::HandOver(to) => shard.hand_over(to, Duration::from_secs(5)).await.map_err(|error| error.to_string()),
        }
    }

    /// Tells nodes that their replicas are not needed; one that does not hear it sees it in the
    /// gossip.
    async fn drop_replicas(self: &Arc<Self>, shard: &Shard, gone: BTreeSet<ReplicaId>) {
        let epoch = shard.view().epoch;
        self.agent.tell_shard(describe(shard));
        for replica in gone.into_iter().filter(|replica| *replica != shard.replica()) {
            let request = Request::Drop { group: shard.id(), replica, epoch };
            if let Err(error) = self.ask(replica.node, request).await {
                tracing::debug!(%error, "a replica that is not needed was not told");
            }
        }
    }

    /// All nodes, as this one sees them.
    pub fn sights(&self) -> BTreeMap<NodeId, Sight> {
        let loads: BTreeMap<NodeId, Load> = self.agent.loads().into_iter().collect();
        let removed = self.removed();
        let now = self.clock.monotonic();
        let mut held: BTreeMap<NodeId, (u32, u32)> = BTreeMap::new();
        for known in self.agent.shards() {
            for seat in &known.seats {
                held.entry(seat.replica.node).or_default().0 += 1;
            }
            if let Some(leader) = known.leader {
                held.entry(leader).or_default().1 += 1;
            }
        }
        let me = self.agent.me();
        let all = self.agent.others().into_iter().chain([(me, Alive::Alive)]);
        let sights = all.map(|(member, state)| {
            let load = loads.get(&member.node);
            let down_for = match state {
                Alive::Down { since, .. } => Some(now.saturating_sub(since)),
                Alive::Alive | Alive::Suspect => None,
            };
            let (replicas, leaders) = held.get(&member.node).copied().unwrap_or_default();
            let sight = Sight {
                down_for,
                is_suspect: matches!(state, Alive::Suspect),
                is_removed: removed.contains(&member.node),
                is_draining: member.is_draining,
                is_full: load.is_some_and(|load| load.is_disk_full),
                zone: member.zone,
                replicas,
                leaders,
                capacity: load.map_or(CAPACITY, |load| load.memory_limit.max(1)),
            };
            (member.node, sight)
        });
        sights.collect()
    }
}

fn seen(shard: &Shard, view: &GroupView, nodes: &BTreeMap<NodeId, Sight>) -> placement::Shard {
    let me = shard.replica();
    let seats = view.seats.iter().map(|(replica, is_voter)| {
        let upto = view.progress.get(replica).copied().unwrap_or(0);
        let lives = nodes.get(&replica.node).is_some_and(|sight| sight.down_for.is_none());
        let answers = view.answered_ms.get(replica).is_some_and(|ago| *ago < SILENT_MS);
        let is_caught_up = *replica == me || (lives && answers && upto > 0 && upto + LAG_MAX >= view.last);
        (*replica, Replica { is_voter: *is_voter, is_caught_up })
    });
    placement::Shard { prefix: shard.prefix(), leader: me, seats: seats.collect() }
}

fn words(step: &Step) -> String {
    let short = |node: &NodeId| {
        node.to_string().chars().rev().take(6).collect::<Vec<_>>().into_iter().rev().collect::<String>()
    };
    let list = |replicas: &BTreeSet<ReplicaId>| {
        replicas.iter().map(|replica| short(&replica.node)).collect::<Vec<_>>().join(", ")
    };
    match step {
        Step::Rest => String::new(),
        Step::Add(node) => format!("copies a replica to node …{}", short(node)),
        Step::SetVoters(voters) => format!("makes the replicas on nodes …{} its voters", list(voters)),
        Step::DropLearners(learners) => format!("drops the replicas on nodes …{}", list(learners)),
        Step::HandOver(to) => format!("hands leadership to node …{}", short(&to.node)),
    }
}
