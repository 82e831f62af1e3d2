//! `gem.v1.Subscriber`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{Stream, StreamExt};
use gem_proto::answer::Answer;
use gem_proto::server::subscriber_server::Subscriber;
use gem_proto::v1;
use gem_proto::v1::subscribe_request::Request as Said;
use gem_proto::v1::subscribe_response::Response as First;
use gem_shard::log::{Settles, Verb};
use gem_types::{Error, GroupName, TopicName};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::convert;
use super::status::{status, too_large};
use super::stored::{self, Messages, Settled};
use crate::gateway::Gateway;
use crate::gateway::admission::Admitted;
use crate::gateway::groups::{Want, check_consumer, check_group};
use crate::gateway::limits;
use crate::gateway::read::Item;
use crate::gateway::subscribe::{Down, PULL_LEAST, PULL_MAX, Source, Up};

/// About the most bytes of an answer: what clients take by default is 4 MiB.
const ANSWER_BYTES: usize = 2 << 20;
/// Answers that wait for the transport to take them.
const CHANNEL: usize = 1;

/// Delivers over gRPC.
#[derive(Debug)]
pub struct SubscriberService(pub Arc<Gateway>);

#[tonic::async_trait]
impl Subscriber for SubscriberService {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<Answer, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<v1::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let mut requests = request.into_inner();
        let Some(v1::SubscribeRequest { request: Some(Said::Start(start)) }) = requests.message().await? else {
            return Err(status(Error::invalid("the first request of a subscription is its start")));
        };
        let credit = start.credit;
        let Opened { source, pulled, answers: first } = self.0.open(start).await.map_err(status)?;
        let topic = match &source {
            Source::Group(want) => want.topic.clone(),
            Source::Reader(topic, _) => topic.clone(),
        };
        let (to_client, mut downs) = mpsc::channel(CHANNEL);
        self.0.stream(source, pulled, credit, requests.map(|said| said.map_err(broken).and_then(up)), to_client);
        // The transport asks for the next answer once it has room again: until then the last one's
        // bytes are still here.
        let mut last = None;
        let answers = futures::stream::poll_fn(move |context| {
            drop(last.take());
            let next = downs.poll_recv(context);
            next.map(|down| down.map(|down| down.map(|down| answer(&topic, down, &mut last)).map_err(status)))
        });
        let first = first.into_iter().map(|a| Ok(Answer::new(v1::SubscribeResponse { response: Some(a) })));
        Ok(Response::new(Box::pin(futures::stream::iter(first).chain(answers))))
    }

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<Answer>, Status> {
        let read = async {
            let request = request.into_inner();
            let topic = self.0.topic(&TopicName::new(&request.topic)?).await?;
            let limit = limits::MESSAGES.of(zero_is_absent(request.limit))?;
            let wait = limits::READ_WAIT_MS.of(Some(request.wait_ms.into()))?;
            let text = Some(request.cursor.as_str()).filter(|c| !c.is_empty());
            let mut cursor = self.0.begin(&topic, convert::start(&request.from)?, text).await?;
            let wait = Duration::from_millis(wait);
            let items = self.0.read(&topic, &mut cursor, limit as usize, ANSWER_BYTES, wait).await?;
            let name = topic.info.name.clone();
            let cursor = cursor.encode(&name);
            Ok(stored::page(Messages::new(name, items, cursor)))
        };
        read.await.map(Response::new).map_err(status)
    }

    async fn pull(&self, request: Request<v1::PullRequest>) -> Result<Response<Answer>, Status> {
        let pull = async {
            let request = request.into_inner();
            let want = Want {
                topic: TopicName::new(&request.topic)?,
                group: GroupName::new(&request.group)?,
                consumer: request.consumer,
                mode: convert::mode(request.mode)?,
                from: convert::start(&request.from)?,
                stream: None,
            };
            let max = limits::MESSAGES.of(zero_is_absent(request.max))?;
            let wait = limits::PULL_WAIT_MS.of(request.wait_ms.map(u64::from))?;
            let items = self.0.pull(&want, max as usize, ANSWER_BYTES, Duration::from_millis(wait)).await?;
            Ok(stored::page(Messages::new(want.topic, items, String::new())))
        };
        pull.await.map(Response::new).map_err(status)
    }

    async fn settle(&self, request: Request<v1::SettleRequest>) -> Result<Response<v1::SettleResponse>, Status> {
        let settle = async {
            let request = request.into_inner();
            let nack = Verb::Nack { delay_ms: limits::DELAY_MS.of(Some(request.nack_delay_ms))? };
            let extend = Verb::Extend { by_ms: check_extend(&request.extend, request.extend_by_ms)? };
            let verbs: Vec<_> = [(request.ack, Verb::Ack), (request.nack, nack), (request.extend, extend)]
                .into_iter()
                .flat_map(|(tokens, verb)| tokens.into_iter().map(move |token| (token, verb)))
                .collect();
            let verbs: Settles = Arc::new(verbs);
            let (topic, group) = (TopicName::new(&request.topic)?, GroupName::new(&request.group)?);
            let statuses = self.0.settle(&topic, &group, verbs.clone()).await?;
            Ok(v1::SettleResponse { settlements: convert::settlements(&verbs, &statuses) })
        };
        settle.await.map(Response::new).map_err(status)
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let beat = async {
            let v1::HeartbeatRequest { topic, group, consumer } = request.into_inner();
            let leases = self.0.heartbeat(&TopicName::new(&topic)?, &GroupName::new(&group)?, &consumer).await?;
            Ok(v1::HeartbeatResponse { leases })
        };
        beat.await.map(Response::new).map_err(status)
    }
}

/// A subscription that was opened.
struct Opened {
    source: Source,
    /// The first messages, where the client has credit.
    pulled: Vec<Item>,
    /// What the client hears first.
    answers: Vec<First>,
}

impl Gateway {
    /// Opens a subscription; what is wrong with it shows before anything is answered.
    async fn open(self: &Arc<Self>, start: v1::SubscribeStart) -> Result<Opened, Error> {
        self.check_open()?;
        let topic = TopicName::new(&start.topic)?;
        let (from, mode) = (convert::start(&start.from)?, convert::mode(start.mode)?);
        let cursor = Some(start.cursor.as_str()).filter(|c| !c.is_empty());
        if start.group.is_empty() {
            if mode.is_some() {
                return Err(Error::invalid("mode is a group's: name a group, or leave it out"));
            }
            let known = self.topic_or_new(&topic).await?;
            let cursor = self.begin(&known, from, cursor).await?;
            let text = cursor.encode(&topic);
            let started = v1::Started { consumer: start.consumer, mode: 0, cursor: text.clone() };
            let here = v1::Batch { messages: Vec::new(), cursor: text };
            let answers = vec![First::Started(started), First::Batch(here)];
            return Ok(Opened { source: Source::Reader(topic, cursor), pulled: Vec::new(), answers });
        }
        if cursor.is_some() {
            return Err(Error::invalid("a group keeps its own place: leave the cursor out"));
        }
        let stream = self.random.u64();
        let consumer = if start.consumer.is_empty() { format!("stream-{stream:016x}") } else { start.consumer };
        check_consumer(&consumer)?;
        let group = GroupName::new(&start.group)?;
        check_group(&topic, &group)?;
        let want = Want { topic, group, consumer: consumer.clone(), mode, from, stream: Some(stream) };
        // Makes the group, and refuses a mode that is not its own. Without credit nothing may be
        // pulled, and the first pull does that later.
        let pulled = match start.credit {
            0 => Vec::new(),
            credit => self.pull(&want, (credit as usize).min(PULL_MAX), PULL_LEAST, Duration::ZERO).await?,
        };
        let mode = self.group(&want.topic, &want.group).await.map(|info| info.mode).ok().or(mode);
        let started = v1::Started { consumer, mode: convert::mode_out(mode), cursor: String::new() };
        Ok(Opened { source: Source::Group(want), pulled, answers: vec![First::Started(started)] })
    }
}

fn zero_is_absent(value: u32) -> Option<u64> {
    Some(u64::from(value)).filter(|v| *v != 0)
}

fn check_extend(tokens: &[String], by_ms: u64) -> Result<u64, Error> {
    if tokens.is_empty() { Ok(by_ms) } else { limits::BY_MS.of(Some(by_ms)) }
}

/// The transport failed, or the client broke off.
fn broken(told: Status) -> Error {
    let broken = || Error::unavailable(format!("the stream broke off: {}", told.message()), 100);
    too_large(&told).unwrap_or_else(broken)
}

fn up(said: v1::SubscribeRequest) -> Result<Up, Error> {
    let settle = |reference, tokens: Vec<String>, verb: Verb| Up::Settle {
        reference,
        verbs: Arc::new(tokens.into_iter().map(|token| (token, verb)).collect()),
    };
    match said.request {
        Some(Said::Credit(credit)) => Ok(Up::Credit(credit.messages)),
        Some(Said::Ack(ack)) => Ok(settle(ack.r#ref, ack.tokens, Verb::Ack)),
        Some(Said::Nack(nack)) => {
            let delay_ms = limits::DELAY_MS.of(Some(nack.delay_ms))?;
            Ok(settle(nack.r#ref, nack.tokens, Verb::Nack { delay_ms }))
        }
        Some(Said::Extend(extend)) => {
            let by_ms = limits::BY_MS.of(Some(extend.by_ms))?;
            Ok(settle(extend.r#ref, extend.tokens, Verb::Extend { by_ms }))
        }
        Some(Said::Start(_)) => Err(Error::invalid("a subscription starts once: open another stream")),
        None => Err(Error::invalid("an empty request")),
    }
}

fn answer(topic: &TopicName, down: Down, last: &mut Option<Admitted>) -> Answer {
    match down {
        Down::Items { items, cursor, charge } => {
            *last = Some(charge);
            stored::batch(Messages::new(topic.clone(), items, cursor.unwrap_or_default()))
        }
        Down::Settled { reference, verbs, statuses } => stored::settled(Settled { reference, verbs, statuses }),
    }
}
