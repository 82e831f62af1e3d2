//! One query: a lookup, what it is for, and what it has heard so far.

use std::time::Duration;

use gem_types::Prefix;

use super::super::buckets::{Contact, K};
use super::super::key::Key;
use super::super::lookup::Lookup;
use super::super::message::Body;
use super::super::record::Record;
use super::super::search::{Search, Step};
use super::{Action, Kademlia, QUERIES_MAX, QueryId};

/// After so many nodes have sent a record, it is not looked for any further.
const RECORDS_ENOUGH: usize = 3;

pub(super) enum Wish {
    /// Only to look over contacts; after the first, all of this depth.
    Refresh {
        is_first: bool,
    },
    Nodes,
    Get(Prefix),
    Search(Search),
    Publish(Record),
}

pub(super) struct Query {
    wish: Wish,
    pub(super) lookup: Lookup,
    /// The newest record heard of, how many nodes had one, and the nearest that had none.
    best: Option<Record>,
    heard: usize,
    without: Option<Contact>,
}

impl Kademlia {
    pub(super) fn query(&mut self, key: Key, wish: Wish, now: Duration) -> Option<QueryId> {
        if self.queries.len() >= QUERIES_MAX {
            return None;
        }
        self.queries_made += 1;
        let id = self.queries_made;
        self.start(id, key, wish, now);
        Some(id)
    }

    pub(super) fn start(&mut self, id: QueryId, key: Key, wish: Wish, now: Duration) {
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
    pub(super) fn proceed(&mut self, id: QueryId, now: Duration, change: impl FnOnce(&mut Query)) {
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

    pub(super) fn end(&mut self, id: QueryId, query: Query, now: Duration) {
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
    pub(super) fn store(&mut self, record: &Record, nearest: Vec<Contact>, now: Duration) {
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

    pub(super) fn answer(
        &mut self,
        from: Contact,
        call: u64,
        record: Option<Option<Record>>,
        nodes: Vec<Contact>,
        now: Duration,
    ) {
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
