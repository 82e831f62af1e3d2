//! What callers ask of the leader loop, and the queue in which they ask.
//!
//! The queue is bounded in number here and in bytes by the node's budget: an append holds its
//! charge until it is answered. Every caller has a deadline of its own; the loop drops what
//! nobody waits for any more.

use std::future::Future;
use std::time::Duration;

use gem_store::budget::{Budget, Charge, Class};
use gem_types::{Error, Offset, PartitionId, Result, TopicName};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::shared::RETRY_AFTER_MS;
use crate::log::{
    Append, Delivered, GroupInfo, GroupRef, Placed, Pull, Settles, Status, TopicChange, TopicConfig, TopicInfo,
};

/// How long an operation on topics and groups may take.
pub(crate) const CHANGE_WAIT: Duration = Duration::from_secs(10);
/// How much longer than a pull asked for its answer may take: what is on its way is waited for.
pub(crate) const PULL_GRACE: Duration = Duration::from_secs(5);
/// Requests that wait to be taken by the loop.
const QUEUE_LEN: usize = 4_096;

/// Where an answer goes. A caller that is gone has closed it.
pub(crate) type Reply<T> = oneshot::Sender<Result<T>>;

/// A request to the leader loop.
pub(crate) enum Request {
    /// Store a batch.
    Append(Pending),
    /// Change something else.
    Change(Change, Reply<Changed>),
    /// Hand out messages.
    Pull(Pull, Reply<Vec<Delivered>>),
    /// Settle tokens.
    Settle(GroupRef, Settles, Reply<Vec<Status>>),
    /// A member lives.
    Heartbeat(GroupRef, String, Reply<u64>),
    /// A stream has ended.
    CloseStream(GroupRef, String, u64, Reply<()>),
    /// What groups there are.
    Groups(TopicName, PartitionId, Reply<Vec<GroupInfo>>),
    /// One group.
    Group(GroupRef, Reply<GroupInfo>),
}

impl Request {
    /// Tells the caller `error`: the request was never taken.
    pub fn refuse(self, error: &Error) {
        let error = error.clone();
        match self {
            Request::Append(pending) => drop(pending.caller.reply.send(Err(error))),
            Request::Change(_, reply) => drop(reply.send(Err(error))),
            Request::Pull(_, reply) => drop(reply.send(Err(error))),
            Request::Settle(_, _, reply) => drop(reply.send(Err(error))),
            Request::Heartbeat(_, _, reply) => drop(reply.send(Err(error))),
            Request::CloseStream(_, _, _, reply) => drop(reply.send(Err(error))),
            Request::Groups(_, _, reply) => drop(reply.send(Err(error))),
            Request::Group(_, reply) => drop(reply.send(Err(error))),
        }
    }
}

/// An append that waits.
pub(crate) struct Pending {
    pub append: Append,
    pub caller: Caller,
}

/// Who waits for an append.
pub(crate) struct Caller {
    pub reply: Reply<Vec<Placed>>,
    /// Held until the answer.
    pub _charge: Charge,
}

/// A change of topics or groups.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    CreateTopic(TopicName, TopicConfig),
    AlterTopic(TopicName, TopicChange),
    DeleteTopic(TopicName),
    Trim(PartitionId, Option<Offset>),
    Seek(GroupRef, Offset),
    DeleteGroup(GroupRef),
}

impl Change {
    /// Dispatch holds the group still until it hears what came of this: so it is carried out even
    /// where its caller is gone, or the group would stand still for good.
    pub fn freezes(&self) -> bool {
        matches!(self, Change::Seek(..) | Change::DeleteGroup(..))
    }
}

/// What a change came to.
#[derive(Clone, Debug)]
pub(crate) enum Changed {
    /// The topic as it stands, and whether it is new.
    Topic(TopicInfo, bool),
    /// Done.
    Done,
}

/// The callers' end of the queue.
#[derive(Clone)]
pub(crate) struct Asks {
    queue: mpsc::Sender<Request>,
    budget: Budget,
}

impl Asks {
    /// A queue, and the loop's end of it.
    pub fn new(budget: Budget) -> (Self, mpsc::Receiver<Request>) {
        let (queue, requests) = mpsc::channel(QUEUE_LEN);
        (Asks { queue, budget }, requests)
    }

    /// Appends. Not answered in time, the outcome is unknown.
    pub async fn append(&self, append: Append) -> Result<Vec<Placed>> {
        let wait = append.wait;
        let deadline = Instant::now() + wait;
        let charge = self.budget.charge(Class::Raft, append.batch.len() as u64, wait).await;
        let charge = charge.map_err(|_| throttled("the node's memory for messages on their way is used up"))?;
        let request = |reply| Request::Append(Pending { append, caller: Caller { reply, _charge: charge } });
        self.ask(deadline, request).await
    }

    /// Changes topics or groups.
    pub async fn change(&self, change: Change) -> Result<Changed> {
        self.ask(Instant::now() + CHANGE_WAIT, |reply| Request::Change(change, reply)).await
    }

    /// Pulls.
    pub async fn pull(&self, pull: Pull) -> Result<Vec<Delivered>> {
        let deadline = Instant::now() + pull.wait + PULL_GRACE;
        self.ask(deadline, |reply| Request::Pull(pull, reply)).await
    }

    /// Asks for anything else.
    pub fn ask_short<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> impl Future<Output = Result<T>> {
        self.ask(Instant::now() + CHANGE_WAIT, request)
    }

    async fn ask<T>(&self, deadline: Instant, request: impl FnOnce(Reply<T>) -> Request) -> Result<T> {
        let Ok(place) = timeout_at(deadline, self.queue.reserve()).await else {
            return Err(throttled("too many requests wait for this shard"));
        };
        let stopped = || Error::unavailable("the shard has stopped", RETRY_AFTER_MS);
        let (reply, answer) = oneshot::channel();
        place.map_err(|_| stopped())?.send(request(reply));
        match timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            // The loop ended with the request in it: what was proposed may yet be there.
            Ok(Err(_)) => Err(Error::internal("the shard stopped before it answered: the outcome is unknown")),
            Err(_) => Err(Error::deadline("no answer within the time given: the outcome is unknown")),
        }
    }
}

fn throttled(what: &str) -> Error {
    Error::throttled(what, RETRY_AFTER_MS)
}
