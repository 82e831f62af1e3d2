//! The shard as one replica among several: what other replicas ask of it, and what whoever places
//! replicas does with it.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use gem_types::{GroupId, ReplicaId, Result};
use openraft::errors::RaftError;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, TransferLeaderResponse, VoteRequest,
    VoteResponse,
};

use super::Shard;
use super::shared::Status;
use crate::log::{Read, ReadOut};
use crate::raft::group::GroupView;
use crate::raft::log_store::from_pos;
use crate::raft::state_machine::{lock, membership_of};
use crate::raft::transport::Transport;
use crate::raft::types::{SnapshotMeta, TypeConfig, Vote};
use crate::snapshot::receive::Source;
use crate::snapshot::{Fetch, Fetched, Image};
use crate::watch;

/// The way to the replica that offers a snapshot.
struct Offerer {
    transport: Arc<dyn Transport>,
    group: GroupId,
    from: ReplicaId,
}

impl Source for Offerer {
    fn fetch(&self, request: Fetch) -> BoxFuture<'_, Result<Fetched>> {
        self.transport.fetch(self.group, self.from, request)
    }
}

impl Shard {
    /// This replica.
    pub fn replica(&self) -> ReplicaId {
        self.replica
    }

    /// The group as it stands here.
    pub fn view(&self) -> GroupView {
        self.group.view()
    }

    /// Where this replica leads: about how many bytes of the log the farthest replica lacks.
    pub fn lag_bytes(&self) -> u64 {
        self.group.lag_bytes()
    }

    /// The index of the entry that set the group's members.
    pub fn epoch(&self) -> u64 {
        self.group.epoch()
    }

    /// Tells of changes of the status.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.shared.status.subscribe()
    }

    /// Answers a leader's entries or heartbeat.
    pub async fn on_append(
        &self,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> std::result::Result<AppendEntriesResponse<TypeConfig>, RaftError<TypeConfig>> {
        self.group.append(request).await
    }

    /// Answers a vote, or how it would go.
    pub async fn on_vote(
        &self,
        request: VoteRequest<TypeConfig>,
        pre: bool,
    ) -> std::result::Result<VoteResponse<TypeConfig>, RaftError<TypeConfig>> {
        self.group.vote(request, pre).await
    }

    /// Answers a leader's wish that this replica should lead.
    pub async fn on_transfer(
        &self,
        request: TransferLeaderRequest<TypeConfig>,
    ) -> io::Result<TransferLeaderResponse<TypeConfig>> {
        self.group.take_over(request).await
    }

    /// Answers one request of a replica that takes in a snapshot of this one.
    pub async fn on_fetch(&self, request: Fetch) -> Result<Fetched> {
        self.shared.fetch(request).await
    }

    /// Takes in a snapshot that the leader `from` offers under `vote`; answers the vote that
    /// stands here afterwards. One at a time: another is refused meanwhile.
    pub async fn on_offer(&self, from: ReplicaId, vote: Vote) -> Result<Vote> {
        let Ok(_one) = self.taking.try_lock() else {
            return Err(self.shared.unavailable("it is taking in a snapshot already"));
        };
        let standing = self.group.current_vote();
        if standing > vote {
            return Ok(standing);
        }
        let source = Offerer { transport: self.transport.clone(), group: self.shared.group, from };
        tracing::info!(group = %self.shared.group, %from, "takes in a snapshot");
        let staged = self.shared.stage(&source).await?;
        let meta = {
            let machine = lock(&staged.machine).map_err(|e| self.shared.internal(e))?;
            let last_membership = membership_of(&machine).map_err(|e| self.shared.internal(e))?;
            SnapshotMeta { last_log_id: machine.applied().map(from_pos), last_membership }
        };
        let image = Image::Staged { machine: staged.machine, generation: staged.generation };
        let last = meta.last_log_id;
        let installed = self.group.install(vote, meta, image).await;
        let standing = installed.map_err(|e| self.shared.internal(e))?;
        tracing::info!(group = %self.shared.group, last = ?last.map(|id| id.index), "took in a snapshot");
        Ok(standing)
    }

    /// Reads what is committed and applied here, whoever leads.
    pub async fn read_here(&self, read: Read) -> Result<ReadOut> {
        self.shared.read(read).await
    }

    /// Adds a replica that does not vote.
    pub async fn add_learner(&self, replica: ReplicaId) -> io::Result<()> {
        self.group.add_learner(replica).await
    }

    /// Makes `voters` the voters by one joint change; every other replica is dropped.
    pub async fn set_voters(&self, voters: BTreeSet<ReplicaId>) -> io::Result<()> {
        self.group.set_voters(voters).await
    }

    /// Drops replicas that do not vote.
    pub async fn drop_learners(&self, learners: BTreeSet<ReplicaId>) -> io::Result<()> {
        self.group.drop_learners(learners).await
    }

    /// Hands leadership over to `to`, a voter, and waits until it is gone, `wait` at the most.
    pub async fn hand_over(&self, to: ReplicaId, wait: Duration) -> Result<()> {
        self.group.hand_over(to).await.map_err(|e| self.shared.internal(e))?;
        let mut status = self.watch();
        let gone = status.wait_for(|status| !matches!(status, Status::Leading { .. }));
        match tokio::time::timeout(wait, gone).await {
            Ok(_) => Ok(()),
            Err(_) => Err(self.shared.unavailable("leadership was not taken over in time")),
        }
    }

    /// Stands for election: the leader's node is known to be gone.
    pub async fn stand(&self) -> io::Result<()> {
        self.group.stand().await
    }

    /// A replica's node can be reached again.
    pub async fn reached(&self, replica: ReplicaId) {
        self.group.reached(replica).await;
    }

    /// Gives up this replica: its log, its state and its locations go. It must be closed. Should
    /// the group come back here, it does so as another replica.
    pub async fn give_up(&self) -> io::Result<()> {
        let group = self.shared.group;
        self.shared
            .journal
            .write(vec![gem_store::journal::JournalOp::Tombstone { group }])
            .await
            .map_err(io::Error::other)
    }

    /// A boxed wait for the next change of status, for selections.
    pub fn changed(&self) -> BoxFuture<'static, ()> {
        let mut status = self.watch();
        async move {
            let _ = status.changed().await;
        }
        .boxed()
    }
}
