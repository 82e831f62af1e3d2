//! The client: calls with failover, retries and deadlines.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use gem_proto::v1;
use gem_proto::v1::publisher_client::PublisherClient;
use gem_proto::v1::subscriber_client::SubscriberClient;
use gem_types::message::{Receipt, StoredMessage};
use gem_types::{Code, Error, Result, TopicName};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::config::ClientConfig;
use crate::endpoints::Endpoints;
use crate::message::Message;
use crate::producer::{Producer, ProducerConfig};
use crate::retry::Backoff;
use crate::status::{Failure, is_retryable};
use crate::subscription::{SubscribeOptions, Subscription};
use crate::wire;

/// The largest answer taken, in bytes.
pub(crate) const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A client of a mesh. Clones share their connections; one a process is enough for most.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) config: Arc<ClientConfig>,
}

/// What a groupless read found.
#[derive(Clone, Debug)]
pub struct Page {
    /// In offset order within each partition.
    pub messages: Vec<StoredMessage>,
    /// Opaque: continues after these messages.
    pub cursor: String,
}

impl Client {
    /// A client of the nodes in `urls`, a comma-separated list. Connections are made when they are
    /// first needed, so an unreachable node shows in the first call. Must be called within a tokio
    /// runtime.
    pub fn connect(urls: &str) -> Result<Client> {
        Client::with_config(ClientConfig::new(urls)?)
    }

    /// As [`Client::connect`], with other settings than the defaults.
    pub fn with_config(config: ClientConfig) -> Result<Client> {
        Ok(Client { endpoints: Arc::new(Endpoints::new(&config)?), config: Arc::new(config) })
    }

    /// Publishes one message and answers once it is durable. A message without an id gets one here,
    /// so that retries store it once. For many messages use [`Client::producer`].
    pub async fn publish(&self, topic: &str, message: Message) -> Result<Receipt> {
        let mut results = self.publish_batch(topic, vec![message]).await?;
        results.pop().unwrap_or_else(|| Err(Error::internal("the node answered without a result")))
    }

    /// Publishes messages together; one result each, in order. What may be retried is retried with
    /// the same ids until the client's timeout.
    ///
    /// Errors: `Err` where the batch was refused as a whole.
    pub async fn publish_batch(&self, topic: &str, messages: Vec<Message>) -> Result<Vec<Result<Receipt>>> {
        let deadline = Instant::now() + self.config.timeout;
        let mut backoff = Backoff::default();
        let mut open: Vec<(usize, v1::Message)> = messages.into_iter().map(with_id).enumerate().collect();
        let mut results: Vec<Option<Result<Receipt>>> = vec![None; open.len()];
        loop {
            let request = v1::PublishRequest {
                topic: topic.to_owned(),
                messages: open.iter().map(|(_, message)| message.clone()).collect(),
                ..Default::default()
            };
            let answer = self.publish_once(request, deadline).await?;
            if answer.len() != open.len() {
                return Err(Error::internal(format!("{} messages got {} results", open.len(), answer.len())));
            }
            let mut retry_after_ms = None;
            let mut again = Vec::new();
            for ((index, message), result) in open.into_iter().zip(answer) {
                if let Err(error) = &result
                    && is_retryable(error.code)
                {
                    retry_after_ms = retry_after_ms.max(error.retry_after_ms);
                    again.push((index, message));
                }
                // The index was counted off this very vector's length.
                results[index] = Some(result);
            }
            let pause = backoff.pause(retry_after_ms);
            if again.is_empty() || Instant::now() + pause >= deadline {
                return Ok(results.into_iter().flatten().collect());
            }
            open = again;
            tokio::time::sleep(pause).await;
        }
    }

    async fn publish_once(&self, request: v1::PublishRequest, deadline: Instant) -> Result<Vec<Result<Receipt>>> {
        let answer = self
            .call_until("publish", deadline, self.config.attempt_timeout, |channel, left| {
                let request = timed(request.clone(), left);
                async move {
                    let mut client = PublisherClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
                    client.publish(request).await
                }
            })
            .await?;
        Ok(answer.results.into_iter().map(wire::result).collect())
    }

    /// A producer for `topic`: batches and pipelines in the background. Must be called within a
    /// tokio runtime.
    pub fn producer(&self, topic: &str, config: ProducerConfig) -> Producer {
        Producer::start(self.clone(), topic.to_owned(), config)
    }

    /// Subscribes to `topic`. The subscription connects in the background, and comes back by itself
    /// when a connection breaks. Must be called within a tokio runtime.
    pub fn subscribe(&self, topic: &str, options: SubscribeOptions) -> Result<Subscription> {
        Subscription::start(self.clone(), TopicName::new(topic)?, options)
    }

    /// Reads without a group. `start` is `earliest`, `latest`, an RFC 3339 time or
    /// `partition:offset`, and `cursor`, where given, continues an earlier read instead. Waits up to
    /// `wait` for a first message; answers at most `limit` (1 to 10,000).
    pub async fn read(
        &self,
        topic: &str,
        start: &str,
        cursor: Option<&str>,
        limit: u32,
        wait: Duration,
    ) -> Result<Page> {
        let name = TopicName::new(topic)?;
        let request = v1::ReadRequest {
            topic: topic.to_owned(),
            from: if cursor.is_some() { String::new() } else { start.to_owned() },
            cursor: cursor.unwrap_or_default().to_owned(),
            limit,
            wait_ms: wait.as_millis().min(60_000) as u32,
        };
        let answer = self
            .call("read", wait, |channel, left| {
                let request = timed(request.clone(), left);
                async move {
                    let mut client = SubscriberClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
                    client.read(request).await
                }
            })
            .await?;
        let messages = answer.messages.into_iter().map(|message| wire::stored(&name, message).0).collect();
        Ok(Page { messages, cursor: answer.cursor })
    }

    /// Calls until something final is known or the client's timeout is over. `wait` is how long the
    /// node itself may park the call.
    pub(crate) async fn call<T, F, Fut>(&self, what: &str, wait: Duration, attempt: F) -> Result<T>
    where
        F: Fn(Channel, Duration) -> Fut,
        Fut: Future<Output = std::result::Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + self.config.timeout + wait;
        self.call_until(what, deadline, self.config.attempt_timeout + wait, attempt).await
    }

    async fn call_until<T, F, Fut>(&self, what: &str, deadline: Instant, longest: Duration, attempt: F) -> Result<T>
    where
        F: Fn(Channel, Duration) -> Fut,
        Fut: Future<Output = std::result::Result<Response<T>, Status>>,
    {
        let mut backoff = Backoff::default();
        let mut outcome_unknown = false;
        loop {
            let node = self.endpoints.pick();
            let left = longest.min(deadline.saturating_duration_since(Instant::now()));
            let failure = match tokio::time::timeout(left, attempt(node.channel.clone(), left)).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => Failure::read(what, &node.url, &status),
                Err(_) => Failure::silent(what, &node.url),
            };
            if failure.moves {
                self.endpoints.moved(&node);
            }
            outcome_unknown |= failure.outcome_unknown;
            let pause = backoff.after(&failure, self.endpoints.count());
            if !failure.is_retryable() || Instant::now() + pause >= deadline {
                return Err(finally(failure.error, outcome_unknown));
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// "Not stored" may only be said if no attempt can have stored anything.
fn finally(error: Error, outcome_unknown: bool) -> Error {
    match error.code {
        Code::Unavailable | Code::Throttled if outcome_unknown => Error { code: Code::Deadline, ..error },
        _ => error,
    }
}

fn with_id(message: Message) -> v1::Message {
    let mut message = wire::message(message);
    if message.id.is_empty() {
        message.id = wire::fresh_id();
    }
    message
}

/// A request that tells the node how long the caller will wait.
pub(crate) fn timed<T>(message: T, left: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(left);
    request
}
