//! Members of groups: they ack, nack with a delay, extend, forget, vanish, and come back with
//! tokens of an earlier life.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gem_shard::log::{Delivered, GroupRef, Pull, Verb};
use gem_types::Offset;

use super::{Kept, Mesh, group, seen_in, topic, with};
use crate::chance::Chance;
use crate::event::{Answer, Event};
use crate::setup::mode_of;

/// A member, over all lives of the node.
#[derive(Clone)]
pub struct Member {
    topic: &'static str,
    group: &'static str,
    name: String,
    /// Of a hundred messages, it nacks so many.
    nacks: u64,
    /// What it holds and has said nothing of.
    held: Kept<Vec<Token>>,
}

#[derive(Clone)]
struct Token {
    group: GroupRef,
    token: String,
    offset: Offset,
    delivery: u32,
}

impl Member {
    /// Member `number` of a group.
    pub fn new(topic: &'static str, group: &'static str, number: u32, chance: &mut Chance) -> Member {
        let held = Arc::new(Mutex::new(Vec::new()));
        let nacks = if chance.percent(25) { 50 } else { chance.below(15) };
        Member { topic, group, name: format!("m{number}"), nacks, held }
    }

    /// Consumes until it is aborted.
    pub async fn run(self, mesh: Mesh, mut chance: Chance) {
        let Some(name) = topic(self.topic) else { return };
        let pace_ms = chance.between(5, 150);
        let mut stream = chance.percent(30).then(|| chance.next());
        loop {
            let pause_ms = if chance.percent(2) { 3_000 } else { chance.below(pace_ms) };
            mesh.rest(pause_ms).await;
            let Some(partition) = mesh.partition(&name, None).await else {
                mesh.rest(50).await;
                continue;
            };
            let Some(group) = group(&name, partition, self.group) else { return };
            self.settle_held(&mesh, &mut chance).await;
            if chance.percent(3)
                && let Some(closed) = stream.take()
            {
                self.vanish(&mesh, &group, closed).await;
                stream = Some(chance.next());
            }
            if chance.percent(5)
                && let Some(home) = mesh.home(&name)
            {
                let _ = home.heartbeat(group.clone(), self.name.clone()).await;
            }
            self.pull(&mesh, group, stream, &mut chance).await;
        }
    }

    async fn vanish(&self, mesh: &Mesh, group: &GroupRef, stream: u64) {
        let Some(home) = mesh.home(&group.topic) else { return };
        with(&self.held, |held| held.retain(|token| token.group != *group));
        mesh.world.emit(Event::Vanished { group: group.clone(), member: self.name.clone() });
        let _ = home.close_stream(group.clone(), self.name.clone(), stream).await;
    }

    async fn pull(&self, mesh: &Mesh, group: GroupRef, stream: Option<u64>, chance: &mut Chance) {
        let Some(home) = mesh.home(&group.topic) else { return };
        let pull = Pull {
            group: group.clone(),
            consumer: self.name.clone(),
            mode: Some(mode_of(&group)),
            from: None,
            max: chance.between(1, 12) as usize,
            max_bytes: 64 << 10,
            wait: Duration::from_millis(chance.below(300)),
            stream,
        };
        let asked_ms = mesh.world.clock.now_ms();
        let Ok(messages) = home.pull(pull).await else { return };
        if messages.is_empty() {
            return;
        }
        let tokens = note(mesh, &group, &self.name, asked_ms, &messages);
        let mut verbs = Vec::new();
        for token in tokens {
            if chance.percent(self.nacks) {
                verbs.push((token, Verb::Nack { delay_ms: chance.below(800) }));
                continue;
            }
            match chance.below(100) {
                0..80 => verbs.push((token, Verb::Ack)),
                80..92 => with(&self.held, |held| held.push(token)),
                92..96 => {
                    with(&self.held, |held| held.push(token.clone()));
                    verbs.push((token, Verb::Extend { by_ms: chance.below(3_000) }));
                }
                // Forgotten: it comes again by itself.
                _ => {}
            }
        }
        if chance.percent(40) {
            mesh.rest(chance.below(100)).await;
        }
        settle(mesh, &group, verbs).await;
    }

    /// Says something of what was put aside.
    async fn settle_held(&self, mesh: &Mesh, chance: &mut Chance) {
        let late = with(&self.held, |held| {
            let surplus = held.len().saturating_sub(64);
            held.drain(..surplus);
            let at = chance.below(held.len() as u64 + 3) as usize;
            (at < held.len()).then(|| held.remove(at))
        });
        if let Some(token) = late {
            let verb = if chance.percent(80) { Verb::Ack } else { Verb::Nack { delay_ms: 50 } };
            let group = token.group.clone();
            settle(mesh, &group, vec![(token, verb)]).await;
        }
    }
}

/// Notes what a pull brought; answers its tokens.
fn note(mesh: &Mesh, group: &GroupRef, member: &str, asked_ms: u64, messages: &[Delivered]) -> Vec<Token> {
    let (mut noted, mut tokens) = (Vec::new(), Vec::new());
    for message in messages {
        let seen = seen_in(&message.batch, message.offset).unwrap_or_default();
        if let Some(seen) = seen.into_iter().find(|seen| seen.offset == message.offset) {
            noted.push((seen, message.delivery));
        }
        let Delivered { offset, delivery, token, .. } = message.clone();
        tokens.push(Token { group: group.clone(), token: token.to_string(), offset, delivery });
    }
    mesh.door.observe();
    mesh.world.emit(Event::Pulled { group: group.clone(), member: member.to_owned(), asked_ms, messages: noted });
    tokens
}

async fn settle(mesh: &Mesh, group: &GroupRef, verbs: Vec<(Token, Verb)>) {
    let Some(home) = mesh.home(&group.topic).filter(|_| !verbs.is_empty()) else { return };
    let op = mesh.world.op();
    let named = verbs.iter().map(|(token, verb)| (token.offset, token.delivery, *verb)).collect();
    mesh.world.emit(Event::Settle { op, group: group.clone(), verbs: named });
    let verbs = Arc::new(verbs.into_iter().map(|(token, verb)| (token.token, verb)).collect());
    let answer = Answer::of(home.settle(group.clone(), verbs).await);
    mesh.world.emit(Event::Settled { op, answer });
}

/// Empties a group: pulls and acks until nothing is left, or for so long. `None`: there is no such
/// group.
pub async fn drain(mesh: &Mesh, group: &GroupRef, patience: Duration) -> Option<u64> {
    let home = mesh.home(&group.topic)?;
    let begun = tokio::time::Instant::now();
    let mut lag = home.group(group.clone()).await.ok()?.lag;
    while lag > 0 && begun.elapsed() < patience {
        let pull = Pull {
            group: group.clone(),
            consumer: "drain".into(),
            mode: None,
            from: None,
            max: 200,
            max_bytes: 1 << 20,
            wait: Duration::from_millis(500),
            stream: None,
        };
        let asked_ms = mesh.world.clock.now_ms();
        let messages = home.pull(pull).await.unwrap_or_default();
        if !messages.is_empty() {
            let tokens = note(mesh, group, "drain", asked_ms, &messages);
            settle(mesh, group, tokens.into_iter().map(|token| (token, Verb::Ack)).collect()).await;
        }
        lag = home.group(group.clone()).await.ok()?.lag;
    }
    Some(lag)
}
