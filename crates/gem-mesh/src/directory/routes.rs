//! From a position to its shard: what the table knows, else whom to ask.
//!
//! What it is: the route cache, on top of [`Table`] and the DHT's search; the memory of a former
//! replica, which forwards to its successors; and the last resort, a question to members drawn at
//! random, which any of them answers that knows a shard there. Events and time go in, [`Action`]s
//! come out.
//!
//! What it is not: a promise that the shard found is the right one: whoever asks it is told.
//!
//! Invariants: a question ends after [`Settings::give_up_after`]; questions and memories are bounded.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use gem_types::{GroupId, NodeId, Position, Prefix};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use super::table::is_sound;
use super::{Descriptor, Table};

/// The first byte of every message: 3 in the upper half for routes, the version in the lower.
pub const VERSION: u8 = 0x31;
/// The most positions that are asked for at once; beyond, they are given up at once.
pub const QUESTIONS_MAX: usize = 1024;
/// The most former shards that are remembered.
pub const FORMER_MAX: usize = 4096;
/// The most descriptors of one answer.
const ANSWER_MAX: usize = 8;

/// Periods and bounds of routes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// After how long without an answer others are asked.
    pub ask_period: Duration,
    /// How many members are asked at a time.
    pub ask_count: usize,
    /// When a question is given up.
    pub give_up_after: Duration,
    /// How long a former replica forwards.
    pub former_for: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            ask_period: Duration::from_millis(500),
            ask_count: 3,
            give_up_after: Duration::from_secs(4),
            former_for: Duration::from_secs(24 * 3600),
        }
    }
}

/// The way to a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// This shard, as far as is known.
    Known(Descriptor),
    /// Not known: it is being asked for, and [`Action::Found`] or [`Action::Lost`] will follow.
    Asked,
}

/// What the owner is to do, or to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send `bytes` to `to`, if it can be reached; may be lost.
    Send {
        /// Whom it is for.
        to: NodeId,
        /// For its [`Routes::hear`].
        bytes: Bytes,
    },
    /// Search the DHT for the shard of this position, and [`Routes::learn`] what is found.
    Search(Position),
    /// A shard for a position that was asked for.
    Found(Position, Descriptor),
    /// Nobody knew it in time. Asking again starts anew.
    Lost(Position),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Message {
    /// Which shard holds this position?
    Ask(Position),
    /// Shards that hold it, or have come from the one that did.
    Tell(Vec<Descriptor>),
}

impl Message {
    fn encode(&self) -> Bytes {
        // Plain data into a growing buffer: postcard has no way to fail here.
        postcard::to_extend(self, vec![VERSION]).unwrap_or_default().into()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (message, rest) = postcard::take_from_bytes(bytes.strip_prefix(&[VERSION])?).ok()?;
        let is_sound = match &message {
            Message::Ask(_) => true,
            Message::Tell(shards) => shards.len() <= ANSWER_MAX && shards.iter().all(is_sound),
        };
        (is_sound && rest.is_empty()).then_some(message)
    }
}

#[derive(Debug)]
struct Question {
    until: Duration,
    ask_at: Duration,
    /// A known answer that is doubted: only something newer ends the question.
    doubted: Option<Descriptor>,
}

#[derive(Debug)]
struct Former {
    prefix: Prefix,
    successors: Vec<Descriptor>,
    since: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct Routes {
    settings: Settings,
    random: Xoshiro256PlusPlus,
    questions: BTreeMap<Position, Question>,
    former: BTreeMap<GroupId, Former>,
    actions: Vec<Action>,
}

impl Routes {
    /// Routes without memory.
    pub fn new(settings: Settings, seed: u64) -> Self {
        Routes {
            settings,
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            questions: BTreeMap::new(),
            former: BTreeMap::new(),
            actions: Vec::new(),
        }
    }

    /// The way to `position`. Where none is known, asks the DHT and some of `members`.
    pub fn route(&mut self, position: Position, table: &Table, members: &[NodeId], now: Duration) -> Route {
        match self.known(position, table, now) {
            Some(shard) => Route::Known(shard.clone()),
            None => {
                self.ask(position, None, members, now);
                Route::Asked
            }
        }
    }

    /// The way to `position` that is known leads nowhere (no replica answers): asks others for
    /// something newer. [`Action::Found`] or [`Action::Lost`] will follow.
    pub fn doubt(&mut self, position: Position, table: &Table, members: &[NodeId], now: Duration) {
        let doubted = self.known(position, table, now).cloned();
        self.ask(position, doubted, members, now);
    }

    /// Takes note of a shard: from a redirect, found by the DHT, or heard of by membership (which
    /// has entered it into the table already: this ends the questions that it answers). Returns
    /// whether it was news.
    pub fn learn(&mut self, shard: Descriptor, table: &mut Table, now: Duration) -> bool {
        let prefix = shard.prefix;
        let is_news = table.learn(shard, now);
        self.settle(prefix, table);
        is_news
    }

    /// This node has given up its replica of `group`, which held `prefix`: for a day it forwards to
    /// `successors` (the group as it goes on without this node, and a split's children). At most
    /// [`FORMER_MAX`] are remembered, the latest.
    pub fn gave_up(&mut self, group: GroupId, prefix: Prefix, successors: Vec<Descriptor>, now: Duration) {
        self.expire(now);
        if self.former.len() >= FORMER_MAX && !self.former.contains_key(&group) {
            let oldest = self.former.iter().min_by_key(|(group, f)| (f.since, **group)).map(|(group, _)| *group);
            oldest.map(|oldest| self.former.remove(&oldest));
        }
        let successors = successors.into_iter().filter(is_sound).take(ANSWER_MAX).collect();
        self.former.insert(group, Former { prefix, successors, since: now });
    }

    /// The successors of shards that this node has given up, as far as they overlap `prefix`.
    pub fn former(&self, prefix: Prefix, now: Duration) -> Vec<&Descriptor> {
        let recent = self.former.values().filter(|f| now.saturating_sub(f.since) < self.settings.former_for);
        let near = recent.filter(|f| overlap(f.prefix, prefix)).flat_map(|f| &f.successors);
        near.filter(|shard| overlap(shard.prefix, prefix)).collect()
    }

    /// A message of `from`, which is authenticated. What can't be read is dropped.
    pub fn hear(&mut self, from: NodeId, bytes: &[u8], table: &mut Table, now: Duration) {
        match Message::decode(bytes) {
            Some(Message::Ask(position)) => {
                let mut known: Vec<Descriptor> = table.find(position).cloned().into_iter().collect();
                if let Some(point) = Prefix::new(position.0, 64) {
                    known.extend(self.former(point, now).into_iter().cloned());
                }
                known.truncate(ANSWER_MAX);
                if !known.is_empty() {
                    self.actions.push(Action::Send { to: from, bytes: Message::Tell(known).encode() });
                }
            }
            Some(Message::Tell(shards)) => {
                for shard in shards {
                    self.learn(shard, table, now);
                }
            }
            None => {}
        }
    }

    /// Does what is due at `now`: asks others of the `members`, gives up.
    pub fn tick(&mut self, members: &[NodeId], now: Duration) {
        let over: Vec<Position> = self.questions.iter().filter(|(_, q)| q.until <= now).map(|(p, _)| *p).collect();
        for position in over {
            self.questions.remove(&position);
            self.actions.push(Action::Lost(position));
        }
        let due: Vec<Position> = self.questions.iter().filter(|(_, q)| q.ask_at <= now).map(|(p, _)| *p).collect();
        for position in due {
            if let Some(question) = self.questions.get_mut(&position) {
                question.ask_at = now + self.settings.ask_period;
            }
            self.ask_members(position, members);
        }
    }

    /// When [`Routes::tick`] has to be called next; earlier does no harm.
    pub fn next_timer(&self) -> Option<Duration> {
        self.questions.values().map(|q| q.ask_at.min(q.until)).min()
    }

    /// What has come up since the last call. To be taken after every call of another function.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// What is known, from the table or from what this node has given up.
    fn known<'a>(&'a self, position: Position, table: &'a Table, now: Duration) -> Option<&'a Descriptor> {
        let former = || {
            let successors = Prefix::new(position.0, 64).map(|point| self.former(point, now));
            successors.into_iter().flatten().max_by_key(|shard| (shard.prefix.length(), shard.epoch, shard.group))
        };
        table.find(position).or_else(former)
    }

    fn ask(&mut self, position: Position, doubted: Option<Descriptor>, members: &[NodeId], now: Duration) {
        if self.questions.contains_key(&position) {
            return;
        }
        if self.questions.len() >= QUESTIONS_MAX {
            self.actions.push(Action::Lost(position));
            return;
        }
        let (until, ask_at) = (now + self.settings.give_up_after, now + self.settings.ask_period);
        self.questions.insert(position, Question { until, ask_at, doubted });
        self.actions.push(Action::Search(position));
        self.ask_members(position, members);
    }

    fn ask_members(&mut self, position: Position, members: &[NodeId]) {
        let mut chosen = BTreeSet::new();
        // Drawn with repetition: now and then one fewer is asked.
        for _ in 0..self.settings.ask_count.min(members.len()) {
            chosen.extend(members.get(self.random.random_range(0..members.len())));
        }
        for to in chosen {
            self.actions.push(Action::Send { to, bytes: Message::Ask(position).encode() });
        }
    }

    /// Ends the questions that what was learned of `prefix` answers.
    fn settle(&mut self, prefix: Prefix, table: &Table) {
        let inside = self.questions.range(prefix.first()..=prefix.last());
        let answered = inside.filter_map(|(position, question)| {
            let found = table.find(*position)?;
            (question.doubted.as_ref() != Some(found)).then(|| (*position, found.clone()))
        });
        for (position, found) in answered.collect::<Vec<_>>() {
            self.questions.remove(&position);
            self.actions.push(Action::Found(position, found));
        }
    }

    fn expire(&mut self, now: Duration) {
        self.former.retain(|_, f| now.saturating_sub(f.since) < self.settings.former_for);
    }
}

fn overlap(a: Prefix, b: Prefix) -> bool {
    a.contains(b.first()) || b.contains(a.first())
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
