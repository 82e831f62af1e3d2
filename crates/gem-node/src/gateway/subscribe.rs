//! Streams of messages to one reader, within its credit.
//!
//! One task a stream: it hears the client, pulls while there is credit, and hands out through a
//! bounded channel. A reader that does not read fills that channel and so slows its own stream
//! alone; what it says (acks, extends) is heard meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesOrdered, Stream, StreamExt};
use gem_shard::log::{Settles, Status};
use gem_types::{Error, Result, TopicName};
use tokio::sync::mpsc;

use super::Gateway;
use super::admission::Admitted;
use super::cursor::Cursor;
use super::groups::Want;
use super::read::Item;

/// How long one pull waits for a message before the next one shows that the member lives.
const PULL_WAIT: Duration = Duration::from_secs(10);
/// The most messages of one pull.
pub const PULL_MAX: usize = 4096;
/// About the bytes of a pull where little waits. What a pull finds takes memory only once it is
/// there, and then all who wait may find much at once: so they begin small.
pub const PULL_LEAST: usize = 128 << 10;
/// About the most bytes of one pull, reached by doubling while more waits than a pull brings, and
/// left by halving.
const PULL_MOST: usize = 2 << 20;
/// One pull takes at most this part of the memory left for answers: what it finds is in memory
/// twice for a while, as batches and as an answer, and a small node has many streams too.
const SHARE: usize = 32;
/// About the most bytes of one answer: clients take 4 MiB by default, and a message may have one.
const ANSWER_BYTES: usize = 2 << 20;
/// Settlements on their way, and answers not yet taken, before the client is no longer heard.
const BACKLOG_MAX: usize = 64;

/// What a client says on a stream.
#[derive(Debug)]
pub enum Up {
    /// Ready for so many messages more.
    Credit(u32),
    /// Settles tokens.
    Settle {
        /// Echoed.
        reference: u64,
        /// The tokens, and what to do with each.
        verbs: Settles,
    },
}

/// What a client hears on a stream.
#[derive(Debug)]
pub enum Down {
    /// Messages.
    Items {
        /// They.
        items: Vec<Item>,
        /// Without a group: where to go on after them.
        cursor: Option<String>,
        /// Their room in the memory budget, to be held until the client has taken them.
        charge: Admitted,
    },
    /// What became of tokens.
    Settled {
        /// Of which request.
        reference: u64,
        /// The tokens, as they were shown.
        verbs: Settles,
        /// What became of each.
        statuses: Vec<Status>,
    },
}

/// From where a stream's messages come.
#[derive(Debug)]
pub enum Source {
    /// A group.
    Group(Want),
    /// No group: everything from the cursor on.
    Reader(TopicName, Cursor),
}

type Pulled = (Option<Cursor>, Result<Vec<Item>>);

struct Driver {
    gateway: Arc<Gateway>,
    source: Source,
    credit: usize,
    /// About the bytes of the next pull.
    pull_bytes: usize,
    /// The messages that the last one asked for.
    asked: usize,
    pulling: Option<BoxFuture<'static, Pulled>>,
    settling: FuturesOrdered<BoxFuture<'static, Result<Down>>>,
    ready: VecDeque<Result<Down>>,
    items_ready: usize,
    /// The client says no more; `ended`: nor do we, once what is ready is taken.
    silent: bool,
    ended: bool,
}

impl Gateway {
    /// Runs a stream until either side ends it, on the gateway's tasks. `first` was pulled already
    /// and counts against `credit`; `downs` is what the client reads.
    pub fn stream<S>(
        self: &Arc<Self>,
        source: Source,
        first: Vec<Item>,
        credit: u32,
        ups: S,
        downs: mpsc::Sender<Result<Down>>,
    ) where
        S: Stream<Item = Result<Up>> + Send + Unpin + 'static,
    {
        let mut driver = Driver {
            gateway: self.clone(),
            source,
            credit: credit as usize,
            pull_bytes: PULL_LEAST,
            asked: 0,
            pulling: None,
            settling: FuturesOrdered::new(),
            ready: VecDeque::new(),
            items_ready: 0,
            silent: false,
            ended: false,
        };
        driver.take((None, Ok(first)));
        self.tasks.spawn(driver.run(ups, downs));
    }
}

impl Driver {
    async fn run<S: Stream<Item = Result<Up>> + Send + Unpin>(mut self, mut ups: S, downs: mpsc::Sender<Result<Down>>) {
        let draining = self.gateway.draining.clone();
        loop {
            self.pull_if_wanted();
            if self.is_over() {
                break;
            }
            let hears = !self.silent && !self.ended && self.settling.len() + self.ready.len() < BACKLOG_MAX;
            tokio::select! {
                up = ups.next(), if hears => self.hear(up),
                Some(settled) = self.settling.next(), if !self.settling.is_empty() => self.ready.push_back(settled),
                pulled = pulled(&mut self.pulling), if self.pulling.is_some() => self.take(pulled),
                permit = downs.reserve(), if !self.ready.is_empty() => {
                    let Ok(permit) = permit else { break };
                    if let Some(down) = self.ready.pop_front() {
                        self.items_ready -= usize::from(matches!(down, Ok(Down::Items { .. })));
                        permit.send(down);
                    }
                }
                () = draining.cancelled(), if !self.ended => {
                    self.fail(Error::unavailable("this node is stopping: subscribe again, to another one", 100));
                }
                () = downs.closed() => break,
            }
        }
        drop(self.pulling.take());
        if let Source::Group(want) = &self.source {
            self.gateway.close_stream(want).await;
        }
    }

    fn is_over(&self) -> bool {
        let nothing_left = self.ready.is_empty() && self.settling.is_empty();
        nothing_left && (self.ended || self.silent && self.credit == 0 && self.pulling.is_none())
    }

    fn fail(&mut self, error: Error) {
        self.ended = true;
        self.ready.push_back(Err(error));
    }

    fn pull_if_wanted(&mut self) {
        if self.pulling.is_some() || self.ended || self.credit == 0 || self.items_ready > 0 {
            return;
        }
        let (gateway, max) = (self.gateway.clone(), self.credit.min(PULL_MAX));
        self.asked = max;
        let bytes = self.pull_bytes.min(gateway.admission.left_for_answers() / SHARE).max(PULL_LEAST);
        self.pulling = Some(match &self.source {
            Source::Group(want) => {
                let want = want.clone();
                async move { (None, gateway.pull(&want, max, bytes, PULL_WAIT).await) }.boxed()
            }
            Source::Reader(topic, cursor) => {
                let (topic, mut cursor) = (topic.clone(), cursor.clone());
                async move {
                    let read = match gateway.topic(&topic).await {
                        Ok(topic) => gateway.read(&topic, &mut cursor, max, bytes, PULL_WAIT).await,
                        Err(error) => Err(error),
                    };
                    (Some(cursor), read)
                }
                .boxed()
            }
        });
    }

    fn take(&mut self, (moved, items): Pulled) {
        self.pulling = None;
        let items = match items {
            Ok(items) => items,
            Err(error) => return self.fail(error),
        };
        let bytes: usize = items.iter().map(Item::bytes).sum();
        let more_waits = bytes >= self.pull_bytes / 2 || items.len() >= self.asked;
        let next = if more_waits { 2 * self.pull_bytes } else { self.pull_bytes / 2 };
        self.pull_bytes = next.clamp(PULL_LEAST, PULL_MOST);
        self.credit = self.credit.saturating_sub(items.len());
        match (&mut self.source, moved) {
            (Source::Reader(topic, cursor), Some(moved)) => {
                let mut chunks = chunks(items).into_iter().peekable();
                while let Some(chunk) = chunks.next() {
                    if let Some(last) = chunk.last() {
                        cursor.advance(last.partition, last.record.offset() + 1);
                    }
                    let at = if chunks.peek().is_some() { &*cursor } else { &moved };
                    let cursor = Some(at.encode(topic));
                    let charge = self.gateway.admission.answer(chunk.iter().map(Item::bytes).sum());
                    self.items_ready += 1;
                    self.ready.push_back(Ok(Down::Items { items: chunk, cursor, charge }));
                }
                *cursor = moved;
            }
            _ => {
                for items in chunks(items) {
                    let charge = self.gateway.admission.answer(items.iter().map(Item::bytes).sum());
                    self.items_ready += 1;
                    self.ready.push_back(Ok(Down::Items { items, cursor: None, charge }));
                }
            }
        }
    }

    fn hear(&mut self, up: Option<Result<Up>>) {
        match up {
            None => self.silent = true,
            // The client broke off: nobody is left to tell.
            Some(Err(error)) => self.fail(error),
            Some(Ok(Up::Credit(more))) => self.credit = self.credit.saturating_add(more as usize),
            Some(Ok(Up::Settle { reference, verbs })) => match &self.source {
                Source::Group(want) => {
                    let (gateway, want) = (self.gateway.clone(), want.clone());
                    self.settling.push_back(settle(gateway, want, reference, verbs).boxed());
                }
                Source::Reader(..) => {
                    self.fail(Error::invalid("a reader without a group has nothing to settle: subscribe with a group"));
                }
            },
        }
    }
}

/// Cuts what was pulled into answers. All of it is mostly one answer, and stays where it is.
fn chunks(mut items: Vec<Item>) -> Vec<Vec<Item>> {
    let mut cuts = Vec::new();
    let mut bytes = 0;
    for (index, item) in items.iter().enumerate() {
        if index > 0 && bytes + item.bytes() > ANSWER_BYTES {
            cuts.push(index);
            bytes = 0;
        }
        bytes += item.bytes();
    }
    let mut chunks: Vec<_> = cuts.into_iter().rev().map(|at| items.split_off(at)).collect();
    if !items.is_empty() {
        chunks.push(items);
    }
    chunks.reverse();
    chunks
}

async fn settle(gateway: Arc<Gateway>, want: Want, reference: u64, verbs: Settles) -> Result<Down> {
    let statuses = gateway.settle(&want.topic, &want.group, verbs.clone()).await?;
    Ok(Down::Settled { reference, verbs, statuses })
}

async fn pulled(pulling: &mut Option<BoxFuture<'static, Pulled>>) -> Pulled {
    match pulling {
        Some(pulling) => pulling.await,
        None => std::future::pending().await,
    }
}
