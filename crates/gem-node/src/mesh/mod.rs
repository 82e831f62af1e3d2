//! A node's part in the mesh: where planes, membership, directory and placement meet its shards.
//!
//! What it is: [`Mesh::start`] brings up both planes; [`agent`] keeps what is known of the others;
//! [`routes`] finds who leads a ring position, and [`raft`] carries consensus between replicas;
//! [`assemble`] joins them over planes that it is given; [`answers`] hands what comes in to whom it
//! concerns; [`place`] makes and moves replicas; [`status`] shows all of it to people.
//!
//! What it is not: it holds nothing that must survive but the address book and the runs; and nothing here is
//! believed: consensus stays inside a shard.
//!
//! Invariants:
//! - Whatever a node knows of the mesh is a hint; the worst that follows is a detour.
//! - No task per topic, group or consumer; one per shard.

pub mod agent;
pub mod answers;
pub mod assemble;
pub mod join;
pub mod kinds;
pub mod load;
pub mod place;
pub mod raft;
pub mod routes;
pub mod status;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use gem_mesh::bulk::{Bulk, BulkConfig, BulkLimits};
use gem_mesh::control::{Addresses, Config as ControlConfig, ControlPlane, Hosts, Joined, Keeper, Secret};
use gem_mesh::directory::{Descriptor, Seat};
use gem_mesh::membership::Member;
use gem_mesh::runs::RunBook;
use gem_mesh::{Answers, CallError, Calls, Control, Hears, Parcel};
use gem_shard::{Shard, Status};
use gem_store::Identity;
use gem_types::NodeId;
use gem_types::seams::{Clock, Random};
use tokio::task::JoinSet;

use crate::shards::Shards;
use agent::Agent;
use answers::Inbound;
use assemble::{Links, Parts};
use place::{PlaceSettings, Placer};
use routes::MeshRouter;

/// How long a leaving node's last words may take.
const LEAVE_WAIT: Duration = Duration::from_secs(1);
/// Between two looks whether the address book has news.
const BOOK_PAUSE: Duration = Duration::from_secs(5);

/// What a shard tells others of itself, as this replica sees it.
pub fn describe(shard: &Shard) -> Descriptor {
    let view = shard.view();
    // The term that goes with the leader: by now this replica may have voted in a later one, and two
    // leaders of one term would be told for ever.
    let (leader, term) = match shard.status() {
        Status::Leading { term } => (Some(shard.replica().node), term),
        _ => (view.leader.map(|leader| leader.node), view.term),
    };
    Descriptor {
        prefix: shard.prefix(),
        group: shard.id(),
        epoch: view.epoch,
        seats: view.seats.iter().map(|(replica, is_voter)| Seat { replica: *replica, is_voter: *is_voter }).collect(),
        leader,
        term,
    }
}

/// What a node's part in the mesh is started with.
pub struct MeshConfig {
    /// Who the node is.
    pub identity: Identity,
    /// Where its control swarm listens.
    pub control: SocketAddr,
    /// Where its bulk links listen.
    pub bulk: SocketAddr,
    /// Whether another port may be taken where these are in use: they are defaults.
    pub is_flexible: bool,
    /// Where clients reach it.
    pub http: String,
    /// Its zone; may be empty.
    pub zone: String,
    /// What people call it; may be empty.
    pub name: String,
    /// Its runs, and those of the nodes that it met.
    pub runs: Arc<RunBook>,
    /// How replicas are placed.
    pub place: PlaceSettings,
    /// Members that are known from joining.
    pub members: Vec<Member>,
}

/// A node's part in the mesh.
pub struct Mesh {
    /// What is known of the others.
    pub agent: Arc<Agent>,
    /// Makes and moves replicas.
    pub placer: Arc<Placer>,
    /// The routes of the gateway.
    pub router: Arc<MeshRouter>,
    /// The way for Raft.
    pub calls: Arc<dyn Calls>,
    bulk: Bulk,
    control: Arc<ControlPlane>,
    keeper: Arc<Keeper>,
    addresses: Arc<Addresses>,
    runs: Arc<RunBook>,
    tasks: JoinSet<()>,
}

/// A plane that is there before what it hands to: what comes before that is dropped.
#[derive(Default)]
struct Late {
    agent: OnceLock<Arc<Agent>>,
    inbound: OnceLock<Inbound>,
    control: OnceLock<Arc<ControlPlane>>,
    bulk: OnceLock<Bulk>,
    hosts: OnceLock<(gem_types::MeshId, u8)>,
}

impl Hears for Late {
    fn hear(&self, from: NodeId, message: Bytes) {
        if let Some(agent) = self.agent.get() {
            agent.hear(from, message);
        }
    }
}

impl Control for Late {
    fn send(&self, to: NodeId, message: Bytes) {
        if let Some(control) = self.control.get() {
            control.send(to, message);
        }
    }
}

impl Answers for Late {
    fn answer(&self, from: NodeId, request: Parcel) -> BoxFuture<'static, Parcel> {
        match self.inbound.get() {
            Some(inbound) => inbound.answer(from, request),
            None => Box::pin(async { Parcel::new(kinds::REFUSED, "this node is starting") }),
        }
    }
}

impl Calls for Late {
    fn call(
        &self,
        to: NodeId,
        lane: u64,
        request: Parcel,
        wait: Duration,
    ) -> BoxFuture<'static, Result<Parcel, CallError>> {
        match self.bulk.get() {
            Some(bulk) => bulk.call(to, lane, request, wait),
            None => Box::pin(async move { Err(CallError::Unreachable { to, why: "this node is starting".into() }) }),
        }
    }
}

impl Hosts for Late {
    fn joined(&self) -> Joined {
        let (mesh, k) = self.hosts.get().copied().unwrap_or_default();
        let members = self.agent.get().map(|agent| {
            let living = agent.others().into_iter().map(|(member, _)| member);
            living.chain([agent.me()]).collect()
        });
        Joined { mesh, k, members: members.unwrap_or_default() }
    }
}

impl Mesh {
    /// Brings up both planes, and begins to find the others. Answers come once
    /// [`place::Placer::begin`] was called and shards are there.
    ///
    /// # Errors
    /// An address can't be bound, or a name is too long.
    pub async fn start(
        config: MeshConfig,
        shards: Shards,
        keeper: Keeper,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Mesh, join::MeshError> {
        let MeshConfig { identity, control, bulk, is_flexible, http, zone, name, runs, place, members } = config;
        let addresses = Arc::new(Addresses::default());
        let known = keeper.load(&addresses)?;
        let late = Arc::new(Late::default());
        let _ = late.hosts.set((identity.mesh, identity.k));
        let secret = Secret::new(&identity.secret);
        let (listening, control_address) = join::bind(control, is_flexible, |listen| {
            let config = ControlConfig {
                listen,
                key: identity.key.clone(),
                mesh: identity.mesh,
                secret: secret.clone(),
                addresses: addresses.clone(),
                runs: runs.clone(),
                random: random.clone(),
            };
            let late = late.clone();
            async move {
                let plane = ControlPlane::start(config, late.clone(), late).await?;
                let address = plane.address();
                Ok((plane, address))
            }
        })
        .await?;
        let listening = Arc::new(listening);
        let (links, bulk_address) = join::bind(bulk, is_flexible, |listen| {
            let config = BulkConfig {
                key: identity.key.clone(),
                mesh: identity.mesh,
                secret: identity.secret.clone().into_bytes(),
                listen,
                runs: runs.clone(),
                limits: BulkLimits::default(),
            };
            let (late, book, random) = (late.clone(), addresses.clone(), random.clone());
            async move { Ok(Bulk::bind(config, book, late, random).await?) }
        })
        .await?;
        let me = Member {
            node: identity.node,
            incarnation: identity.incarnation,
            run: u64::try_from(clock.wall_ms()).unwrap_or(0),
            control: control_address,
            bulk: bulk_address,
            http,
            zone,
            name,
            is_draining: false,
        };
        let parts = Parts::assemble(
            me,
            identity.mesh,
            place,
            shards.clone(),
            Links { control: late.clone(), calls: late.clone(), addresses: addresses.clone() },
            clock,
            random,
        )?;
        let Parts { agent, placer, router, calls, inbound } = parts;
        let _ = late.bulk.set(links.clone());
        let _ = late.control.set(listening.clone());
        let _ = late.inbound.set(inbound);
        let _ = late.agent.set(agent.clone());
        let seeds: Vec<(NodeId, SocketAddr)> = members
            .iter()
            .inspect(|member| addresses.learn_member(member))
            .map(|member| (member.node, member.control))
            .chain(known.members.iter().map(|known| (known.node, known.control)))
            .collect();
        listening.connect_known(&seeds);
        agent.join(seeds.iter().map(|(node, _)| *node));
        let keeper = Arc::new(keeper);
        let mut tasks = JoinSet::new();
        tasks.spawn(agent.clone().run());
        tasks.spawn(placer.clone().run());
        let (book, kept) = (addresses.clone(), keeper.clone());
        tasks.spawn(async move {
            loop {
                tokio::time::sleep(BOOK_PAUSE).await;
                if let Err(error) = kept.save(&book) {
                    tracing::warn!(%error, "the address book is not saved");
                }
            }
        });
        Ok(Mesh { agent, placer, router, calls, bulk: links, control: listening, keeper, addresses, runs, tasks })
    }

    /// Where the control swarm listens.
    pub fn address(&self) -> SocketAddr {
        self.control.address()
    }

    /// Waits until another node says that this one's data directory was set back: which.
    pub async fn outdated(&self) -> NodeId {
        self.runs.outdated().await
    }

    /// Runs `task` for as long as the node takes part in the mesh.
    pub fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// The mesh as this node shows it to people.
    pub fn view(&self, mesh: gem_types::MeshId) -> status::View {
        let (agent, placer, router) = (self.agent.clone(), self.placer.clone(), self.router.clone());
        status::View { mesh, agent, placer, router }
    }

    /// Waits, `wait` at the most, until it is known who leads every part of the ring.
    pub async fn routed(&self, wait: Duration) {
        let mut learned = self.agent.learned();
        let all = async {
            while !self.router.is_whole() {
                // What is learned of this node's own shards is not announced: looked at now and then.
                let _ = tokio::time::timeout(Duration::from_millis(50), learned.changed()).await;
            }
        };
        if tokio::time::timeout(wait, all).await.is_err() {
            tracing::warn!("it is not known who leads some parts of the ring: serves the others");
        }
    }

    /// Hands leadership of every shard to another voter, as far as there are any.
    pub async fn hand_over(&self, shards: &Shards, wait: Duration) {
        let handed = shards.all().into_iter().filter(|shard| matches!(shard.status(), Status::Leading { .. })).map(
            |shard| async move {
                let view = shard.view();
                let answers = |replica: &gem_types::ReplicaId| {
                    view.answered_ms.get(replica).is_some_and(|ago| *ago < place::lead::SILENT_MS)
                };
                let best = view.seats.iter().filter(|(replica, votes)| **votes && answers(replica));
                let best = best.max_by_key(|(replica, _)| view.progress.get(replica).copied().unwrap_or(0));
                if let Some((to, _)) = best
                    && let Err(error) = shard.hand_over(*to, wait).await
                {
                    tracing::info!(prefix = %shard.prefix(), "leadership stays until the others elect: {error}");
                }
            },
        );
        futures::future::join_all(handed).await;
    }

    /// Tells the others that this node leaves as planned, and takes part no more.
    pub async fn stop(mut self) {
        self.agent.leave();
        if let Err(error) = self.keeper.save(&self.addresses) {
            tracing::warn!(%error, "the address book is not saved");
        }
        self.tasks.shutdown().await;
        self.placer.finish(LEAVE_WAIT).await;
        self.control.stop(LEAVE_WAIT).await;
        self.bulk.stop(LEAVE_WAIT).await;
    }
}
