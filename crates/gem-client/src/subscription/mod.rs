//! Subscriptions: a stream of messages that comes back by itself.
//!
//! A groupless subscription continues after a broken connection where it was, without a gap and
//! without a repeat. In a group, what was leased through the broken stream is delivered again, to
//! this member or another, and what of it waits here unread is dropped.

mod delivery;
mod driver;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gem_proto::v1;
use gem_types::{Result, TopicName};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::client::Client;
pub use delivery::{Delivery, Settled, Settler};
use driver::{Command, Event};

/// Commands on their way to the driver; more wait.
const COMMANDS_MAX: usize = 1024;
/// Batches between driver and reader; more wait in the driver, bounded by the credit.
const EVENTS_MAX: usize = 16;

/// How a group's members share its messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Any member gets any message.
    #[default]
    Shared,
    /// No message of a key while an earlier one of it is out.
    Key,
}

impl Mode {
    pub(crate) fn read(mode: i32) -> Mode {
        if mode == v1::Mode::Key as i32 { Mode::Key } else { Mode::Shared }
    }

    fn out(mode: Option<Mode>) -> v1::Mode {
        match mode {
            None => v1::Mode::Unspecified,
            Some(Mode::Shared) => v1::Mode::Shared,
            Some(Mode::Key) => v1::Mode::Key,
        }
    }
}

/// What a subscription wants.
#[derive(Clone, Debug)]
pub struct SubscribeOptions {
    /// The group; `None`: a groupless reader, to whom everything goes.
    pub group: Option<String>,
    /// The member's name; `None` lets the node make one.
    pub consumer: Option<String>,
    /// The group's mode, where this subscription makes the group; an existing group's must be the same.
    pub mode: Option<Mode>,
    /// Where reading starts: `earliest`, `latest`, an RFC 3339 time or `partition:offset`. `None`:
    /// `latest` without a group, `earliest` for a new group. An existing group ignores it.
    pub from: Option<String>,
    /// Continues after what this cursor covers; groupless only, excludes `from`.
    pub cursor: Option<String>,
    /// The most messages held here, unread or (in a group) on their way. 1,000.
    pub credit: u32,
}

impl Default for SubscribeOptions {
    fn default() -> Self {
        SubscribeOptions { group: None, consumer: None, mode: None, from: None, cursor: None, credit: 1000 }
    }
}

impl SubscribeOptions {
    /// A member of `group`.
    pub fn group(group: &str) -> Self {
        SubscribeOptions { group: Some(group.to_owned()), ..Default::default() }
    }

    /// A groupless reader that starts at `from`.
    pub fn from(from: &str) -> Self {
        SubscribeOptions { from: Some(from.to_owned()), ..Default::default() }
    }
}

/// A stream of messages. Dropping it closes the stream; in a group, that frees its leases at once.
#[derive(Debug)]
pub struct Subscription {
    events: mpsc::Receiver<Event>,
    commands: mpsc::Sender<Command>,
    /// Messages handed over by the driver and not read yet, all of one stream.
    ready: VecDeque<Delivery>,
    cursor: Option<String>,
    /// Which stream `ready` came through, and which one is open now.
    epoch: u64,
    current: Arc<AtomicU64>,
    grouped: bool,
    /// Read since credit was last given back.
    taken: u32,
    give_back_at: u32,
    /// Owns the driver: its end ends it.
    _driver: JoinSet<()>,
}

impl Subscription {
    pub(crate) fn start(client: Client, topic: TopicName, options: SubscribeOptions) -> Result<Subscription> {
        let options = SubscribeOptions { credit: options.credit.max(1), ..options };
        let (events_in, events) = mpsc::channel(EVENTS_MAX);
        let (commands, commands_out) = mpsc::channel(COMMANDS_MAX);
        let current = Arc::new(AtomicU64::new(0));
        let grouped = options.group.is_some();
        let give_back_at = (options.credit / 4).max(1);
        let settler = Settler::new(commands.clone());
        let driver = driver::Driver::new(client, topic, options, current.clone(), settler, commands_out, events_in);
        let mut tasks = JoinSet::new();
        tasks.spawn(driver.run());
        Ok(Subscription {
            events,
            commands,
            ready: VecDeque::new(),
            cursor: None,
            epoch: 0,
            current,
            grouped,
            taken: 0,
            give_back_at,
            _driver: tasks,
        })
    }

    /// The next message; `None` once the subscription has ended, which only an error does. May be
    /// cancelled without losing a message.
    pub async fn next(&mut self) -> Option<Result<Delivery>> {
        loop {
            if self.is_stale() {
                self.ready.clear();
            }
            if let Some(delivery) = self.ready.pop_front() {
                self.give_back(1);
                return Some(Ok(delivery));
            }
            if let Err(error) = self.receive().await? {
                return Some(Err(error));
            }
        }
    }

    /// All messages that have arrived, at least one; `None` as for [`Subscription::next`].
    pub async fn next_batch(&mut self) -> Option<Result<Vec<Delivery>>> {
        loop {
            if self.is_stale() {
                self.ready.clear();
            }
            if !self.ready.is_empty() {
                let batch: Vec<Delivery> = self.ready.drain(..).collect();
                self.give_back(batch.len() as u32);
                return Some(Ok(batch));
            }
            if let Err(error) = self.receive().await? {
                return Some(Err(error));
            }
        }
    }

    /// Groupless: continues after all batches that were read from completely or in part.
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// Settles tokens without holding the deliveries.
    pub fn settler(&self) -> Settler {
        Settler::new(self.commands.clone())
    }

    /// Settles what is still on its way, then closes the stream.
    pub async fn close(self) {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        if self.commands.send(Command::Close(sender)).await.is_ok() {
            // Where the driver ended first, everything is closed already.
            let _ = receiver.await;
        }
    }

    async fn receive(&mut self) -> Option<Result<()>> {
        match self.events.recv().await? {
            Event::Batch { epoch, deliveries, cursor } => {
                if epoch != self.epoch {
                    self.epoch = epoch;
                    self.taken = 0;
                }
                self.ready.extend(deliveries);
                self.cursor = cursor.or_else(|| self.cursor.take());
                Some(Ok(()))
            }
            Event::Failed(error) => Some(Err(error)),
        }
    }

    /// In a group, what came through an earlier stream is no longer leased to this member.
    fn is_stale(&self) -> bool {
        self.grouped && self.epoch != self.current.load(Ordering::Relaxed)
    }

    fn give_back(&mut self, count: u32) {
        self.taken += count;
        if self.taken < self.give_back_at {
            return;
        }
        let credit = Command::Credit { epoch: self.epoch, messages: self.taken };
        // While the queue is full the credit waits here; the next read tries again.
        if self.commands.try_send(credit).is_ok() {
            self.taken = 0;
        }
    }
}
