//! Pulling and settling without a stream: for members that come and go.

use std::time::Duration;

use gem_proto::v1;
use gem_proto::v1::subscriber_client::SubscriberClient;
use gem_types::{Result, TopicName};

use crate::client::{ANSWER_BYTES_MAX, Client, timed};
use crate::subscription::{Delivery, Settled};
use crate::wire;

/// One member's call: the method's name is the request's.
macro_rules! member {
    ($client:expr, $what:expr, $wait:expr, $method:ident, $request:expr) => {{
        let request = $request;
        $client
            .call($what, $wait, |channel, left| {
                let request = timed(request.clone(), left);
                async move {
                    SubscriberClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX).$method(request).await
                }
            })
            .await
    }};
}

const AT_ONCE: Duration = Duration::ZERO;

impl Client {
    /// Pulls at most `max` messages for one member, without a stream; makes the group.
    pub async fn pull(
        &self,
        topic: &str,
        group: &str,
        consumer: &str,
        max: u32,
        wait: Duration,
    ) -> Result<Vec<Delivery>> {
        let name = TopicName::new(topic)?;
        let request = v1::PullRequest {
            topic: topic.to_owned(),
            group: group.to_owned(),
            consumer: consumer.to_owned(),
            max,
            wait_ms: Some(wait.as_millis().min(60_000) as u32),
            ..Default::default()
        };
        let answer = member!(self, "pull", wait, pull, request)?;
        Ok(answer.messages.into_iter().map(|message| Delivery::detached(wire::stored(&name, message))).collect())
    }

    /// Acks tokens of a group without a stream; one answer each, in order.
    pub async fn ack(&self, topic: &str, group: &str, tokens: Vec<String>) -> Result<Vec<Settled>> {
        self.settle(topic, group, v1::SettleRequest { ack: tokens, ..Default::default() }).await
    }

    /// Nacks tokens of a group without a stream: they are delivered again after `delay`.
    pub async fn nack(&self, topic: &str, group: &str, tokens: Vec<String>, delay: Duration) -> Result<Vec<Settled>> {
        let nack_delay_ms = delay.as_millis() as u64;
        self.settle(topic, group, v1::SettleRequest { nack: tokens, nack_delay_ms, ..Default::default() }).await
    }

    /// Leases what the tokens name until `by` from now.
    pub async fn extend(&self, topic: &str, group: &str, tokens: Vec<String>, by: Duration) -> Result<Vec<Settled>> {
        let extend_by_ms = by.as_millis() as u64;
        self.settle(topic, group, v1::SettleRequest { extend: tokens, extend_by_ms, ..Default::default() }).await
    }

    async fn settle(&self, topic: &str, group: &str, request: v1::SettleRequest) -> Result<Vec<Settled>> {
        let request = v1::SettleRequest { topic: topic.to_owned(), group: group.to_owned(), ..request };
        let answer = member!(self, "settle", AT_ONCE, settle, request)?;
        Ok(answer.settlements.iter().map(|settlement| Settled::parse(&settlement.status)).collect())
    }

    /// Extends all that `consumer` holds by the topic's ack timeout; answers how many.
    pub async fn heartbeat(&self, topic: &str, group: &str, consumer: &str) -> Result<u64> {
        let request =
            v1::HeartbeatRequest { topic: topic.to_owned(), group: group.to_owned(), consumer: consumer.to_owned() };
        Ok(member!(self, "heartbeat", AT_ONCE, heartbeat, request)?.leases)
    }
}
