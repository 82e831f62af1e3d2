//! What a reader of the contract would try first.

use gem_store::index::model::ModelStores;
use gem_types::{Code, ProducerId};

use super::world::*;
use crate::entry::{Command, Entry};
use crate::log::{From, Mode, TopicChange, TopicConfig};
use crate::machine::{Outcome, PRODUCER_IDLE_MS};

#[test]
fn a_topic_is_made_once_and_altered() {
    let mut world = World::new(0);
    let create = |config| Command::CreateTopic { name: name("orders"), config };
    let Some(Outcome::Topic { info, new: true }) = world.command(create(TopicConfig::default())) else { panic!() };
    assert_eq!((info.version, info.partitions.len()), (1, 1));
    assert_eq!(info.partitions[0].id.position(), name("orders").position());
    assert!(matches!(world.command(create(TopicConfig::default())), Some(Outcome::Topic { new: false, .. })));

    let other = TopicConfig { max_deliveries: 9, ..TopicConfig::default() };
    let refused = world.command(create(other.clone())).unwrap();
    assert_eq!(refused.refusal().unwrap().code, Code::Conflict);
    let change = TopicChange { max_deliveries: Some(9), ..TopicChange::default() };
    let alter = || Command::AlterTopic { name: name("orders"), change: change.clone() };
    for _ in 0..2 {
        let Some(Outcome::Topic { info, .. }) = world.command(alter()) else { panic!() };
        assert_eq!((info.version, &info.config), (2, &other));
    }
    let unknown = world.command(Command::DeleteTopic { name: name("nothing") }).unwrap();
    assert_eq!(unknown.refusal().unwrap().code, Code::NotFound);
}

#[test]
fn a_topic_made_again_has_a_new_partition() {
    let mut world = World::new(0);
    let first = world.create("orders");
    world.append(append(first, &[Some(1), None])).unwrap();
    let group = world.group("orders", "g").unwrap();
    world.command(Command::CreateGroup { group: group.clone(), mode: Mode::Key, start: 0 });
    let deleted = world.command(Command::DeleteTopic { name: name("orders") });
    assert_eq!(deleted, Some(Outcome::TopicDeleted { name: name("orders"), partitions: vec![first] }));
    assert!(world.machine.partition(first).unwrap().is_none());
    assert!(world.machine.group(&group).unwrap().is_none());
    assert_eq!(world.machine.ids_bytes(), 0);
    assert!(world.machine.locate(first, 0, 10).unwrap().is_empty());

    let second = world.create("orders");
    assert_ne!(first, second);
    assert_eq!(world.append(append(second, &[Some(1)])).unwrap()[0].offset, 0);
    assert_eq!(world.append(append(first, &[None])).unwrap_err().code, Code::NotFound);
}

#[test]
fn topics_are_listed_by_name() {
    let mut world = World::new(0);
    for topic in ["b", "a.2", "a.1", "c", "a.3"] {
        world.create(topic);
    }
    let mut page = |prefix: &str, after: Option<&str>, limit| {
        let page = world.machine.list_topics(prefix, after, limit).unwrap();
        (page.topics.iter().map(|topic| topic.name.to_string()).collect::<Vec<_>>().join(" "), page.more)
    };
    assert_eq!(page("", None, 2), ("a.1 a.2".into(), true));
    assert_eq!(page("", Some("a.2"), 10), ("a.3 b c".into(), false));
    assert_eq!(page("a.", Some("a.2"), 10), ("a.3".into(), false));
    assert_eq!(page("a.", Some("a.3"), 10), (String::new(), false));
    assert_eq!(page("b", Some("a.9"), 10), ("b".into(), false));
}

#[test]
fn a_batch_that_does_not_continue_is_not_stored() {
    let mut world = World::new(0);
    let partition = world.create("orders");
    let mut batch = batch(2);
    batch.stamp(5, 1);
    let append = crate::entry::AppendBatch { partition, batch, dedup: vec![Some(digest(1)), None], producer: None };
    let entry = Entry { now_ms: 1, commands: vec![Command::Append(append)] };
    let outcomes = world.machine.apply(pos(9), &entry, |_| None).unwrap();
    assert_eq!(outcomes, [Outcome::Mismatch { partition, expected: 0, found: 5 }]);
    assert!(!world.verdicts.applied(0, &outcomes), "the leader steps down");
    assert_eq!((world.next(partition), world.machine.mismatches()), (0, 1));
    assert_eq!(world.machine.dedup(partition, &digest(1)), None);
}

#[test]
fn reading_starts_where_it_is_asked_to() {
    let mut world = World::new(0);
    let partition = world.create("orders");
    for at_ms in [2000, 2000, 3000, 3001] {
        world.now_ms = at_ms;
        world.append(append(partition, &[None, None])).unwrap();
    }
    world.command(Command::Trim { partition, before: 1 });
    let mut resolve = |from| world.machine.resolve(partition, from).unwrap().unwrap();
    assert_eq!((resolve(From::Earliest), resolve(From::Latest)), (1, 8));
    assert_eq!([0, 2000, 2001, 3000, 3001, 3002].map(|ms| resolve(From::Time(ms))), [1, 1, 4, 4, 6, 8]);
    assert_eq!([0, 5, 99].map(|offset| resolve(From::At(0, offset))), [1, 5, 8]);
    assert_eq!(resolve(From::At(7, 5)), 1);
}

#[test]
fn a_cut_keeps_count() {
    let mut world = World::new(0);
    let partition = world.create("orders");
    for _ in 0..4 {
        world.append(append(partition, &[None; 5])).unwrap();
    }
    let one = world.machine.partition(partition).unwrap().unwrap().bytes / 4;
    let mut cut = |before| {
        world.command(Command::Trim { partition, before });
        let stats = world.machine.partition(partition).unwrap().unwrap().stats();
        (stats.earliest, stats.next, stats.messages, stats.bytes / one)
    };
    assert_eq!(cut(7), (7, 20, 13, 3));
    assert_eq!(cut(3), (7, 20, 13, 3));
    assert_eq!(cut(10), (10, 20, 10, 2));
    assert_eq!(cut(999), (20, 20, 0, 0));
    assert_eq!(world.append(append(partition, &[None])).unwrap()[0].offset, 20);
    assert_eq!(world.machine.locate(partition, 0, 10).unwrap().len(), 1);
}

#[test]
fn retention_cuts_by_age_and_by_size() {
    let mut world = World::new(0);
    let partition = world.create("orders");
    for n in 0..10 {
        world.now_ms = 10_000 + n * 100;
        world.append(append(partition, &[None, None])).unwrap();
    }
    assert!(world.machine.upkeep(11_000).unwrap().is_empty());
    assert_eq!(world.machine.upkeep(11_301).unwrap(), [Command::Trim { partition, before: 8 }]);
    let bytes = world.machine.partition(partition).unwrap().unwrap().bytes;
    let change = TopicChange { retention_bytes: Some(Some(bytes / 2)), ..TopicChange::default() };
    world.command(Command::AlterTopic { name: name("orders"), change });
    assert_eq!(world.machine.upkeep(11_000).unwrap(), [Command::Trim { partition, before: 10 }]);
    world.command(Command::Trim { partition, before: 10 });
    assert!(world.machine.upkeep(11_000).unwrap().is_empty());
}

#[test]
fn ids_are_forgotten_when_their_window_is_over() {
    let mut world = World::new(0);
    let partition = world.create("orders");
    world.now_ms = 10_000;
    world.append(append(partition, &[Some(1), Some(2)])).unwrap();
    world.now_ms = 10_150;
    world.append(append(partition, &[Some(3)])).unwrap();
    assert!(world.machine.upkeep(10_200).unwrap().is_empty());
    let due = world.machine.upkeep(10_201).unwrap();
    assert_eq!(due, [Command::ExpireIds { partition, before_ms: 10_001 }]);
    world.command(due[0].clone());
    assert_eq!([1, 2, 3].map(|id| world.machine.dedup(partition, &digest(id))), [None, None, Some(2)]);
    assert_eq!(world.machine.ids_bytes(), crate::machine::ID_BYTES);
}

#[test]
fn idle_producers_are_forgotten_and_never_taken_as_new() {
    let mut world = World::new(0);
    let partition = world.create("orders");
    let day = PRODUCER_IDLE_MS;
    world.now_ms = 10 * day;
    let old = ProducerId::new(world.now_ms, 1).0;
    let internal = -5;
    world.append(numbered(partition, old, &[1], 0, 0)).unwrap();
    world.append(numbered(partition, internal, &[77], 0, 0)).unwrap();
    assert!(world.machine.upkeep(11 * day).unwrap().iter().all(|due| !matches!(due, Command::ExpireProducers { .. })));
    world.now_ms = 11 * day + 1;
    let due = Command::ExpireProducers { partition, before_ms: 10 * day + 1 };
    assert!(world.machine.upkeep(world.now_ms).unwrap().contains(&due));
    assert_eq!(world.command(due), Some(Outcome::Expired { partition, count: 1 }));

    assert_eq!(world.append(numbered(partition, old, &[1], 0, 0)).unwrap_err().code, Code::Conflict);
    let young = ProducerId::new(world.now_ms, 1).0;
    assert_eq!(world.append(numbered(partition, young, &[1], 0, 0)).unwrap()[0].offset, 2);
    let again = world.append(numbered(partition, internal, &[77], 0, 0)).unwrap();
    assert!(again[0].duplicate && again[0].offset == 1, "internal producers are never forgotten");
}

#[test]
fn a_failed_machine_stays_failed() {
    let mut world = World::new(0);
    world.create("orders");
    let entry = Entry { now_ms: 1, commands: vec![] };
    assert!(world.machine.apply(pos(1), &entry, |_| None).is_err(), "an entry is applied once");
    assert!(world.machine.apply(pos(5), &entry, |_| None).is_err());
    assert!(world.machine.commit().is_err());
}

#[test]
fn membership_and_position_survive() {
    let stores = ModelStores::new();
    let mut machine = open(&stores);
    machine.apply_membership(pos(1), "members".into()).unwrap();
    machine.apply_blank(pos(2)).unwrap();
    machine.commit().unwrap();
    assert_eq!((machine.committed(), machine.durable_applied()), (Some(pos(2)), None));
    machine.flush().unwrap();
    machine.apply_blank(pos(3)).unwrap();
    machine.commit().unwrap();
    drop(machine);
    stores.crash();
    let machine = open(&stores);
    assert_eq!((machine.applied(), machine.durable_applied()), (Some(pos(2)), Some(pos(2))));
    assert_eq!(machine.membership(), Some(&(pos(1), "members".into())));
}
