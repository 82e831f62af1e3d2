//! One Raft group: founding it, opening it, proposing to it, purging its log, closing it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gem_store::cache::TailCache;
use gem_store::index::ordered::OrderedStores;
use gem_store::journal::{Journal, JournalOp, LogPos};
use gem_types::{GroupId, Incarnation, NodeId, Prefix, ReplicaId};
use openraft::alias::WatchReceiverOf;
use openraft::async_runtime::instant::Instant;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{Fatal, ForwardToLeader, RaftError};
use openraft::metrics::{RaftMetrics, RaftServerMetrics};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, TransferLeaderResponse, VoteRequest,
    VoteResponse,
};
use openraft::{Config, EmptyNode, Raft, Snapshot, SnapshotPolicy};
use tokio::sync::mpsc;

use super::log_store::{LogStore, from_pos};
use super::mark::Mark;
use super::state_machine::{StateMachine, TermBegan, lock, membership_of};
use super::transport::{Peers, Transport};
use super::types::{
    Answer, Ended, Membership, Proposal, SnapshotMeta, TypeConfig, Vote, encode_membership, encode_vote,
};
use crate::machine::Machine;
use crate::planted;
use crate::shard::tails::Tails;
use crate::snapshot::receive::Staging;
use crate::snapshot::{DurablePoint, Image};

/// Where every founding group's log begins: purged up to here, as a split's child is, with the
/// state that it inherits (for a founding group: none) and the membership in the machine.
/// Index 0 would be Raft's own initialisation, which a child can't use.
pub const FOUNDED: LogPos =
    LogPos { term: 1, leader: ReplicaId { node: NodeId([0; 32]), incarnation: Incarnation(0) }, index: 1 };

/// How a group's Raft behaves.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// Bytes of entries that stay in the log behind a purge, for replicas that lag a little. A
    /// replica without others keeps none.
    pub bytes_kept: u64,
    /// Bytes of applied entries that stay in memory, for the same replicas.
    pub bytes_cached: usize,
    /// Between a leader's heartbeats, in milliseconds.
    pub heartbeat_ms: u64,
    /// The shortest silence after which a follower stands for election, in milliseconds.
    pub election_ms: u64,
}

impl Default for GroupConfig {
    fn default() -> Self {
        GroupConfig { bytes_kept: 16 << 20, bytes_cached: 4 << 20, heartbeat_ms: 150, election_ms: 250 }
    }
}

/// What a group is built of.
pub struct GroupParts {
    /// Its id.
    pub group: GroupId,
    /// This replica.
    pub replica: ReplicaId,
    /// The node's journal.
    pub journal: Journal,
    /// The group's state.
    pub machine: Arc<Mutex<Machine>>,
    /// Takes what is applied.
    pub tail_cache: Arc<TailCache>,
    /// Wakes readers.
    pub tails: Arc<Tails>,
    /// The way to the other replicas.
    pub transport: Arc<dyn Transport>,
    /// The node's stores.
    pub stores: Arc<dyn OrderedStores>,
    /// Which of the group's stores counts.
    pub mark: Arc<Mutex<Mark>>,
    /// What a snapshot is being taken into.
    pub(crate) staging: Arc<Staging>,
    /// How it behaves.
    pub config: GroupConfig,
}

/// A group as its replica here sees it.
#[derive(Clone, Debug, Default)]
pub struct GroupView {
    /// The term.
    pub term: u64,
    /// Who leads, where that is known.
    pub leader: Option<ReplicaId>,
    /// The last membership in the log: each replica, and whether it votes.
    pub seats: BTreeMap<ReplicaId, bool>,
    /// Whether a change of the membership is under way: not committed yet, or joint.
    pub is_changing: bool,
    /// The voters that a joint change was to end with, where the joint membership is committed: the
    /// leader that began it may be gone, and then it is this one's to end.
    pub half_changed: Option<BTreeSet<ReplicaId>>,
    /// The index of the entry that set the membership.
    pub epoch: u64,
    /// The last entry of the log here.
    pub last: u64,
    /// The last entry applied here.
    pub applied: u64,
    /// Where this replica leads: up to which entry each replica has the log.
    pub progress: BTreeMap<ReplicaId, u64>,
    /// Where this replica leads: how long ago each other replica last answered, in milliseconds.
    pub answered_ms: BTreeMap<ReplicaId, u64>,
}

/// Tells of changes of leader, term and membership.
pub struct Changes(WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>);

impl Changes {
    /// Waits for the next change; for ever once the group has stopped.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

type RaftResult<T> = Result<T, RaftError<TypeConfig>>;

/// Who leads a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leads {
    /// This replica, in this term.
    Here(u64),
    /// Another one, in this term.
    Elsewhere(ReplicaId, u64),
    /// Nobody, or it is not known here yet.
    Unknown,
}

/// A running group.
pub struct Group {
    raft: Raft<TypeConfig, StateMachine>,
    /// The term of the vote that was found at the start.
    term_found: u64,
    log: LogStore,
    bytes_kept: u64,
    durable: DurablePoint,
    lease: Duration,
}

fn damage(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Makes `group` with one voter, `replica`. May be repeated until it has succeeded, and after:
/// a group that stands is left as it is.
pub async fn found(
    group: GroupId,
    prefix: Prefix,
    replica: ReplicaId,
    journal: &Journal,
    machine: &Mutex<Machine>,
) -> io::Result<()> {
    if journal.marks(group).purged.is_some() {
        return Ok(());
    }
    {
        let mut machine = lock(machine)?;
        match machine.applied() {
            None => {
                let membership = Membership::new_with_defaults(vec![BTreeSet::from([replica])], []);
                machine.set_range(prefix);
                machine.apply_membership(FOUNDED, encode_membership(&membership)).map_err(io::Error::other)?;
                machine.commit().map_err(io::Error::other)?;
            }
            Some(applied) if applied == FOUNDED => {}
            Some(applied) => {
                return Err(damage(format!(
                    "group {group} has state up to entry {} but no log: the journal is lost or another one's",
                    applied.index
                )));
            }
        }
        machine.flush().map_err(io::Error::other)?;
    }
    // Only once the state is durable may the log say that it begins behind it.
    let ops = vec![
        JournalOp::Create { group, bytes: Mark { generation: 0, prefix, incarnation: replica.incarnation }.encode() },
        // The founding stands for the term's leader: the first election is for the next term.
        JournalOp::Vote { group, vote: encode_vote(&Vote::new(FOUNDED.term, replica)) },
        JournalOp::Purge { group, id: FOUNDED },
    ];
    journal.write(ops).await.map_err(io::Error::other)
}

/// Makes a replica of `group` that holds nothing yet, in a life that none before it had: the leader
/// gives it a snapshot. One that is there is left as it is.
pub async fn make_empty(group: GroupId, prefix: Prefix, incarnation: Incarnation, journal: &Journal) -> io::Result<()> {
    if journal.marks(group).created.is_some() {
        return Ok(());
    }
    let bytes = Mark { generation: 0, prefix, incarnation }.encode();
    journal.write(vec![JournalOp::Create { group, bytes }]).await.map_err(io::Error::other)
}

impl Group {
    /// Opens a group that was founded, applies what is committed, and, if it has one voter, makes
    /// that one the leader. `began` learns of each term whose first entry is applied.
    pub async fn open(parts: GroupParts, began: mpsc::UnboundedSender<TermBegan>) -> io::Result<Self> {
        let GroupParts { group, replica, journal, machine, tail_cache, tails, transport, config, .. } = parts;
        let (stores, mark, staging) = (parts.stores, parts.mark, parts.staging);
        let (applied, membership) = {
            let machine = lock(&machine)?;
            (machine.applied(), membership_of(&machine)?)
        };
        let applied_index = applied.map_or(0, |pos| pos.index);
        let log = LogStore::open(group, journal.clone(), applied_index, config.bytes_cached)?;
        let term_found = log.vote_term();
        let (purged, last) = log.bounds();
        let index = |id: Option<super::types::LogId>| id.map_or(0, |id| id.index);
        // A replica that has not taken in its first snapshot has neither.
        let is_empty = applied.is_none() && purged.is_none() && last.is_none();
        if applied_index < index(purged) || (applied.is_none() && !is_empty) {
            return Err(damage(format!(
                "group {group}: the index holds all up to entry {applied_index}, but the log begins after entry {}: the index is damaged or not this journal's; rebuild it from another replica or a backup",
                index(purged)
            )));
        }
        if applied_index > index(last) {
            return Err(damage(format!(
                "group {group}: the index holds entry {applied_index}, but the log ends at entry {}: part of the journal is lost",
                index(last)
            )));
        }
        let voters = membership.voter_ids().count();
        let is_alone = membership.nodes().count() == 1 && voters == 1;
        let is_voter = membership.voter_ids().any(|voter| voter == replica);
        let durable = DurablePoint::new(applied.map(from_pos), membership);
        let state_machine = StateMachine {
            group,
            machine,
            journal,
            log: log.clone(),
            tail_cache,
            tails,
            began,
            durable: durable.clone(),
            stores,
            mark,
            staging,
        };
        let raft_config = Arc::new(raft_config(group, &config, is_alone)?);
        let peers = Peers::new(group, replica, transport);
        let raft =
            Raft::new(replica, raft_config, peers, log.clone(), state_machine).await.map_err(io::Error::other)?;
        if voters == 1 && is_voter {
            // Nobody else can win: no reason to wait for a timeout. A new term, for what the last
            // one had in flight is not known any more.
            raft.trigger().elect(false).await.map_err(io::Error::other)?;
        }
        let lease = lease_of(&config);
        Ok(Group { raft, term_found, log, bytes_kept: config.bytes_kept, durable, lease })
    }

    /// Hands over a proposal judged in `term`; its end is sent to `to` under `number`.
    pub async fn propose(
        &self,
        number: u64,
        proposal: Proposal,
        term: u64,
        to: &mpsc::UnboundedSender<Ended>,
    ) -> Result<(), Fatal<TypeConfig>> {
        planted::wait().await;
        let write = self.raft.write(proposal).responder(Answer::new(number, to.clone()));
        if planted::is_any_term() { write.await } else { write.with_leader(term).await }
    }

    /// Whether this replica leads, as far as it knows.
    pub fn leads(&self) -> Leads {
        match self.raft.as_leader() {
            // The vote that was found may name this replica as leader of a term that is over:
            // every start is a new term.
            Ok(leader) if leader.term() <= self.term_found => Leads::Unknown,
            Ok(leader) => Leads::Here(leader.term()),
            Err(ForwardToLeader { leader_id: Some(leader), .. }) => Leads::Elsewhere(leader, self.term()),
            Err(_) => Leads::Unknown,
        }
    }

    /// Where this replica leads: for how long it has not been sure any more that nobody else does.
    /// Zero while the others, a majority, have answered it within the time in which they elect
    /// nobody (Ongaro's thesis, 6.4.1).
    pub fn unsure_for(&self) -> Duration {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let silent = metrics.last_quorum_acked.map(|acked| acked.into_inner().elapsed());
        match silent {
            Some(silent) if silent < self.lease => Duration::ZERO,
            // Alone it needs nobody's answer.
            _ if metrics.membership_config.membership().voter_ids().nth(1).is_none() => Duration::ZERO,
            Some(silent) => (silent - self.lease).max(Duration::from_millis(1)),
            None => Duration::from_millis(1),
        }
    }

    /// Why the group has stopped, if it has.
    pub fn failure(&self) -> Option<String> {
        self.raft.metrics().borrow_watched().running_state.as_ref().err().map(ToString::to_string)
    }

    /// What is durable of the index.
    pub fn durable(&self) -> &DurablePoint {
        &self.durable
    }

    /// Lets go of the log up to what is durable of the index, less what other replicas may yet
    /// ask for.
    ///
    /// openraft purges up to its snapshot at the most: where that is to be raised first, this
    /// asks for it and answers `Some`; call again after [`snapshot_at`](Self::snapshot_at).
    pub async fn purge(&self) -> io::Result<Option<u64>> {
        let (has_others, snapshot, purged) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let index = |id: Option<super::types::LogId>| id.map_or(0, |id| id.index);
            (metrics.membership_config.nodes().count() > 1, index(metrics.snapshot), index(metrics.purged))
        };
        let Some(durable) = self.durable.applied() else { return Ok(None) };
        let upto = if has_others { durable.index.min(self.log.behind(self.bytes_kept)) } else { durable.index };
        if upto <= purged {
            return Ok(None);
        }
        if upto > snapshot {
            self.raft.trigger().snapshot().await.map_err(io::Error::other)?;
            return Ok(Some(upto));
        }
        self.raft.trigger().purge_log(upto).await.map_err(io::Error::other)?;
        Ok(None)
    }

    /// Lets go of the log up to `index`, or openraft's snapshot.
    pub async fn purge_to(&self, index: u64) -> io::Result<()> {
        self.raft.trigger().purge_log(index).await.map_err(io::Error::other)
    }

    /// Waits until openraft's snapshot is at `index` at least, `wait` at the most.
    pub async fn snapshot_at(&self, index: u64, wait: Duration) {
        let metrics = self.raft.wait(Some(wait));
        let is_there = |metrics: &RaftMetrics<TypeConfig>| metrics.snapshot.is_some_and(|id| id.index >= index);
        // One that does not come is asked for again with the next flush.
        let _ = metrics.metrics(is_there, "a virtual snapshot").await;
    }

    /// The index of the entry that set the membership; 0 where there is none.
    pub fn epoch(&self) -> u64 {
        self.raft.server_metrics().borrow_watched().membership_config.log_id().map_or(0, |id| id.index)
    }

    /// The term.
    pub fn term(&self) -> u64 {
        self.raft.server_metrics().borrow_watched().vote.leader_id.term
    }

    /// The group as it stands.
    pub fn view(&self) -> GroupView {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = &metrics.membership_config;
        let committed = metrics.committed_membership_config.log_id();
        let configs = membership.membership().get_joint_config();
        let is_joint = configs.len() > 1;
        let is_committed = committed == membership.log_id();
        let half_changed = configs.last().filter(|_| is_joint && is_committed).cloned();
        let voters: BTreeSet<ReplicaId> = membership.voter_ids().collect();
        let index = |id: &Option<super::types::LogId>| id.map_or(0, |id| id.index);
        let progress = metrics.replication.iter().flatten().map(|(replica, upto)| (*replica, index(upto)));
        GroupView {
            term: metrics.current_term,
            leader: metrics.current_leader,
            seats: membership.nodes().map(|(replica, _)| (*replica, voters.contains(replica))).collect(),
            is_changing: is_joint || !is_committed,
            half_changed,
            epoch: index(membership.log_id()),
            last: metrics.last_log_index.unwrap_or(0),
            applied: index(&metrics.last_applied),
            progress: progress.collect(),
            answered_ms: metrics
                .heartbeat
                .iter()
                .flatten()
                .filter_map(|(replica, at)| Some((*replica, at.as_ref()?.elapsed().as_millis() as u64)))
                .collect(),
        }
    }

    /// Where this replica leads: about how many bytes of the log the farthest replica lacks.
    pub fn lag_bytes(&self) -> u64 {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let Some(replication) = &metrics.replication else { return 0 };
        let least = replication.values().map(|upto| upto.map_or(0, |id| id.index)).min();
        least.map_or(0, |least| self.log.above(least))
    }

    /// Answers a leader's entries or heartbeat.
    pub async fn append(
        &self,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> RaftResult<AppendEntriesResponse<TypeConfig>> {
        self.raft.append_entries(request).await
    }

    /// Answers a vote, or how it would go.
    pub async fn vote(&self, request: VoteRequest<TypeConfig>, pre: bool) -> RaftResult<VoteResponse<TypeConfig>> {
        if pre { self.raft.pre_vote(request).await } else { self.raft.vote(request).await }
    }

    /// Answers a leader's wish that this replica should lead.
    pub async fn take_over(
        &self,
        request: TransferLeaderRequest<TypeConfig>,
    ) -> io::Result<TransferLeaderResponse<TypeConfig>> {
        self.raft.handle_transfer_leader(request).await.map_err(io::Error::other)
    }

    /// Puts a staged store in the place of the one in use; answers the vote that now stands.
    pub async fn install(&self, vote: Vote, meta: SnapshotMeta, image: Image) -> io::Result<Vote> {
        let snapshot = Snapshot { meta, snapshot: image };
        let answer = self.raft.install_full_snapshot(vote, snapshot).await.map_err(io::Error::other)?;
        Ok(answer.vote)
    }

    /// The vote that stands here.
    pub fn current_vote(&self) -> Vote {
        self.raft.metrics().borrow_watched().vote
    }

    /// Adds a replica that does not vote. Returns once the entry is committed.
    pub async fn add_learner(&self, replica: ReplicaId) -> io::Result<()> {
        self.raft.add_learner(replica, EmptyNode {}, false).await.map_err(io::Error::other)?;
        self.tick_where_needed();
        Ok(())
    }

    /// Makes `voters` the voters, by one joint change, and drops every other replica. All of them
    /// must be replicas already. Returns once it is committed.
    pub async fn set_voters(&self, voters: BTreeSet<ReplicaId>) -> io::Result<()> {
        self.raft.change_membership(voters, false).await.map_err(io::Error::other)?;
        self.tick_where_needed();
        Ok(())
    }

    /// Drops replicas that do not vote.
    pub async fn drop_learners(&self, learners: BTreeSet<ReplicaId>) -> io::Result<()> {
        let change = openraft::ChangeMembers::RemoveNodes(learners);
        self.raft.change_membership(change, false).await.map_err(io::Error::other)?;
        Ok(())
    }

    /// Wishes that `to`, a voter, should lead.
    pub async fn hand_over(&self, to: ReplicaId) -> io::Result<()> {
        self.raft.trigger().transfer_leader(to).await.map_err(io::Error::other)
    }

    /// Stands for election, if the others would grant it: the leader is known to be gone.
    pub async fn stand(&self) -> io::Result<()> {
        self.raft.trigger().elect(true).await.map_err(io::Error::other)
    }

    /// Tries again at once to reach a replica that came back.
    pub async fn reached(&self, replica: ReplicaId) {
        // A group that has stopped reaches nobody.
        let _ = self.raft.trigger().reset_backoff([replica]).await;
    }

    /// Tells of changes of leader, term and membership.
    pub fn changes(&self) -> Changes {
        Changes(self.raft.server_metrics())
    }

    /// A leader with others sends heartbeats, a replica alone needs no time.
    pub fn tick_where_needed(&self) {
        let has_others = self.raft.metrics().borrow_watched().membership_config.nodes().count() > 1;
        self.raft.runtime_config().tick(has_others);
        self.raft.runtime_config().elect(has_others);
        self.raft.runtime_config().heartbeat(has_others);
    }

    /// Stops. The index is not flushed here.
    pub async fn close(&self) -> io::Result<()> {
        self.raft.shutdown().await.map_err(io::Error::other)
    }
}

/// How long after its last word to a majority a leader is sure that they elect nobody: less than
/// the time that they wait, for no two clocks run alike.
fn lease_of(config: &GroupConfig) -> Duration {
    Duration::from_millis(config.election_ms * 2 - config.election_ms / 8)
}

fn raft_config(group: GroupId, config: &GroupConfig, is_alone: bool) -> io::Result<Config> {
    let config = Config {
        cluster_name: super::types::short(group),
        heartbeat_interval: config.heartbeat_ms,
        election_timeout_min: config.election_ms,
        // What followers wait for at the least, too: see `lease_of`.
        election_timeout_max: config.election_ms * 2,
        // A lone voter has nobody to send heartbeats to and can't lose its lease: no ticks, no
        // cost while idle.
        enable_tick: !is_alone,
        enable_pre_vote: Some(true),
        // What the last term had in flight is forgotten with the process: every start is a new
        // term, so that verdicts and tokens of the old one are known to be old.
        enable_leader_restore: Some(false),
        snapshot_policy: SnapshotPolicy::Never,
        // GEM says how far the log is purged: openraft never does by itself.
        max_in_snapshot_log_to_keep: u64::MAX,
        purge_batch_size: 1,
        max_payload_entries: 512,
        ..Config::default()
    };
    config.validate().map_err(io::Error::other)
}
