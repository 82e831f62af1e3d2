//! The entries that a leader elsewhere sends, handed to Raft in the order in which they came.
//!
//! Each is answered once it is flushed; meanwhile the next are handed over, so that one flush
//! covers many. The queue is bounded by the link's window: what is unanswered counts against it.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::EntryPayload;
use openraft::errors::{Fatal, RaftError};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use tokio::sync::{mpsc, oneshot};

use super::Shard;
use crate::raft::group::Group;
use crate::raft::types::TypeConfig;

type Answer = Result<AppendEntriesResponse<TypeConfig>, AppendError>;
type Queued = (AppendEntriesRequest<TypeConfig>, oneshot::Sender<Answer>);

/// Why entries were not taken.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Messages would go to the part of the disk that is kept for all else. The leader tries again, and
    /// goes on with the other replicas.
    #[error("the disk of this node is full: it takes no messages until there is room")]
    NoRoom,
    /// Raft has ended.
    #[error("{0}")]
    Raft(#[from] RaftError<TypeConfig>),
}

/// The senders' end.
pub(crate) struct Appends(Mutex<Option<mpsc::UnboundedSender<Queued>>>);

/// The end that is worked off.
pub(crate) struct Queue(mpsc::UnboundedReceiver<Queued>);

impl Appends {
    pub fn new() -> (Appends, Queue) {
        let (to, from) = mpsc::unbounded_channel();
        (Appends(Mutex::new(Some(to))), Queue(from))
    }

    /// Takes no more: the queue ends with what is in it.
    pub fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn push(&self, request: AppendEntriesRequest<TypeConfig>) -> oneshot::Receiver<Answer> {
        let (answer, answered) = oneshot::channel();
        if let Some(queue) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            // A queue that has ended drops the answer's sender: the caller is told.
            let _ = queue.send((request, answer));
        }
        answered
    }
}

impl Queue {
    pub async fn run(mut self, group: Arc<Group>) {
        let mut at_work = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                next = self.0.recv() => match next {
                    Some((request, answer)) => {
                        let group = group.clone();
                        at_work.push(async move {
                            // A caller that is gone needs no answer.
                            let _ = answer.send(group.append(request).await.map_err(AppendError::Raft));
                        });
                    }
                    None => break,
                },
                Some(()) = at_work.next(), if !at_work.is_empty() => {}
            }
        }
        while at_work.next().await.is_some() {}
    }
}

fn has_batches(request: &AppendEntriesRequest<TypeConfig>) -> bool {
    request
        .entries
        .iter()
        .any(|entry| matches!(&entry.payload, EntryPayload::Normal(proposal) if proposal.has_batches()))
}

impl Shard {
    /// Queues a leader's entries or heartbeat, in the order of these calls; the answer comes once
    /// they are flushed.
    pub fn queue_append(
        &self,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> impl Future<Output = Answer> + Send + 'static {
        let has_room = !has_batches(&request) || self.shared.journal.room().publish_ok;
        let answered = has_room.then(|| self.appends.push(request));
        async move {
            match answered {
                Some(answered) => answered.await.unwrap_or(Err(RaftError::Fatal(Fatal::Stopped).into())),
                None => Err(AppendError::NoRoom),
            }
        }
    }
}
