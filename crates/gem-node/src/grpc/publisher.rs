//! `gem.v1.Publisher`.

use std::pin::Pin;
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesOrdered, Stream, StreamExt, unfold};
use gem_proto::server::publisher_server::Publisher;
use gem_proto::v1;
use gem_types::{Error, ProducerId, TopicName};
use tonic::{Request, Response, Status, Streaming};

use super::convert;
use super::status::{caller_waits, refusal, status, too_large};
use crate::gateway::Gateway;
use crate::gateway::prepare::MESSAGES_MAX;
use crate::gateway::producers::Producer;
use crate::gateway::publish::{Numbered, Places, Published};
use crate::gateway::topics::check_writable;

/// Bytes of one stream's batches that may be on their way: enough for a gigabyte a second at some
/// milliseconds a flush.
const WINDOW_BYTES: usize = 32 << 20;
/// Messages of one stream that may be on their way: a partition remembers 65,536 unsettled numbers
/// of a producer, and what is answered is settled only with the client's next batch.
const WINDOW_MESSAGES: usize = 32_768;

/// Publishes over gRPC.
#[derive(Debug)]
pub struct PublisherService(pub Arc<Gateway>);

#[tonic::async_trait]
impl Publisher for PublisherService {
    async fn publish(&self, request: Request<v1::PublishRequest>) -> Result<Response<v1::PublishResponse>, Status> {
        let wait = caller_waits(request.metadata());
        let v1::PublishRequest { topic, messages, record_batch } = request.into_inner();
        let answer = async {
            let topic = TopicName::new(&topic)?;
            let published = self.0.publish(&topic, convert::input(messages, record_batch)?, wait).await?;
            match published.places {
                Places::Refused { error, .. } => Err(error),
                places => Ok(convert::results(&topic, &published.ids, places)),
            }
        };
        let results = answer.await.map_err(status)?;
        Ok(Response::new(v1::PublishResponse { results }))
    }

    type PublishStreamStream = Pin<Box<dyn Stream<Item = Result<v1::PublishStreamResponse, Status>> + Send>>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<v1::PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let stream = PublishStream {
            gateway: self.0.clone(),
            requests: request.into_inner(),
            producer: None,
            taking_in: None,
            storing: FuturesOrdered::new(),
            window: Share::default(),
            over: None,
        };
        let answers = unfold(stream, |mut stream| async { stream.next().await.map(|answer| (answer, stream)) });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// What a batch takes of the window, and gives back with its answer.
#[derive(Clone, Copy, Default)]
struct Share {
    bytes: usize,
    messages: usize,
}

/// A batch on its way.
type Storing = BoxFuture<'static, (v1::PublishStreamResponse, Share)>;
/// A batch whose order is being fixed.
type TakingIn = BoxFuture<'static, (Storing, Share)>;

/// One stream of batches. It runs within the polling of its answers: no task and no channel of its
/// own, and a client that does not read its answers is not read either.
struct PublishStream {
    gateway: Arc<Gateway>,
    requests: Streaming<v1::PublishStreamRequest>,
    producer: Option<Arc<Producer>>,
    /// The batch whose order is being fixed: one at a time.
    taking_in: Option<TakingIn>,
    storing: FuturesOrdered<Storing>,
    window: Share,
    /// No more requests are read; the status ends the stream once all is answered.
    over: Option<Option<Status>>,
}

impl PublishStream {
    async fn next(&mut self) -> Option<Result<v1::PublishStreamResponse, Status>> {
        loop {
            let open = self.over.is_none() && self.taking_in.is_none();
            let room = self.window.bytes < WINDOW_BYTES && self.window.messages < WINDOW_MESSAGES;
            tokio::select! {
                biased;
                Some((answer, share)) = self.storing.next(), if !self.storing.is_empty() => {
                    self.window.bytes = self.window.bytes.saturating_sub(share.bytes);
                    self.window.messages = self.window.messages.saturating_sub(share.messages);
                    return Some(Ok(answer));
                }
                (storing, share) = taken_in(&mut self.taking_in), if self.taking_in.is_some() => {
                    self.taking_in = None;
                    self.window.bytes += share.bytes;
                    self.window.messages += share.messages;
                    self.storing.push_back(storing);
                }
                request = self.requests.message(), if open && room => match request {
                    Ok(Some(request)) => self.begin(request),
                    Ok(None) => self.over = Some(None),
                    Err(told) => self.over = Some(Some(too_large(&told).map_or(told, status))),
                },
                else => return self.over.take().flatten().map(Err),
            }
        }
    }

    fn begin(&mut self, request: v1::PublishStreamRequest) {
        let (reference, asked) = (request.r#ref, request.producer_id);
        let producer = match self.producer(asked) {
            Ok(producer) => producer,
            Err(error) => return self.answer(refused(reference, asked, error)),
        };
        let id = producer.id.0;
        if request.topic.is_empty() && request.messages.is_empty() && request.record_batch.is_empty() {
            // Only asks who it is.
            return self.answer(v1::PublishStreamResponse { r#ref: reference, producer_id: id, ..Default::default() });
        }
        if let Err(error) = producer.check_open() {
            return self.answer(refused(reference, id, error));
        }
        let count = count(&request);
        let first = match producer.number(request.number, request.settled, count) {
            Ok(first) => first,
            Err(error) => return self.answer(refused(reference, id, error)),
        };
        let numbered = Numbered { producer, first, by_client: request.number != 0 };
        self.taking_in = Some(take_in(self.gateway.clone(), request, numbered, count).boxed());
    }

    /// Answers at once, in its turn; counted, so that refusals are bounded too.
    fn answer(&mut self, answer: v1::PublishStreamResponse) {
        self.window.messages += 1;
        self.storing.push_back(std::future::ready((answer, Share { bytes: 0, messages: 1 })).boxed());
    }

    /// The stream's producer: named by the client, or made for it.
    fn producer(&mut self, asked: i64) -> Result<Arc<Producer>, Error> {
        if let Some(producer) = &self.producer {
            if asked != 0 && asked != producer.id.0 {
                return Err(Error::invalid(format!(
                    "producer {asked} is not this stream's, which is {}: open a stream for each producer",
                    producer.id.0
                )));
            }
            return Ok(producer.clone());
        }
        if asked < 0 {
            return Err(Error::invalid(format!("{asked} is no producer id: send 0 to get one")));
        }
        let id = if asked == 0 { self.gateway.new_producer() } else { ProducerId(asked) };
        Ok(self.producer.insert(Arc::new(Producer::new(id))).clone())
    }
}

async fn taken_in(taking: &mut Option<TakingIn>) -> (Storing, Share) {
    match taking {
        Some(taking) => taking.await,
        None => std::future::pending().await,
    }
}

/// Where the record count stands in a record batch (RecordBatch v2).
const COUNT_AT: usize = 57;

/// How many numbers a request takes, before it is checked.
fn count(request: &v1::PublishStreamRequest) -> usize {
    if !request.messages.is_empty() {
        return request.messages.len();
    }
    let count = request.record_batch.get(COUNT_AT..).and_then(|rest| rest.first_chunk::<4>());
    count.map_or(0, |count| i32::from_be_bytes(*count).clamp(0, MESSAGES_MAX as i32) as usize)
}

async fn take_in(
    gateway: Arc<Gateway>,
    request: v1::PublishStreamRequest,
    numbered: Numbered,
    messages: usize,
) -> (Storing, Share) {
    let (reference, producer, first) = (request.r#ref, numbered.producer.clone(), numbered.first);
    let by_client = numbered.by_client;
    let taken = async {
        let topic = TopicName::new(&request.topic)?;
        check_writable(&topic)?;
        let input = convert::input(request.messages, request.record_batch)?;
        let bytes = input.size();
        Ok((gateway.take_in(&topic, input, Some(numbered), None).await?, topic, bytes))
    };
    match taken.await {
        Ok((taken, topic, bytes)) => {
            let share = Share { bytes, messages };
            let stored = async move {
                let published = gateway.finish(taken).await;
                producer.answered(first);
                (answer(reference, producer.id.0, &topic, published), share)
            };
            (stored.boxed(), share)
        }
        Err(error) => {
            producer.answered(first);
            if by_client {
                producer.block();
            }
            let share = Share { bytes: 0, messages: 1 };
            (std::future::ready((refused(reference, producer.id.0, error), share)).boxed(), share)
        }
    }
}

fn answer(reference: u64, producer_id: i64, topic: &TopicName, published: Published) -> v1::PublishStreamResponse {
    let Published { ids, places } = published;
    let mut answer = v1::PublishStreamResponse { r#ref: reference, producer_id, ..Default::default() };
    match places {
        Places::Range { partition, first, count } => {
            let id_base = ids.run.map(|run| run.to_bytes().to_vec().into()).unwrap_or_default();
            answer.range = Some(v1::StoredRange { partition, first_offset: first, count, id_base });
        }
        Places::Refused { error, .. } => answer.error = Some(refusal(error)),
        places => answer.results = convert::results(topic, &ids, places),
    }
    answer
}

fn refused(reference: u64, producer_id: i64, error: Error) -> v1::PublishStreamResponse {
    v1::PublishStreamResponse { r#ref: reference, producer_id, error: Some(refusal(error)), ..Default::default() }
}
