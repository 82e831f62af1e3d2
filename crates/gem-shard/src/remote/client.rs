//! The side that asks: [`RemoteShard`] makes calls through a [`Pipe`].
//!
//! Two layers. [`RemoteShard::call`] makes one call and tells apart what the shard answered and what
//! kept it from answering ([`Miss`]). On top, [`Carries`] turns each method of [`ShardLog`] into a
//! [`Call`]; [`RemoteShard`] carries a call by making it once, and a miss becomes an error.
//!
//! A router that knows more than one node makes it again instead:
//!
//! ```ignore
//! impl Carries for Routed {
//!     fn carry(&self, call: Call) -> BoxFuture<'_, Result<Output>> {
//!         async move {
//!             for remote in self.candidates(call.position()) {       // newest descriptor first
//!                 match remote.call(&call).await {
//!                     Ok(answer) => return answer,                   // the shard's own, error or not
//!                     Err(Miss::Redirected(hint)) => self.learn(hint),
//!                     Err(miss) if miss.may_be_tried_again(&call) => continue,
//!                     Err(miss) => return Err(miss.into_error(&call, self.prefix)),
//!                 }
//!             }
//!             ..
//!         }
//!         .boxed()
//!     }
//! }
//! ```
//!
//! The call is the same each time: batch, ids and producer's numbers are in it, so that what was
//! carried out unheard is recognised.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use gem_types::{Error, GroupId, Offset, PartitionId, Prefix, Result, TopicName};

use super::call::Call;
use super::output::{Answer, Output};
use super::wire::{Request, Target};
use crate::log::{
    Append, Delivered, From, GroupInfo, GroupRef, PartitionStats, Placed, Pull, Read, ReadOut, Settles, ShardLog,
    Status, TopicChange, TopicConfig, TopicInfo, TopicPage,
};

/// When to ask again after a miss, in milliseconds: an election takes about so long.
const RETRY_AFTER_MS: u64 = 200;

/// The way to one node.
pub trait Pipe: Send + Sync + 'static {
    /// Sends `request` and waits, `wait` at the most, for its answer. The other side answers with
    /// [`answer`](super::answer), [`redirect`](super::redirect) or [`refuse`](super::refuse).
    ///
    /// Requests for one position ([`target`](super::target)) should be sent in the order in which
    /// this was called: a producer's batches that overtake one another are refused as out of order,
    /// and cost a repeat.
    fn call(
        &self,
        request: Vec<Bytes>,
        wait: Duration,
    ) -> BoxFuture<'static, std::result::Result<Vec<Bytes>, PipeError>>;

    /// The node said that another one is to be asked, and gave `hint`. Must not wait. The call itself
    /// ends as [`Miss::Redirected`] with the same hint.
    fn redirected(&self, _hint: Bytes) {}
}

/// Why a pipe has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PipeError {
    /// The request never left: it was not carried out.
    #[error("it can't be reached: {0}")]
    Unreachable(String),
    /// The request left: it may have been carried out.
    #[error("no answer came: {0}")]
    Lost(String),
}

/// What a call came to: the shard's own answer, or what kept it from answering.
pub type Routed<T> = std::result::Result<Result<T>, Miss>;

/// Why the shard did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// Not carried out: another node is to be asked, and the hint says more.
    Redirected(Bytes),
    /// Not carried out: the node can't be reached.
    Unreachable(String),
    /// It may have been carried out.
    Lost(String),
}

impl Miss {
    /// Whether the call was not carried out, and never will be.
    pub fn is_harmless(&self) -> bool {
        !matches!(self, Miss::Lost(_))
    }

    /// Whether the same call may be made again, of this node or another.
    pub fn may_be_tried_again(&self, call: &Call) -> bool {
        self.is_harmless() || call.is_repeatable()
    }

    /// What a client is told once nobody else is left to ask: `deadline` where something may have
    /// been changed unheard, else `unavailable`.
    pub fn into_error(self, call: &Call, prefix: Prefix) -> Error {
        match self {
            Miss::Redirected(_) => {
                let detail = format!("shard {prefix}: its leader is on another node now; try again");
                Error::unavailable(detail, RETRY_AFTER_MS)
            }
            Miss::Unreachable(why) => {
                let detail = format!("shard {prefix}: the node that leads it can't be reached: {why}; try again");
                Error::unavailable(detail, RETRY_AFTER_MS)
            }
            Miss::Lost(why) if call.changes() => Error::deadline(format!(
                "shard {prefix}: the node that leads it did not answer: {why}; the outcome is unknown: retry with the same id"
            )),
            Miss::Lost(why) => {
                let detail = format!("shard {prefix}: the node that leads it did not answer: {why}; try again");
                Error::unavailable(detail, RETRY_AFTER_MS)
            }
        }
    }
}

impl std::convert::From<PipeError> for Miss {
    fn from(error: PipeError) -> Self {
        match error {
            PipeError::Unreachable(why) => Miss::Unreachable(why),
            PipeError::Lost(why) => Miss::Lost(why),
        }
    }
}

/// Which replicas may answer what does not need a leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadFrom {
    /// The leader alone: a reader finds all that was acknowledged to anybody.
    #[default]
    Leader,
    /// Any: what is read may be a moment old.
    Any,
}

/// A shard, as one node elsewhere has it.
#[derive(Clone)]
pub struct RemoteShard {
    pipe: Arc<dyn Pipe>,
    target: Target,
}

impl RemoteShard {
    /// The shard of `group`, which held `prefix` in `epoch`, by way of `pipe`.
    pub fn new(pipe: Arc<dyn Pipe>, group: GroupId, prefix: Prefix, epoch: u64) -> Self {
        RemoteShard { pipe, target: Target { group, prefix, epoch, position: None, is_read_any: false } }
    }

    /// The same, read from other replicas too.
    pub fn reading(mut self, from: ReadFrom) -> Self {
        self.target.is_read_any = from == ReadFrom::Any;
        self
    }

    /// The shard's group.
    pub fn id(&self) -> GroupId {
        self.target.group
    }

    /// The part of the ring that it is asked for.
    pub fn prefix(&self) -> Prefix {
        self.target.prefix
    }

    /// Makes `call` once.
    pub async fn call(&self, call: &Call) -> Routed<Output> {
        let request = Request::new(self.target, call.clone()).encode();
        let answer = self.pipe.call(request, call.patience()).await?;
        match Answer::decode(&answer, call.kind()) {
            Ok(Answer::Answered(output)) => Ok(Ok(output)),
            Ok(Answer::Refused(error)) => Ok(Err(error)),
            Ok(Answer::Redirect(hint)) => {
                self.pipe.redirected(hint.clone());
                Err(Miss::Redirected(hint))
            }
            Err(malformed) => Err(Miss::Lost(format!("its answer can't be read: {malformed}"))),
        }
    }
}

impl Carries for RemoteShard {
    fn carry(&self, call: Call) -> BoxFuture<'_, Result<Output>> {
        async move {
            let made = self.call(&call).await;
            made.unwrap_or_else(|miss| Err(miss.into_error(&call, self.prefix())))
        }
        .boxed()
    }
}

/// Whoever can carry any call to wherever its shard is: that alone makes a [`ShardLog`].
pub trait Carries: Send + Sync + 'static {
    /// Makes `call`, and answers with the output of its kind ([`Output`]) within
    /// [`Call::patience`].
    fn carry(&self, call: Call) -> BoxFuture<'_, Result<Output>>;
}

/// The output of the kind that the call has.
macro_rules! carried {
    ($self:ident, $call:expr, $pattern:pat $(if $guard:expr)? => $value:expr) => {
        $self
            .carry($call)
            .map(move |made| match made? {
                $pattern $(if $guard)? => Ok($value),
                _ => Err(Error::internal("a call to a shard elsewhere was answered as another one")),
            })
            .boxed()
    };
}

impl<C: Carries> ShardLog for C {
    fn create_topic(&self, name: TopicName, config: TopicConfig) -> BoxFuture<'_, Result<(TopicInfo, bool)>> {
        carried!(self, Call::CreateTopic { name, config }, Output::Created(topic, is_new) => (topic, is_new))
    }

    fn topic(&self, name: TopicName) -> BoxFuture<'_, Result<TopicInfo>> {
        carried!(self, Call::Topic { name }, Output::Topic(topic) => topic)
    }

    fn alter_topic(&self, name: TopicName, change: TopicChange) -> BoxFuture<'_, Result<TopicInfo>> {
        carried!(self, Call::AlterTopic { name, change }, Output::Topic(topic) => topic)
    }

    fn delete_topic(&self, name: TopicName) -> BoxFuture<'_, Result<()>> {
        carried!(self, Call::DeleteTopic { name }, Output::Done => ())
    }

    fn list_topics(&self, prefix: String, after: Option<String>, limit: usize) -> BoxFuture<'_, Result<TopicPage>> {
        carried!(self, Call::ListTopics { prefix, after, limit }, Output::Topics(page) => page)
    }

    fn append(&self, append: Append) -> BoxFuture<'_, Result<Vec<Placed>>> {
        let count = append.batch.count() as usize;
        // One for each record is what callers count on.
        carried!(self, Call::Append(append), Output::Placed(placed) if placed.len() == count => placed)
    }

    fn read(&self, read: Read) -> BoxFuture<'_, Result<ReadOut>> {
        carried!(self, Call::Read(read), Output::Read(read) => read)
    }

    fn stats(&self, partition: PartitionId) -> BoxFuture<'_, Result<PartitionStats>> {
        carried!(self, Call::Stats { partition }, Output::Stats(stats) => stats)
    }

    fn resolve(&self, partition: PartitionId, number: u32, from: From) -> BoxFuture<'_, Result<Offset>> {
        carried!(self, Call::Resolve { partition, number, from }, Output::Offset(offset) => offset)
    }

    fn trim(&self, partition: PartitionId, before: Option<Offset>) -> BoxFuture<'_, Result<()>> {
        carried!(self, Call::Trim { partition, before }, Output::Done => ())
    }

    fn pull(&self, pull: Pull) -> BoxFuture<'_, Result<Vec<Delivered>>> {
        carried!(self, Call::Pull(pull), Output::Delivered(messages) => messages)
    }

    fn settle(&self, group: GroupRef, verbs: Settles) -> BoxFuture<'_, Result<Vec<Status>>> {
        let count = verbs.len();
        carried!(self, Call::Settle { group, verbs }, Output::Settled(statuses) if statuses.len() == count => statuses)
    }

    fn heartbeat(&self, group: GroupRef, consumer: String) -> BoxFuture<'_, Result<u64>> {
        carried!(self, Call::Heartbeat { group, consumer }, Output::Count(count) => count)
    }

    fn close_stream(&self, group: GroupRef, consumer: String, stream: u64) -> BoxFuture<'_, Result<()>> {
        carried!(self, Call::CloseStream { group, consumer, stream }, Output::Done => ())
    }

    fn groups(&self, topic: TopicName, partition: PartitionId) -> BoxFuture<'_, Result<Vec<GroupInfo>>> {
        carried!(self, Call::Groups { topic, partition }, Output::Groups(groups) => groups)
    }

    fn group(&self, group: GroupRef) -> BoxFuture<'_, Result<GroupInfo>> {
        carried!(self, Call::Group { group }, Output::Group(group) => group)
    }

    fn seek(&self, group: GroupRef, offset: Offset) -> BoxFuture<'_, Result<()>> {
        carried!(self, Call::Seek { group, offset }, Output::Done => ())
    }

    fn delete_group(&self, group: GroupRef) -> BoxFuture<'_, Result<()>> {
        carried!(self, Call::DeleteGroup { group }, Output::Done => ())
    }
}
