//! What the contract says of leases, told as stories.

use super::world::{ACK_TIMEOUT_MS, MEMBER_TIMEOUT_MS, World};
use crate::log::{Delivered, Mode, Ordering, Status, Verb};

const NACK: Verb = Verb::Nack { delay_ms: 0 };

fn shared() -> World {
    World::new(Mode::Shared, "orders")
}

fn keyed() -> World {
    World::new(Mode::Key, "orders")
}

fn places(messages: &[Delivered]) -> Vec<(u64, u32)> {
    messages.iter().map(|message| (message.offset, message.delivery)).collect()
}

#[test]
fn messages_go_out_once_and_in_order() {
    let mut world = shared();
    world.publish(&["", "", ""]);
    world.publish(&["", ""]);
    let first = world.get("a", 2);
    assert_eq!(places(&first), [(0, 1), (1, 1)]);
    assert_eq!(places(&world.get("b", 10)), [(2, 1), (3, 1), (4, 1)]);
    assert_eq!(places(&world.get("a", 10)), []);
    assert_eq!(world.verb(&first[0], Verb::Ack), Status::Acked);
    assert_eq!(world.verb(&first[0], Verb::Ack), Status::Acked, "acking what is acked");
    assert_eq!(world.verb(&first[0], NACK), Status::Expired);
    assert_eq!(world.token("nonsense", Verb::Ack), Status::Unknown);
}

#[test]
fn a_waiting_pull_gets_what_comes_without_another_entry() {
    let mut world = shared();
    let request = world.pull("a", 10, 5_000, None);
    world.run();
    assert!(world.log.is_empty() && world.replies.is_empty());
    world.publish(&["", ""]);
    world.answer_fetch(0, false);
    assert_eq!(places(world.replies[&request].as_ref().unwrap()), [(0, 1), (1, 1)], "the frontier lies beyond the end");
}

#[test]
fn a_pull_is_answered_empty_at_its_deadline() {
    let mut world = shared();
    let request = world.pull("a", 10, 500, None);
    world.run();
    world.advance(499);
    assert!(!world.replies.contains_key(&request));
    world.advance(1);
    assert!(world.replies[&request].as_ref().unwrap().is_empty());
}

#[test]
fn a_lease_ends_with_the_ack_timeout() {
    let mut world = shared();
    world.publish(&[""]);
    let first = world.get("a", 1);
    world.advance(ACK_TIMEOUT_MS - 1);
    assert_eq!(places(&world.get("b", 1)), []);
    world.advance(1);
    assert_eq!(places(&world.get("b", 1)), [(0, 2)]);
    assert_eq!(world.verb(&first[0], Verb::Ack), Status::Expired);
}

#[test]
fn extensions_and_heartbeats_prolong_a_lease() {
    let mut world = shared();
    world.publish(&["", ""]);
    let first = world.get("a", 2);
    world.advance(900);
    assert_eq!(world.verb(&first[0], Verb::Extend { by_ms: 5_000 }), Status::Extended);
    world.advance(99);
    assert_eq!(world.heartbeat("a"), 2);
    world.advance(999);
    assert_eq!(places(&world.get("b", 9)), []);
    world.advance(1);
    assert_eq!(places(&world.get("b", 9)), [(1, 2)], "the heartbeat's timeout, not the extension's");
    world.heartbeat("a");
    assert_eq!(world.verb(&first[0], Verb::Ack), Status::Acked);
}

#[test]
fn a_silent_member_loses_its_leases_at_once() {
    let mut world = shared();
    world.publish(&[""]);
    let first = world.get("a", 1);
    assert_eq!(world.verb(&first[0], Verb::Extend { by_ms: 60_000 }), Status::Extended);
    world.advance(MEMBER_TIMEOUT_MS - 1);
    assert_eq!(places(&world.get("b", 1)), []);
    world.advance(1);
    assert_eq!(places(&world.get("b", 1)), [(0, 2)]);
    let members = world.dispatch.figures(&world.group).unwrap().members;
    assert!(members.iter().all(|member| member.consumer != "a" || member.pending == 0));
}

#[test]
fn an_open_stream_shows_life_and_its_end_frees_its_leases() {
    let mut world = shared();
    world.publish(&["", ""]);
    let one = world.pull("a", 1, 0, Some(7));
    world.run();
    let one = world.replies.remove(&one).unwrap().unwrap();
    let two = world.pull("a", 1, 0, Some(8));
    world.run();
    let two = world.replies.remove(&two).unwrap().unwrap();
    for message in [&one[0], &two[0]] {
        assert_eq!(world.verb(message, Verb::Extend { by_ms: 60_000 }), Status::Extended);
    }
    world.advance(2 * MEMBER_TIMEOUT_MS);
    assert_eq!(places(&world.get("b", 9)), []);
    world.close_stream("a", 7);
    assert_eq!(places(&world.get("b", 9)), [(0, 2)], "the other stream's lease stands");
    assert_eq!(world.verb(&one[0], Verb::Ack), Status::Expired);
    assert_eq!(world.verb(&two[0], Verb::Ack), Status::Acked);
}

#[test]
fn a_nack_waits_out_its_delay_even_through_a_lost_leader() {
    let mut world = shared();
    world.publish(&[""]);
    let first = world.get("a", 1);
    assert_eq!(world.verb(&first[0], Verb::Nack { delay_ms: 5_000 }), Status::Nacked);
    assert_eq!(world.verb(&first[0], Verb::Ack), Status::Expired);
    world.crash(0);
    world.advance(4_999);
    assert_eq!(places(&world.get("b", 1)), []);
    world.advance(1);
    assert_eq!(places(&world.get("b", 1)), [(0, 2)]);
}

#[test]
fn acks_and_nacks_are_answered_once_durable() {
    let mut world = shared();
    world.publish(&["", ""]);
    let got = world.get("a", 2);
    let ack = world.settle(vec![(got[0].token.to_string(), Verb::Ack), (got[1].token.to_string(), NACK)]);
    assert!(world.settled.is_empty());
    world.advance(10 * ACK_TIMEOUT_MS);
    assert!(world.settled.is_empty(), "and what is being acked does not time out");
    world.run();
    assert_eq!(world.settled[&ack].as_ref().unwrap(), &[Status::Acked, Status::Nacked]);
}

#[test]
fn failed_deliveries_end_in_the_dead_letter_topic() {
    let mut world = shared();
    world.publish(&[""]);
    for delivery in 1..=3 {
        let got = world.get("a", 1);
        assert_eq!(places(&got), [(0, delivery)]);
        let request = world.settle(vec![(got[0].token.to_string(), NACK)]);
        while world.apply_one() {}
        assert_eq!(world.settled[&request].as_ref().unwrap(), &[Status::Nacked]);
    }
    assert!(world.state.moving.contains(&0) && world.state.dead.is_empty());
    world.answer_fetch(0, false);
    world.answer_dead_letter(0, true);
    assert!(world.dead_letters.is_empty());
    world.advance(1_000);
    if world.dead_letters.is_empty() {
        world.answer_fetch(0, false);
    }
    assert_eq!(world.dead_letters, [0], "it is tried again");
    world.run();
    assert!(world.state.dead.contains(&0));
    world.publish(&[""]);
    assert_eq!(places(&world.get("a", 9)), [(1, 1)]);
}

#[test]
fn the_messages_of_a_dead_letter_topic_come_back_for_ever_but_slower() {
    let mut world = World::new(Mode::Shared, "orders.billing.dlq");
    world.publish(&[""]);
    for delivery in 1..=3 {
        let got = world.get("a", 1);
        assert_eq!(places(&got), [(0, delivery)]);
        assert_eq!(world.verb(&got[0], NACK), Status::Nacked);
    }
    assert_eq!(places(&world.get("a", 1)), []);
    world.advance(1_000);
    let got = world.get("a", 1);
    assert_eq!(places(&got), [(0, 4)]);
    world.advance(ACK_TIMEOUT_MS);
    world.advance(1_999);
    assert_eq!(places(&world.get("a", 1)), []);
    world.advance(1);
    assert_eq!(places(&world.get("a", 1)), [(0, 5)]);
}

#[test]
fn a_lost_leader_holds_only_what_may_be_out() {
    let mut world = shared();
    world.publish(&["", ""]);
    let got = world.get("a", 2);
    assert_eq!(world.verb(&got[0], Verb::Ack), Status::Acked);
    world.crash(0);
    world.publish(&[""]);
    assert_eq!(places(&world.get("b", 9)), [(2, 1)], "what was not out goes out at once");
    world.advance(ACK_TIMEOUT_MS - 1);
    assert_eq!(places(&world.get("b", 9)), []);
    world.advance(1);
    let mut again = places(&world.get("b", 9));
    again.extend(places(&world.get("b", 9)));
    assert_eq!(again, [(1, 2), (2, 2)]);
}

#[test]
fn a_token_outlives_its_leader_until_the_message_is_delivered_again() {
    let mut world = shared();
    world.publish(&["", "", ""]);
    let got = world.get("a", 3);
    world.crash(0);
    assert_eq!(world.verb(&got[0], Verb::Extend { by_ms: 5_000 }), Status::Extended);
    world.advance(ACK_TIMEOUT_MS + 100);
    assert_eq!(world.verb(&got[1], Verb::Ack), Status::Acked, "late, but nobody else has it");
    assert_eq!(places(&world.get("b", 9)), [(2, 2)]);
    assert_eq!(world.verb(&got[2], Verb::Ack), Status::Expired);
    assert_eq!(world.verb(&got[0], Verb::Ack), Status::Acked);
    assert_eq!(world.verb(&got[0], Verb::Ack), Status::Acked);
}

#[test]
fn lost_leaders_alone_make_no_dead_letter() {
    let mut world = shared();
    world.publish(&[""]);
    for delivery in 1..10 {
        world.advance(ACK_TIMEOUT_MS);
        assert_eq!(places(&world.get("a", 1)), [(0, delivery)]);
        world.crash(0);
    }
    assert!(world.state.moving.is_empty());
}

#[test]
fn a_key_waits_for_its_earlier_messages_and_for_no_others() {
    let mut world = keyed();
    world.publish(&["x", "x", "y", "", "", "x", "y"]);
    let got = world.get("a", 9);
    assert_eq!(places(&got), [(0, 1), (2, 1), (3, 1), (4, 1)]);
    assert_eq!(world.verb(&got[0], Verb::Nack { delay_ms: 500 }), Status::Nacked);
    assert_eq!(world.verb(&got[1], Verb::Ack), Status::Acked);
    assert_eq!(places(&world.get("a", 9)), [(6, 1)], "a nacked message is out while it waits");
    world.advance(500);
    let again = world.get("a", 9);
    assert_eq!(places(&again), [(0, 2)]);
    assert_eq!(world.verb(&again[0], Verb::Ack), Status::Acked);
    assert_eq!(places(&world.get("a", 9)), [(1, 1)]);
}

#[test]
fn a_lost_leader_keeps_keys_in_order() {
    let mut world = keyed();
    world.publish(&["x", "y", "x", "z"]);
    let got = world.get("a", 1);
    assert_eq!(places(&got), [(0, 1)]);
    world.crash(0);
    world.publish(&["x", "w"]);
    let next = world.get("b", 9);
    assert!(next.iter().all(|message| ![0, 2, 4].contains(&message.offset)), "{:?}", places(&next));
    assert_eq!(world.verb(&got[0], Verb::Ack), Status::Acked);
    world.advance(ACK_TIMEOUT_MS);
    assert!(places(&world.get("b", 9)).iter().any(|(offset, _)| *offset == 2));
}

#[test]
fn under_total_order_all_are_one_key() {
    let mut world = keyed();
    world.set_ordering(Ordering::Total);
    world.publish(&["x", "y", ""]);
    for offset in 0..3 {
        let got = world.get("a", 9);
        assert_eq!(places(&got), [(offset, 1)]);
        assert_eq!(places(&world.get("b", 9)), []);
        assert_eq!(world.verb(&got[0], Verb::Ack), Status::Acked);
    }
}

#[test]
fn a_seek_ends_leases_and_delivers_again() {
    let mut world = shared();
    world.publish(&["", "", ""]);
    let got = world.get("a", 3);
    assert_eq!(world.verb(&got[0], Verb::Ack), Status::Acked);
    let before = world.settle(vec![(got[1].token.to_string(), Verb::Ack)]);
    world.seek(0);
    let after = world.settle(vec![(got[2].token.to_string(), Verb::Ack)]);
    world.run();
    assert_eq!(world.settled[&before].as_ref().unwrap(), &[Status::Acked]);
    assert_eq!(world.settled[&after].as_ref().unwrap(), &[Status::Expired], "judged before, recorded nowhere");
    assert_eq!(world.dispatch.figures(&world.group).unwrap().pending, 0);
    assert_eq!(places(&world.get("a", 9)), [(0, 1), (1, 1), (2, 1)]);
    assert_eq!(world.verb(&got[0], Verb::Ack), Status::Expired);
}

#[test]
fn a_seek_back_does_not_let_delivery_counts_fall() {
    let mut world = shared();
    world.publish(&["", ""]);
    let got = world.get("a", 2);
    assert_eq!(world.verb(&got[1], NACK), Status::Nacked);
    assert_eq!(places(&world.get("a", 9)), [(1, 2)]);
    world.seek(0);
    world.run();
    let mut again = places(&world.get("a", 9));
    again.extend(places(&world.get("a", 9)));
    again.sort_unstable();
    assert_eq!(again, [(0, 1), (1, 3)]);
}

#[test]
fn a_trim_passes_over_what_is_gone() {
    let mut world = shared();
    world.publish(&["", ""]);
    world.publish(&[""]);
    world.publish(&[""]);
    let got = world.get("a", 1);
    world.trim(2);
    world.run();
    assert_eq!(places(&world.get("a", 9)), [(2, 1), (3, 1)]);
    assert_eq!(world.dispatch.figures(&world.group).unwrap().pending, 2);
    let _ = world.verb(&got[0], Verb::Ack);
}

#[test]
fn waiting_members_share_what_comes() {
    let mut world = shared();
    let pulls: Vec<_> = ["a", "b", "c"].iter().map(|name| world.pull(name, 10, 5_000, None)).collect();
    world.run();
    world.publish(&["", "", "", "", "", ""]);
    world.run();
    for pull in pulls {
        assert_eq!(world.replies[&pull].as_ref().unwrap().len(), 2);
    }
}

#[test]
fn a_member_that_acks_nothing_leaves_room_for_others() {
    let mut world = shared();
    world.publish(&[""; 60]);
    let mut held = 0;
    for _ in 0..10 {
        held += world.get("greedy", 20).len();
    }
    assert_eq!(held, 40, "the bound of one member");
    let other: usize = (0..5).map(|_| world.get("other", 30).len()).sum();
    assert_eq!(other, 20);
}

#[test]
fn what_its_caller_never_got_is_free_at_once() {
    let mut world = shared();
    world.publish(&[""]);
    let request = world.pull("a", 1, 0, None);
    world.run();
    world.undelivered(request);
    assert_eq!(places(&world.get("b", 1)), [(0, 2)]);
}

#[test]
fn a_deleted_group_tells_whoever_waits() {
    let mut world = shared();
    let request = world.pull("a", 1, 60_000, None);
    let group = world.group.clone();
    world.dispatch.on_delete(&group);
    world.advance(1);
    assert_eq!(world.replies[&request].as_ref().unwrap_err().code, gem_types::Code::NotFound);
    let request = world.pull("a", 1, 0, None);
    assert_eq!(world.replies[&request].as_ref().unwrap_err().code, gem_types::Code::NotFound);
}
