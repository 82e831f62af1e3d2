//! The DHT of descriptors: Kademlia (Maymounkov and Mazières, IPTPS 2002) as a state machine.
//!
//! What it is: contacts in k-buckets, lookups, and records under the keys of prefixes. Messages and
//! time go in, [`Action`]s come out; the owner calls [`Kademlia::tick`] when
//! [`Kademlia::next_timer`] is due, and takes the actions after every call.
//!
//! What it is not: a source of truth. A record may be old or missing; whoever follows it is told.
//!
//! Invariants:
//! - Same calls, same actions: chance comes from the seed, order from ordered maps.
//! - Every call is answered or given up after [`Settings::call_wait`]; calls, queries, contacts and
//!   records are bounded.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use gem_types::{MeshId, NodeId, Position, Prefix};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::Descriptor;
use super::buckets::{Buckets, Contact, K};
use super::key::Key;
use super::message::{Body, Message};
use super::record::Record;
use super::records::{RECORDS_MAX, Records};
use super::search::{Search, Step};

/// The most queries at once; beyond, they are refused.
pub const QUERIES_MAX: usize = 1024;
/// Periods of the DHT.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long an answer is waited for.
    pub call_wait: Duration,
    /// How long a record is held that is not published again.
    pub expire_after: Duration,
    /// How often a node publishes what it stands for; a fraction of `expire_after`.
    pub publish_period: Duration,
    /// How often a part of the contacts is looked over.
    pub refresh_period: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            call_wait: Duration::from_millis(800),
            expire_after: Duration::from_secs(3600),
            publish_period: Duration::from_secs(900),
            refresh_period: Duration::from_secs(300),
        }
    }
}

mod query;

use query::{Query, Wish};

/// Names a query.
pub type QueryId = u64;

/// What the owner is to do, or to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send `bytes` to `to`, if it can be reached; may be lost.
    Send {
        /// Whom it is for, and where it can be reached.
        to: Contact,
        /// For its [`Kademlia::hear`].
        bytes: Bytes,
    },
    /// What [`Kademlia::find_nodes`] found: the nearest that live, nearest first.
    Nodes(QueryId, Vec<Contact>),
    /// What [`Kademlia::get`] found.
    Got(QueryId, Option<Record>),
    /// What [`Kademlia::search`] found for the position.
    Found(QueryId, Position, Option<Descriptor>),
}

struct Call {
    to: Contact,
    query: Option<QueryId>,
    until: Duration,
}

/// See the module.
pub struct Kademlia {
    me: Contact,
    mesh: MeshId,
    settings: Settings,
    random: Xoshiro256PlusPlus,
    buckets: Buckets,
    records: Records,
    /// What this node stands for, and when it says so next.
    published: BTreeMap<Prefix, (Record, Duration)>,
    publish_at: BTreeSet<(Duration, Prefix)>,
    calls: BTreeMap<u64, Call>,
    /// Calls in the order in which they are given up.
    call_order: BTreeSet<(Duration, u64)>,
    queries: BTreeMap<QueryId, Query>,
    queries_made: QueryId,
    refresh_at: Duration,
    actions: Vec<Action>,
}

impl Kademlia {
    /// A node that knows nobody yet.
    pub fn new(me: Contact, mesh: MeshId, settings: Settings, seed: u64, now: Duration) -> Self {
        Kademlia {
            me,
            mesh,
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            buckets: Buckets::new(me.key()),
            records: Records::new(mesh, me.key(), RECORDS_MAX),
            published: BTreeMap::new(),
            publish_at: BTreeSet::new(),
            calls: BTreeMap::new(),
            call_order: BTreeSet::new(),
            queries: BTreeMap::new(),
            queries_made: 0,
            refresh_at: now + settings.refresh_period,
            settings,
            actions: Vec::new(),
        }
    }

    /// Takes note of a node that lives, as membership says or as it showed itself.
    pub fn add(&mut self, contact: Contact, now: Duration) {
        if let Some(oldest) = self.buckets.seen(contact) {
            self.call(oldest, None, Body::Ping, now);
        }
    }

    /// Takes note that `node` is down.
    pub fn remove(&mut self, node: NodeId) {
        self.buckets.remove(node);
    }

    /// Fills the buckets: looks this node itself up, then a point of every bucket.
    pub fn bootstrap(&mut self, now: Duration) {
        self.query(self.me.key(), Wish::Refresh { is_first: true }, now);
    }

    /// Looks for the nodes nearest to `key`. `None`: too many queries are under way.
    pub fn find_nodes(&mut self, key: Key, now: Duration) -> Option<QueryId> {
        self.query(key, Wish::Nodes, now)
    }

    /// Looks for the record of `prefix`. `None`: too many queries are under way.
    pub fn get(&mut self, prefix: Prefix, now: Duration) -> Option<QueryId> {
        self.query(Key::of_prefix(self.mesh, prefix), Wish::Get(prefix), now)
    }

    /// Looks for the shard of `position`. `None`: too many queries are under way.
    pub fn search(&mut self, position: Position, now: Duration) -> Option<QueryId> {
        let search = Search::new(position);
        let Step::Get(prefix) = search.step() else { return None };
        self.query(Key::of_prefix(self.mesh, prefix), Wish::Search(search), now)
    }

    /// Stands for `shards`, those that this node leads, and for nothing else: publishes what is new
    /// of their records and of the markers above them, withdraws what no longer follows from them.
    pub fn stand_for<'a>(&mut self, shards: impl IntoIterator<Item = &'a Descriptor>, now: Duration) {
        let mut wanted = BTreeMap::<Prefix, Record>::new();
        for record in shards.into_iter().flat_map(Record::of_shard) {
            match wanted.get(&record.prefix()) {
                Some(other) if !record.is_newer_than(other) => {}
                _ => drop(wanted.insert(record.prefix(), record)),
            }
        }
        let over: Vec<Prefix> = self.published.keys().filter(|p| !wanted.contains_key(p)).copied().collect();
        over.into_iter().for_each(|prefix| self.withdraw(prefix));
        for (prefix, record) in wanted {
            if self.published.get(&prefix).is_none_or(|(known, _)| *known != record) {
                self.publish(record, now);
            }
        }
    }

    /// Stands for `record`: stores it with the nodes nearest to its key, now and again until it is
    /// withdrawn.
    pub fn publish(&mut self, record: Record, now: Duration) {
        let prefix = record.prefix();
        self.withdraw(prefix);
        self.published.insert(prefix, (record, now));
        self.publish_at.insert((now, prefix));
        self.publish_due(now);
    }

    /// No longer stands for the record of `prefix`; what others hold of it expires.
    pub fn withdraw(&mut self, prefix: Prefix) {
        if let Some((_, at)) = self.published.remove(&prefix) {
            self.publish_at.remove(&(at, prefix));
        }
    }

    /// A message of `from`, which is authenticated. What can't be read is dropped.
    pub fn hear(&mut self, from: NodeId, bytes: &[u8], now: Duration) {
        let Some(Message { control, call, body }) = Message::decode(bytes).filter(|_| from != self.me.node) else {
            return;
        };
        let from = Contact { node: from, control };
        self.add(from, now);
        match body {
            Body::Ping => self.send(from, call, Body::Pong),
            Body::FindNode(key) => {
                let nodes = self.nearest_for(&key, from.node);
                self.send(from, call, Body::Nodes(nodes));
            }
            Body::FindRecord(prefix) => {
                let nodes = self.nearest_for(&Key::of_prefix(self.mesh, prefix), from.node);
                let record = self.records.get(prefix, now).cloned();
                self.send(from, call, Body::Found { record, nodes });
            }
            Body::Store(record) => {
                self.records.put(record, now + self.settings.expire_after);
                self.send(from, call, Body::Pong);
            }
            Body::Pong => self.answer(from, call, None, vec![], now),
            Body::Nodes(nodes) => self.answer(from, call, None, nodes, now),
            Body::Found { record, nodes } => self.answer(from, call, Some(record), nodes, now),
        }
    }

    /// Does what is due at `now`.
    pub fn tick(&mut self, now: Duration) {
        while let Some((_, id)) = self.call_order.first().copied().filter(|(until, _)| *until <= now) {
            let Some(call) = self.end_call(id) else { continue };
            self.buckets.failed(call.to.node);
            if let Some(query) = call.query {
                self.proceed(query, now, |q| q.lookup.failed(call.to.node));
            }
        }
        self.publish_due(now);
        if self.refresh_at <= now {
            self.refresh_at = now + self.settings.refresh_period;
            self.records.expire(now);
            if let Some(deepest) = self.buckets.deepest() {
                let index = self.random.random_range(0..=deepest);
                self.refresh(index, now);
            }
        }
    }

    /// When [`Kademlia::tick`] has to be called next; earlier does no harm.
    pub fn next_timer(&self) -> Option<Duration> {
        let calls = self.call_order.first().map(|(until, _)| *until);
        let publish = self.publish_at.first().map(|(at, _)| *at);
        [calls, publish, Some(self.refresh_at)].into_iter().flatten().min()
    }

    /// What has come up since the last call. To be taken after every call of another function.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// How many nodes it knows.
    pub fn contacts(&self) -> usize {
        self.buckets.len()
    }

    /// How many records it holds for others.
    pub fn records(&self) -> usize {
        self.records.len()
    }

    fn publish_due(&mut self, now: Duration) {
        while let Some((at, prefix)) = self.publish_at.first().copied().filter(|(at, _)| *at <= now) {
            let Some((record, _)) = self.published.get(&prefix).cloned() else {
                self.publish_at.remove(&(at, prefix));
                continue;
            };
            // Where too many queries are under way, it is soon tried again.
            let key = Key::of_prefix(self.mesh, prefix);
            let is_under_way = self.query(key, Wish::Publish(record.clone()), now).is_some();
            let period = if is_under_way { self.settings.publish_period } else { self.settings.call_wait };
            let next = now + period.mul_f64(self.random.random_range(0.75..1.0));
            self.publish_at.remove(&(at, prefix));
            self.publish_at.insert((next, prefix));
            self.published.insert(prefix, (record, next));
        }
    }

    fn refresh(&mut self, index: u8, now: Duration) {
        let point = self.me.key().in_bucket(index, self.random.random());
        self.query(point, Wish::Refresh { is_first: false }, now);
    }

    fn nearest_for(&self, key: &Key, asking: NodeId) -> Vec<Contact> {
        let mut nodes = self.buckets.closest(key, K + 1);
        nodes.retain(|c| c.node != asking);
        nodes.truncate(K);
        nodes
    }

    fn call(&mut self, to: Contact, query: Option<QueryId>, body: Body, now: Duration) {
        let id = self.random.random();
        let until = now + self.settings.call_wait;
        self.calls.insert(id, Call { to, query, until });
        self.call_order.insert((until, id));
        self.send(to, id, body);
    }

    fn end_call(&mut self, id: u64) -> Option<Call> {
        let call = self.calls.remove(&id)?;
        self.call_order.remove(&(call.until, id));
        Some(call)
    }

    fn send(&mut self, to: Contact, call: u64, body: Body) {
        let control: SocketAddr = self.me.control;
        let bytes = Message { control, call, body }.encode().into();
        self.actions.push(Action::Send { to, bytes });
    }
}

#[cfg(test)]
#[path = "kademlia_tests.rs"]
mod tests;
