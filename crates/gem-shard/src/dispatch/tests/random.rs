//! Random events in any order, with proposals, fetches and publishes answered late, out of turn
//! or not at all; then all comes to rest, and nothing may be left.

use proptest::prelude::*;

use super::world::World;
use crate::log::{Mode, Ordering, Verb};

#[derive(Clone, Debug)]
enum Event {
    Publish(Vec<u8>),
    Pull(u8, usize, u64, Option<u64>),
    /// The nth token ever issued, back from the newest.
    Settle(usize, Verb),
    Heartbeat(u8),
    CloseStream(u8, u64),
    Advance(u64),
    Apply(usize),
    Fail,
    Fetch(usize, bool),
    DeadLetter(usize, bool),
    Crash(usize),
    Seek(u64),
    Trim(u64),
    Cancel(usize),
    Undelivered(usize),
    Reorder(bool),
}

fn verb() -> impl Strategy<Value = Verb> {
    prop_oneof![
        5 => Just(Verb::Ack),
        2 => (0..3_000u64).prop_map(|delay_ms| Verb::Nack { delay_ms }),
        1 => (0..5_000u64).prop_map(|by_ms| Verb::Extend { by_ms }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let rarely = |often: bool| prop_oneof![9 => Just(often), 1 => Just(!often)];
    prop_oneof![
        4 => prop::collection::vec(0..4u8, 1..8).prop_map(Event::Publish),
        6 => (0..4u8, 1..20usize, 0..4_000u64, prop::option::weighted(0.3, 1..3u64))
            .prop_map(|(m, max, wait, stream)| Event::Pull(m, max, wait, stream)),
        10 => (0..12usize, verb()).prop_map(|(back, verb)| Event::Settle(back, verb)),
        1 => (0..4u8).prop_map(Event::Heartbeat),
        1 => (0..4u8, 1..3u64).prop_map(|(m, s)| Event::CloseStream(m, s)),
        3 => (1..1_500u64).prop_map(Event::Advance),
        12 => (1..4usize).prop_map(Event::Apply),
        1 => Just(Event::Fail),
        8 => (any::<usize>(), rarely(false)).prop_map(|(i, fail)| Event::Fetch(i, fail)),
        3 => (any::<usize>(), rarely(false)).prop_map(|(i, fail)| Event::DeadLetter(i, fail)),
        1 => (0..3usize).prop_map(Event::Crash),
        1 => (0..60u64).prop_map(Event::Seek),
        1 => (0..12u64).prop_map(Event::Trim),
        1 => any::<usize>().prop_map(Event::Cancel),
        1 => any::<usize>().prop_map(Event::Undelivered),
        1 => any::<bool>().prop_map(Event::Reorder),
    ]
}

fn name(member: u8) -> String {
    format!("member-{member}")
}

/// What happened so far that later events may point at.
#[derive(Default)]
struct Past {
    tokens: Vec<String>,
    pulls: Vec<u64>,
    answered: Vec<u64>,
}

fn happen(world: &mut World, past: &mut Past, event: Event) {
    match event {
        Event::Publish(keys) => {
            let keys: Vec<_> = keys.into_iter().map(|key| ["", "x", "y", "z"][key as usize]).collect();
            world.publish(&keys);
        }
        Event::Pull(member, max, wait_ms, stream) => past.pulls.push(world.pull(&name(member), max, wait_ms, stream)),
        Event::Settle(back, verb) => {
            if let Some(token) = past.tokens.iter().rev().nth(back).cloned() {
                world.settle(vec![(token, verb)]);
            }
        }
        Event::Heartbeat(member) => {
            world.heartbeat(&name(member));
        }
        Event::CloseStream(member, stream) => world.close_stream(&name(member), stream),
        Event::Advance(ms) => world.advance(ms),
        Event::Apply(count) => {
            for _ in 0..count {
                world.apply_one();
            }
        }
        Event::Fail => world.fail_newest(),
        Event::Fetch(index, fail) => world.answer_fetch(index, fail),
        Event::DeadLetter(index, fail) => world.answer_dead_letter(index, fail),
        Event::Crash(applied) => world.crash(applied),
        Event::Seek(offset) => world.seek(offset),
        Event::Trim(ahead) => {
            let before = world.earliest + ahead;
            world.trim(before);
        }
        Event::Reorder(total) if world.may_reorder => {
            // Order is only owed to what is delivered from then on.
            world.model.unordered = true;
            world.set_ordering(if total { Ordering::Total } else { Ordering::Key });
        }
        Event::Cancel(index) if !past.pulls.is_empty() => {
            let request = past.pulls[index % past.pulls.len()];
            if !world.replies.contains_key(&request) && !past.answered.contains(&request) {
                world.cancel(request);
            }
        }
        Event::Undelivered(index) if !past.answered.is_empty() => {
            let request = past.answered[index % past.answered.len()];
            world.undelivered(request);
        }
        Event::Cancel(_) | Event::Undelivered(_) | Event::Reorder(_) => {}
    }
    for (request, reply) in &world.replies {
        if past.answered.contains(request) {
            continue;
        }
        past.answered.push(*request);
        past.tokens.extend(reply.iter().flatten().map(|message| message.token.to_string()));
    }
}

/// Members that ack everything empty the group, whatever it went through.
fn empty(world: &mut World) {
    for _ in 0..400 {
        world.run();
        let left = (world.state.floor.max(world.earliest)..world.next()).any(|offset| !world.state.is_done(offset));
        if !left {
            return;
        }
        let got = world.get("last", 40);
        let verbs = got.iter().map(|message| (message.token.to_string(), Verb::Ack)).collect();
        world.settle(verbs);
        world.run();
        world.advance(500);
    }
    panic!("messages are left: {:?}", world.state);
}

fn hold(mode: Mode, ordering: Ordering, may_reorder: bool, events: Vec<Event>) {
    let mut world = World::new(mode, "orders");
    world.may_reorder = may_reorder;
    world.set_ordering(ordering);
    let mut past = Past::default();
    for event in events {
        happen(&mut world, &mut past, event);
    }
    empty(&mut world);
}

proptest! {
    #[test]
    fn shared_groups_hold(events in prop::collection::vec(event(), 1..200)) {
        hold(Mode::Shared, Ordering::Key, false, events);
    }

    #[test]
    fn keyed_groups_hold(events in prop::collection::vec(event(), 1..200)) {
        hold(Mode::Key, Ordering::Key, false, events);
    }

    #[test]
    fn total_groups_hold(events in prop::collection::vec(event(), 1..200)) {
        hold(Mode::Key, Ordering::Total, false, events);
    }

    #[test]
    fn reordered_groups_hold(events in prop::collection::vec(event(), 1..200)) {
        hold(Mode::Key, Ordering::Key, true, events);
    }
}

/// The same events twice give the same actions: nothing depends on a table's order.
#[test]
fn the_same_events_give_the_same_outcome() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let events = prop::collection::vec(event(), 500).new_tree(&mut runner).unwrap().current();
    let run = || {
        let mut world = World::new(Mode::Key, "orders");
        let mut past = Past::default();
        for event in events.clone() {
            happen(&mut world, &mut past, event);
        }
        (past.tokens, format!("{:?}", world.state), format!("{:?}", world.settled))
    };
    assert_eq!(run(), run());
}
