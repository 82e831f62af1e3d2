//! One Raft group: founding it, opening it, proposing to it, purging its log, closing it.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use gem_store::cache::TailCache;
use gem_store::journal::{Journal, JournalOp, LogPos};
use gem_types::{GroupId, Incarnation, NodeId, ReplicaId};
use openraft::errors::{Fatal, ForwardToLeader};
use openraft::{Config, Raft, SnapshotPolicy};
use tokio::sync::mpsc;

use super::log_store::{LogStore, from_pos};
use super::state_machine::{StateMachine, TermBegan, lock, membership_of};
use super::transport::{Peers, Transport};
use super::types::{Answer, Ended, Membership, Proposal, TypeConfig, Vote, encode_membership, encode_vote};
use crate::machine::Machine;
use crate::shard::tails::Tails;
use crate::snapshot::DurablePoint;

/// Where every founding group's log begins: purged up to here, as a split's child is, with the
/// state that it inherits (for a founding group: none) and the membership in the machine.
/// Index 0 would be Raft's own initialisation, which a child can't use.
pub const FOUNDED: LogPos =
    LogPos { term: 1, leader: ReplicaId { node: NodeId([0; 32]), incarnation: Incarnation(0) }, index: 1 };

/// What the journal is told of a group that was made: a version.
const CREATED: Bytes = Bytes::from_static(b"gem group 1");

/// How a group's Raft behaves.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// Entries that stay in the log behind a purge, for replicas that lag a little. A lone voter
    /// needs none.
    pub entries_kept: u64,
    /// Bytes of applied entries that stay in memory, for the same replicas.
    pub bytes_cached: usize,
    /// Between a leader's heartbeats, in milliseconds.
    pub heartbeat_ms: u64,
    /// The shortest silence after which a follower stands for election, in milliseconds.
    pub election_ms: u64,
}

impl Default for GroupConfig {
    fn default() -> Self {
        GroupConfig { entries_kept: 0, bytes_cached: 0, heartbeat_ms: 250, election_ms: 1_500 }
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
    /// How it behaves.
    pub config: GroupConfig,
}

/// Who leads a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leads {
    /// This replica, in this term.
    Here(u64),
    /// Another one.
    Elsewhere,
    /// Nobody, or it is not known here yet.
    Unknown,
}

/// A running group.
pub struct Group {
    raft: Raft<TypeConfig, StateMachine>,
    /// The term of the vote that was found at the start.
    term_found: u64,
    durable: DurablePoint,
}

fn damage(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Makes `group` with one voter, `replica`. May be repeated until it has succeeded, and after:
/// a group that stands is left as it is.
pub async fn found(group: GroupId, replica: ReplicaId, journal: &Journal, machine: &Mutex<Machine>) -> io::Result<()> {
    if journal.marks(group).purged.is_some() {
        return Ok(());
    }
    {
        let mut machine = lock(machine)?;
        match machine.applied() {
            None => {
                let membership = Membership::new_with_defaults(vec![BTreeSet::from([replica])], []);
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
        JournalOp::Create { group, bytes: CREATED },
        // The founding stands for the term's leader: the first election is for the next term.
        JournalOp::Vote { group, vote: encode_vote(&Vote::new(FOUNDED.term, replica)) },
        JournalOp::Purge { group, id: FOUNDED },
    ];
    journal.write(ops).await.map_err(io::Error::other)
}

impl Group {
    /// Opens a group that was founded, applies what is committed, and, if it has one voter, makes
    /// that one the leader. `began` learns of each term whose first entry is applied.
    pub async fn open(parts: GroupParts, began: mpsc::UnboundedSender<TermBegan>) -> io::Result<Self> {
        let GroupParts { group, replica, journal, machine, tail_cache, tails, transport, config } = parts;
        let (applied, membership) = {
            let machine = lock(&machine)?;
            (machine.applied(), membership_of(&machine)?)
        };
        let applied_index = applied.map_or(0, |pos| pos.index);
        let log = LogStore::open(group, journal.clone(), applied_index, config.bytes_cached)?;
        let term_found = log.vote_term();
        let (purged, last) = log.bounds();
        let index = |id: Option<super::types::LogId>| id.map_or(0, |id| id.index);
        if applied_index < index(purged) || applied.is_none() {
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
        };
        let raft_config = Arc::new(raft_config(group, &config, voters)?);
        let peers = Peers::new(group, transport);
        let raft = Raft::new(replica, raft_config, peers, log, state_machine).await.map_err(io::Error::other)?;
        if voters == 1 {
            // Nobody else can win: no reason to wait for a timeout. A new term, for what the last
            // one had in flight is not known any more.
            raft.trigger().elect(false).await.map_err(io::Error::other)?;
        }
        Ok(Group { raft, term_found, durable })
    }

    /// Hands over a proposal judged in `term`; its end is sent to `to` under `number`.
    pub async fn propose(
        &self,
        number: u64,
        proposal: Proposal,
        term: u64,
        to: &mpsc::UnboundedSender<Ended>,
    ) -> Result<(), Fatal<TypeConfig>> {
        self.raft.write(proposal).responder(Answer::new(number, to.clone())).with_leader(term).await
    }

    /// Whether this replica leads, as far as it knows.
    pub fn leads(&self) -> Leads {
        match self.raft.as_leader() {
            // The vote that was found may name this replica as leader of a term that is over:
            // every start is a new term.
            Ok(leader) if leader.term() <= self.term_found => Leads::Unknown,
            Ok(leader) => Leads::Here(leader.term()),
            Err(ForwardToLeader { leader_id: Some(_), .. }) => Leads::Elsewhere,
            Err(_) => Leads::Unknown,
        }
    }

    /// Why the group has stopped, if it has.
    pub fn failure(&self) -> Option<String> {
        use openraft::async_runtime::watch::WatchReceiver;
        self.raft.metrics().borrow_watched().running_state.as_ref().err().map(ToString::to_string)
    }

    /// What is durable of the index.
    pub fn durable(&self) -> &DurablePoint {
        &self.durable
    }

    /// Lets go of the log up to what is durable of the index.
    pub async fn purge(&self) -> io::Result<()> {
        self.raft.trigger().snapshot().await.map_err(io::Error::other)
    }

    /// Stops. The index is not flushed here.
    pub async fn close(&self) -> io::Result<()> {
        self.raft.shutdown().await.map_err(io::Error::other)
    }
}

fn raft_config(group: GroupId, config: &GroupConfig, voters: usize) -> io::Result<Config> {
    let config = Config {
        cluster_name: super::types::short(group),
        heartbeat_interval: config.heartbeat_ms,
        election_timeout_min: config.election_ms,
        election_timeout_max: config.election_ms * 2,
        // A lone voter has nobody to send heartbeats to and can't lose its lease: no ticks, no
        // cost while idle.
        enable_tick: voters > 1,
        enable_pre_vote: Some(true),
        // What the last term had in flight is forgotten with the process: every start is a new
        // term, so that verdicts and tokens of the old one are known to be old.
        enable_leader_restore: Some(false),
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: config.entries_kept,
        purge_batch_size: 1,
        ..Config::default()
    };
    config.validate().map_err(io::Error::other)
}
