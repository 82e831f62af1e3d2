//! The side that holds the shard: requests in, answers out.
//!
//! What it is: [`target`] tells a node for which shard a request is, so that it can find the log or
//! [`redirect`]; [`answer`] decodes the rest, makes the call and encodes what it came to.
//!
//! What it is not: it knows neither who leads nor what the node holds. The node checks both before
//! it calls [`answer`]: a shard that has no leader yet makes a call wait instead of moving on.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use gem_types::{Code, Error, Result};

use super::call::{Call, Kind};
use super::output::{Answer, Output};
use super::pieces;
use super::wire::{Request, Target};
use crate::entry::wire::Malformed;
use crate::log::{Pull, Read, ShardLog};

/// The most bytes of batches that are read or handed out for one request, whatever it asks for: one
/// batch at least goes all the same.
pub const ANSWER_BYTES_MAX: usize = 16 << 20;

/// For which shard a request is, without decoding the rest.
pub fn target(request: &[Bytes]) -> std::result::Result<Target, Malformed> {
    Target::peek(request)
}

/// The answer that another node is to be asked: not carried out. `hint` goes to
/// [`Pipe::redirected`](super::Pipe::redirected) and to the router, as it is.
pub fn redirect(hint: Bytes) -> Vec<Bytes> {
    // Redirects and refusals are the same for all kinds of calls.
    Answer::Redirect(hint).encode(Kind::Topic)
}

/// The answer that the request was refused with `error`.
pub fn refuse(error: &Error) -> Vec<Bytes> {
    Answer::Refused(error.clone()).encode(Kind::Topic)
}

/// The answer of `log` to `request`. Ends when the call does, all of which have deadlines; dropped
/// before, it is as if a local caller had gone.
pub fn answer(log: Arc<dyn ShardLog>, request: Vec<Bytes>) -> BoxFuture<'static, Vec<Bytes>> {
    async move {
        match Request::decode(&request) {
            Ok(request) => {
                let kind = request.call.kind();
                let made = make(&*log, request.call).await;
                made.map_or_else(Answer::Refused, Answer::Answered).encode(kind)
            }
            // The sender is a node: a release that this one does not understand, or a fault.
            Err(malformed) => refuse(&unintelligible(malformed)),
        }
    }
    .boxed()
}

/// What a request that can't be read is refused with: it was not carried out.
pub fn unintelligible(malformed: Malformed) -> Error {
    let detail = format!("a node sent what this one does not understand: {malformed}; do both run the same release?");
    Error { code: Code::Unavailable, detail, retry_after_ms: Some(1_000) }
}

/// Makes `call` of `log`.
pub async fn make(log: &dyn ShardLog, call: Call) -> Result<Output> {
    Ok(match call {
        Call::CreateTopic { name, config } => {
            let (topic, is_new) = log.create_topic(name, config).await?;
            Output::Created(topic, is_new)
        }
        Call::Topic { name } => Output::Topic(log.topic(name).await?),
        Call::AlterTopic { name, change } => Output::Topic(log.alter_topic(name, change).await?),
        Call::DeleteTopic { name } => done(log.delete_topic(name).await)?,
        Call::ListTopics { prefix, after, limit } => Output::Topics(log.list_topics(prefix, after, limit).await?),
        Call::Append(append) => Output::Placed(log.append(append).await?),
        Call::Read(read) => {
            let max_bytes = read.max_bytes.min(ANSWER_BYTES_MAX);
            Output::Read(log.read(Read { max_bytes, ..read }).await?)
        }
        Call::Stats { partition } => Output::Stats(log.stats(partition).await?),
        Call::Resolve { partition, number, from } => Output::Offset(log.resolve(partition, number, from).await?),
        Call::Trim { partition, before } => done(log.trim(partition, before).await)?,
        Call::Pull(pull) => Output::Delivered(hand_out(log, pull).await?),
        Call::Settle { group, verbs } => Output::Settled(log.settle(group, verbs).await?),
        Call::Heartbeat { group, consumer } => Output::Count(log.heartbeat(group, consumer).await?),
        Call::CloseStream { group, consumer, stream } => done(log.close_stream(group, consumer, stream).await)?,
        Call::Groups { topic, partition } => Output::Groups(log.groups(topic, partition).await?),
        Call::Group { group } => Output::Group(log.group(group).await?),
        Call::Seek { group, offset } => done(log.seek(group, offset).await)?,
        Call::DeleteGroup { group } => done(log.delete_group(group).await)?,
    })
}

fn done(result: Result<()>) -> Result<Output> {
    result.map(|()| Output::Done)
}

async fn hand_out(log: &dyn ShardLog, pull: Pull) -> Result<Vec<crate::log::Delivered>> {
    let max_bytes = pull.max_bytes.min(ANSWER_BYTES_MAX);
    let messages = log.pull(Pull { max_bytes, ..pull }).await?;
    pieces::fit(messages, max_bytes).map_err(|e| Error::internal(format!("a stored batch is damaged: {e}")))
}
