//! A message that was handed out, and how to settle it.

use std::time::Duration;

use gem_types::message::StoredMessage;
use gem_types::{Error, Result};
use tokio::sync::{mpsc, oneshot};

use super::driver::{Command, Verb};

/// A message as a subscriber gets it.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The message and its place.
    pub message: StoredMessage,
    /// How often it was handed out, this time included; 0 without a group.
    pub delivery: u32,
    /// Settles it; empty without a group.
    pub token: String,
    settler: Option<Settler>,
}

/// What became of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Acked, now or before.
    Acked,
    /// To be delivered again.
    Nacked,
    /// Leased for longer.
    Extended,
    /// The lease had ended: the message may be with another.
    Expired,
    /// Not a token of this topic and group.
    Unknown,
}

impl Settled {
    pub(crate) fn parse(status: &str) -> Settled {
        match status {
            "acked" => Settled::Acked,
            "nacked" => Settled::Nacked,
            "extended" => Settled::Extended,
            "expired" => Settled::Expired,
            _ => Settled::Unknown,
        }
    }
}

impl Delivery {
    pub(crate) fn attached((message, delivery, token): (StoredMessage, u32, String), settler: Option<Settler>) -> Self {
        Delivery { message, delivery, token, settler }
    }

    /// A delivery that came without a stream: settled through [`crate::Client::ack`] and its like.
    pub(crate) fn detached(parts: (StoredMessage, u32, String)) -> Self {
        Delivery::attached(parts, None)
    }

    /// Done; answers once that is durable.
    pub async fn ack(&self) -> Result<Settled> {
        self.settle(Verb::Ack).await
    }

    /// Not done: to be delivered again after `delay`.
    pub async fn nack(&self, delay: Duration) -> Result<Settled> {
        self.settle(Verb::Nack { delay_ms: delay.as_millis() as u64 }).await
    }

    /// Leases the message until `by` from now.
    pub async fn extend(&self, by: Duration) -> Result<Settled> {
        self.settle(Verb::Extend { by_ms: by.as_millis() as u64 }).await
    }

    async fn settle(&self, verb: Verb) -> Result<Settled> {
        let settler = self.settler.as_ref().ok_or_else(|| {
            Error::invalid("this message did not come through a group's stream: settle its token through the client")
        })?;
        let settled = settler.settle(vec![self.token.clone()], verb).await?;
        settled.first().copied().ok_or_else(|| Error::internal("the node answered without a status"))
    }
}

/// Settles tokens of one subscription.
#[derive(Clone, Debug)]
pub struct Settler {
    commands: mpsc::Sender<Command>,
}

impl Settler {
    pub(super) fn new(commands: mpsc::Sender<Command>) -> Self {
        Settler { commands }
    }

    /// Acks tokens together; one status each, in order, once that is durable.
    pub async fn ack(&self, tokens: Vec<String>) -> Result<Vec<Settled>> {
        self.settle(tokens, Verb::Ack).await
    }

    /// Nacks tokens together: they are delivered again after `delay`.
    pub async fn nack(&self, tokens: Vec<String>, delay: Duration) -> Result<Vec<Settled>> {
        self.settle(tokens, Verb::Nack { delay_ms: delay.as_millis() as u64 }).await
    }

    /// Leases what the tokens name until `by` from now.
    pub async fn extend(&self, tokens: Vec<String>, by: Duration) -> Result<Vec<Settled>> {
        self.settle(tokens, Verb::Extend { by_ms: by.as_millis() as u64 }).await
    }

    async fn settle(&self, tokens: Vec<String>, verb: Verb) -> Result<Vec<Settled>> {
        let closed = || Error::unavailable("the subscription is closed: its leases are free, subscribe again", 0);
        let (done, settled) = oneshot::channel();
        self.commands.send(Command::Settle { verb, tokens, done }).await.map_err(|_| closed())?;
        settled.await.map_err(|_| closed())
    }
}
