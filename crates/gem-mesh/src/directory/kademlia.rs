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
use super::lookup::Lookup;
use super::message::{Body, Message};
use super::record::Record;
use super::records::{RECORDS_MAX, Records};
use super::search::{Search, Step};

/// The most queries at once; beyond, they are refused.
pub const QUERIES_MAX: usize = 1024;
/// After so many nodes have sent a record, it is not looked for any further.
const RECORDS_ENOUGH: usize = 3;

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

enum Wish {
    /// Only to look over contacts; after the first, all of this depth.
    Refresh {
        is_first: bool,
    },
    Nodes,
    Get(Prefix),
    Search(Search),
    Publish(Record),
}

struct Query {
    wish: Wish,
    lookup: Lookup,
    /// The newest record heard of, how many nodes had one, and the nearest that had none.
    best: Option<Record>,
    heard: usize,
    without: Option<Contact>,
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

    /// Stands for `record`: stores it with the nodes nearest to its key, now and again until it is
    /// withdrawn. For a shard, publish all of [`Record::of_shard`].
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

    fn query(&mut self, key: Key, wish: Wish, now: Duration) -> Option<QueryId> {
        if self.queries.len() >= QUERIES_MAX {
            return None;
        }
        self.queries_made += 1;
        let id = self.queries_made;
        self.start(id, key, wish, now);
        Some(id)
    }

    fn start(&mut self, id: QueryId, key: Key, wish: Wish, now: Duration) {
        let prefix = match &wish {
            Wish::Get(prefix) => Some(*prefix),
            Wish::Search(search) => match search.step() {
                Step::Get(prefix) => Some(prefix),
                _ => None,
            },
            Wish::Refresh { .. } | Wish::Nodes | Wish::Publish(_) => None,
        };
        let best = prefix.and_then(|prefix| self.records.get(prefix, now)).cloned();
        let heard = usize::from(best.is_some());
        let lookup = Lookup::new(key, self.me.node, self.buckets.closest(&key, K));
        self.queries.insert(id, Query { wish, lookup, best, heard, without: None });
        self.proceed(id, now, |_| {});
    }

    /// Lets `change` happen to a query, then asks whom it wants to ask, or ends it.
    fn proceed(&mut self, id: QueryId, now: Duration, change: impl FnOnce(&mut Query)) {
        let Some(query) = self.queries.get_mut(&id) else { return };
        change(query);
        let is_done = query.lookup.is_done() || query.heard >= RECORDS_ENOUGH;
        if is_done {
            if let Some(query) = self.queries.remove(&id) {
                self.end(id, query, now);
            }
            return;
        }
        while let Some(query) = self.queries.get_mut(&id) {
            let Some(to) = query.lookup.next() else { break };
            let body = match &query.wish {
                Wish::Get(prefix) => Body::FindRecord(*prefix),
                Wish::Search(search) => match search.step() {
                    Step::Get(prefix) => Body::FindRecord(prefix),
                    _ => break,
                },
                Wish::Refresh { .. } | Wish::Nodes | Wish::Publish(_) => Body::FindNode(query.lookup.target()),
            };
            self.call(to, Some(id), body, now);
        }
    }

    fn end(&mut self, id: QueryId, query: Query, now: Duration) {
        // A get that went past a node without the record leaves it there, as section 2.3 has it.
        if let (Some(best), Some(without)) = (&query.best, query.without) {
            self.call(without, None, Body::Store(best.clone()), now);
        }
        match query.wish {
            Wish::Nodes => self.actions.push(Action::Nodes(id, query.lookup.closest())),
            Wish::Get(_) => self.actions.push(Action::Got(id, query.best)),
            Wish::Search(mut search) => match search.heard(query.best.as_ref()) {
                Step::Get(prefix) => self.start(id, Key::of_prefix(self.mesh, prefix), Wish::Search(search), now),
                Step::Found(shard) => self.actions.push(Action::Found(id, search.position(), Some(shard))),
                Step::Lost => self.actions.push(Action::Found(id, search.position(), None)),
            },
            Wish::Publish(record) => self.store(&record, query.lookup.closest(), now),
            Wish::Refresh { is_first: true } => {
                for index in 0..=self.buckets.deepest().unwrap_or(0) {
                    self.refresh(index, now);
                }
            }
            Wish::Refresh { is_first: false } => {}
        }
    }

    /// Stores `record` with the `nearest`, of whom this node may be one.
    fn store(&mut self, record: &Record, nearest: Vec<Contact>, now: Duration) {
        let key = Key::of_prefix(self.mesh, record.prefix());
        let own = self.me.key().distance(&key);
        let is_near = nearest.len() < K || nearest.last().is_some_and(|c| c.key().distance(&key) > own);
        if is_near {
            self.records.put(record.clone(), now + self.settings.expire_after);
        }
        for contact in nearest.into_iter().take(K - usize::from(is_near)) {
            self.call(contact, None, Body::Store(record.clone()), now);
        }
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

    fn answer(&mut self, from: Contact, call: u64, record: Option<Option<Record>>, nodes: Vec<Contact>, now: Duration) {
        // Only from whom it was asked.
        if self.calls.get(&call).is_none_or(|c| c.to.node != from.node) {
            return;
        }
        let Some(id) = self.end_call(call).and_then(|c| c.query) else { return };
        self.proceed(id, now, |query| {
            match record {
                Some(Some(record)) if query.is_about(&record) => {
                    query.heard += 1;
                    if query.best.as_ref().is_none_or(|best| record.is_newer_than(best)) {
                        query.best = Some(record);
                    }
                }
                Some(_) => query.nearest_without(from),
                None => {}
            }
            query.lookup.answered(from.node, nodes);
        });
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

impl Query {
    fn is_about(&self, record: &Record) -> bool {
        let wanted = match &self.wish {
            Wish::Get(prefix) => Some(*prefix),
            Wish::Search(search) => match search.step() {
                Step::Get(prefix) => Some(prefix),
                _ => None,
            },
            Wish::Refresh { .. } | Wish::Nodes | Wish::Publish(_) => None,
        };
        wanted == Some(record.prefix())
    }

    fn nearest_without(&mut self, contact: Contact) {
        let distance = |c: &Contact| c.key().distance(&self.lookup.target());
        if self.without.as_ref().is_none_or(|other| distance(other) > distance(&contact)) {
            self.without = Some(contact);
        }
    }
}

#[cfg(test)]
#[path = "kademlia_tests.rs"]
mod tests;
