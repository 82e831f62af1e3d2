//! Producers: plain ones, ones that give ids and send again, numbered ones with several batches on
//! their way.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use gem_shard::log::{Placed, ProducerBatch, TopicConfig};
use gem_types::seams::Clock;
use gem_types::{Code, PartitionId, ProducerId, TopicName};

use super::{Kept, Mesh, Outgoing, topic, with};
use crate::chance::Chance;
use crate::event::{Answer, Kind};
use crate::world::World;

/// Batches of a numbered producer on their way at once.
const WINDOW: usize = 4;
/// Times that a batch with ids is sent before its producer gives up.
const TRIES_MAX: u32 = 12;

/// A producer, over all lives of the node.
#[derive(Clone)]
pub struct Producer {
    number: u32,
    kind: Kind,
    topic: &'static str,
    config: TopicConfig,
    state: Kept<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    /// With ids: the batch that is being sent, and how often it was.
    current: Option<(Vec<Outgoing>, u32)>,
    /// With ids: what was stored of late, to be sent once more.
    recent: VecDeque<Outgoing>,
    /// Numbered: its id, what is not settled, the last number stored.
    id: Option<ProducerId>,
    unsettled: VecDeque<Vec<Outgoing>>,
    stored: u64,
}

/// The producers of a run.
pub fn all(world: &World, chance: &mut Chance) -> Vec<Producer> {
    let mut all = Vec::new();
    for setup in &world.setup.topics {
        let mut kinds = vec![Kind::Ids, Kind::Plain];
        if !setup.churns {
            kinds.push(Kind::Numbered);
        }
        for kind in kinds {
            if chance.percent(75) {
                let (number, config) = (all.len() as u32, setup.config.clone());
                let state = Arc::new(Mutex::new(State::default()));
                all.push(Producer { number, kind, topic: setup.name, config, state });
            }
        }
    }
    all
}

impl Producer {
    /// Publishes until it is aborted.
    pub async fn run(self, mesh: Mesh, mut chance: Chance) {
        let Some(topic) = topic(self.topic) else { return };
        let pace_ms = chance.between(5, 120);
        loop {
            let pause_ms = if chance.percent(2) { 500 } else { chance.below(pace_ms) };
            mesh.rest(pause_ms).await;
            let Some(partition) = mesh.partition(&topic, Some(&self.config)).await else {
                mesh.rest(20).await;
                continue;
            };
            match self.kind {
                Kind::Plain => self.publish_plain(&mesh, (&topic, partition), &mut chance).await,
                Kind::Ids => self.publish_ids(&mesh, (&topic, partition), &mut chance).await,
                Kind::Numbered => self.publish_numbered(&mesh, (&topic, partition), &mut chance).await,
            }
        }
    }

    fn draw(&self, state: &mut State, count: u64, chance: &mut Chance) -> Vec<Outgoing> {
        let first = state.next;
        state.next += count;
        (first..state.next).map(|number| Outgoing::draw(self.number, number, chance)).collect()
    }

    async fn publish_plain(&self, mesh: &Mesh, to: (&TopicName, PartitionId), chance: &mut Chance) {
        let count = chance.between(1, 6);
        let messages = with(&self.state, |state| self.draw(state, count, chance));
        mesh.publish(to, Kind::Plain, &messages, None, wait(chance)).await;
    }

    async fn publish_ids(&self, mesh: &Mesh, to: (&TopicName, PartitionId), chance: &mut Chance) {
        let messages = with(&self.state, |state| {
            if state.current.is_none() {
                let count = chance.between(1, 4);
                let mut messages = self.draw(state, count, chance);
                if chance.percent(10)
                    && let Some(first) = messages.first().cloned()
                {
                    // Twice in one batch.
                    messages.push(first);
                }
                state.current = Some((messages, 0));
            }
            let (messages, tries) = state.current.get_or_insert_default();
            *tries += 1;
            messages.clone()
        });
        let answer = mesh.publish(to, Kind::Ids, &messages, None, wait(chance)).await;
        let again = with(&self.state, |state| {
            let tries = state.current.as_ref().map_or(0, |(_, tries)| *tries);
            let is_stored = matches!(answer, Answer::Done(_));
            if is_stored || tries >= TRIES_MAX {
                state.current = None;
            }
            if is_stored {
                state.recent.extend(messages);
                let surplus = state.recent.len().saturating_sub(20);
                state.recent.drain(..surplus);
            }
            let at = chance.below(state.recent.len() as u64) as usize;
            if state.current.is_none() && chance.percent(20) { state.recent.get(at).cloned() } else { None }
        });
        if let Some(again) = again {
            // A client that did not hear the answer sends once more.
            mesh.publish(to, Kind::Ids, &[again], None, wait(chance)).await;
        }
    }

    async fn publish_numbered(&self, mesh: &Mesh, to: (&TopicName, PartitionId), chance: &mut Chance) {
        let (producer, settled, batches) = with(&self.state, |state| {
            let fresh = ProducerId::new(mesh.world.clock.wall_ms(), chance.next());
            let producer = *state.id.get_or_insert(fresh);
            let window = chance.between(1, WINDOW as u64 + 1) as usize;
            while state.unsettled.len() < window {
                let count = chance.between(1, 5);
                let batch = self.draw(state, count, chance);
                state.unsettled.push_back(batch);
            }
            let settled = state.unsettled.front().and_then(|batch| batch.first()).map_or(1, number);
            let mut previous = state.stored;
            let mut batches = Vec::new();
            for batch in &state.unsettled {
                batches.push((previous, batch.clone()));
                previous = batch.last().map_or(previous, number);
            }
            (producer, settled, batches)
        });
        let wait = wait(chance);
        let sends = batches.iter().map(|(previous, batch)| {
            let numbers = batch.iter().map(number).collect();
            let numbered = ProducerBatch { producer, numbers, previous: *previous, settled };
            mesh.publish(to, Kind::Numbered, batch, Some(numbered), wait)
        });
        let answers: Vec<Answer<Vec<Placed>>> = join_all(sends).await;
        with(&self.state, |state| {
            for ((_, batch), answer) in batches.iter().zip(&answers) {
                let first = batch.first().map_or(0, number);
                match answer {
                    Answer::Done(_) => {
                        state.unsettled.retain(|other| other.first().map_or(0, number) != first);
                        state.stored = state.stored.max(batch.last().map_or(0, number));
                    }
                    Answer::Refused(Code::Conflict) => {
                        // It is forgotten, or what it says contradicts what is known: begin anew.
                        state.id = None;
                        state.stored = 0;
                        state.unsettled.clear();
                        return;
                    }
                    Answer::Refused(_) | Answer::Unknown(_) => {}
                }
            }
        });
    }
}

fn number(outgoing: &Outgoing) -> u64 {
    outgoing.message.1 + 1
}

/// Most callers wait long enough; some give up before the answer.
fn wait(chance: &mut Chance) -> Duration {
    Duration::from_millis(if chance.percent(5) { chance.between(1, 10) } else { 5_000 })
}
