use proptest::prelude::*;

use super::*;

fn shard(prefix: &str, epoch: u64) -> Descriptor {
    let prefix: Prefix = prefix.parse().unwrap();
    let mut group = [0; 16];
    group[..9].copy_from_slice(&prefix.to_bytes());
    Descriptor { prefix, group: GroupId(group), epoch, seats: vec![], leader: None, term: 0 }
}

fn node(n: u8) -> NodeId {
    NodeId([n; 32])
}

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn routes() -> (Routes, Table) {
    (Routes::new(Settings::default(), 1), Table::new(node(1), 100))
}

#[test]
fn what_is_known_is_not_asked_for() {
    let (mut routes, mut table) = routes();
    routes.learn(shard("01", 1), &mut table, at(0));
    let route = routes.route(Position(1 << 62), &table, &[node(2)], at(0));
    assert_eq!(route, Route::Known(shard("01", 1)));
    assert_eq!((routes.take_actions(), routes.next_timer()), (vec![], None));
}

#[test]
fn a_member_that_knows_answers() {
    let (mut asking, mut empty) = routes();
    let (mut answering, mut table) = routes();
    answering.learn(shard("1", 4), &mut table, at(0));
    let position = Position(u64::MAX);
    assert_eq!(asking.route(position, &empty, &[node(2)], at(0)), Route::Asked);
    assert_eq!(asking.route(position, &empty, &[node(2)], at(1)), Route::Asked);
    let actions = asking.take_actions();
    let [Action::Search(searched), Action::Send { to, bytes }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((*searched, *to), (position, node(2)), "asked once for two callers");
    answering.hear(node(1), bytes, &mut table, at(2));
    let actions = answering.take_actions();
    let [Action::Send { bytes, .. }] = &actions[..] else { panic!("{actions:?}") };
    asking.hear(node(2), bytes, &mut empty, at(3));
    assert_eq!(asking.take_actions(), [Action::Found(position, shard("1", 4))]);
    assert_eq!(asking.next_timer(), None);
}

#[test]
fn others_are_asked_and_in_the_end_it_is_lost() {
    let (mut routes, table) = routes();
    let members: Vec<_> = (2..100).map(node).collect();
    routes.route(Position(5), &table, &members, at(0));
    let (mut asked, mut lost) = (BTreeSet::new(), None);
    while let Some(now) = routes.next_timer() {
        for action in routes.take_actions() {
            if let Action::Send { to, .. } = action {
                asked.insert(to);
            }
        }
        routes.tick(&members, now);
        lost = Some(now);
    }
    assert_eq!(routes.take_actions(), [Action::Lost(Position(5))]);
    assert_eq!(lost, Some(Settings::default().give_up_after));
    assert!(asked.len() > 15, "{} were asked", asked.len());
}

#[test]
fn a_doubted_route_takes_something_newer() {
    let (mut routes, mut table) = routes();
    routes.learn(shard("1", 1), &mut table, at(0));
    routes.doubt(Position(u64::MAX), &table, &[node(2)], at(0));
    assert_eq!(routes.take_actions().len(), 2);
    routes.learn(shard("1", 1), &mut table, at(1));
    assert_eq!(routes.take_actions(), []);
    routes.learn(shard("1", 2), &mut table, at(1));
    assert_eq!(routes.take_actions(), [Action::Found(Position(u64::MAX), shard("1", 2))]);
}

#[test]
fn a_former_replica_forwards_for_a_day() {
    let (mut routes, mut table) = routes();
    let parent = shard("01", 1);
    routes.gave_up(parent.group, parent.prefix, vec![shard("010", 2), shard("011", 2)], at(0));
    let day = Settings::default().former_for;
    assert_eq!(routes.former("0110".parse().unwrap(), at(5)), [&shard("011", 2)]);
    assert_eq!(routes.former("0".parse().unwrap(), at(5)).len(), 2);
    assert!(routes.former("1".parse().unwrap(), at(5)).is_empty());
    assert!(routes.former("01".parse().unwrap(), day).is_empty());
    routes.hear(node(2), &Message::Ask(Position(0b011 << 61)).encode(), &mut table, at(6));
    let actions = routes.take_actions();
    let [Action::Send { to, bytes }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((*to, Message::decode(bytes)), (node(2), Some(Message::Tell(vec![shard("011", 2)]))));
    assert_eq!(routes.route(Position(0b010 << 61), &table, &[], at(7)), Route::Known(shard("010", 2)));
}

#[test]
fn memories_and_questions_are_bounded() {
    let (mut routes, table) = routes();
    for n in 0..2 * FORMER_MAX as u64 {
        let mut group = [0; 16];
        group[..8].copy_from_slice(&n.to_be_bytes());
        routes.gave_up(GroupId(group), Prefix::ROOT, vec![shard("0", 1); 20], at(n));
        routes.route(Position(u64::MAX - n), &table, &[], at(0));
    }
    assert_eq!((routes.former.len(), routes.questions.len()), (FORMER_MAX, QUESTIONS_MAX));
    assert!(routes.former.values().all(|f| f.since >= at(FORMER_MAX as u64) && f.successors.len() == ANSWER_MAX));
    let lost = routes.take_actions().iter().filter(|a| matches!(a, Action::Lost(_))).count();
    assert_eq!(lost, 2 * FORMER_MAX - QUESTIONS_MAX);
}

proptest! {
    #[test]
    fn anything_can_be_heard(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let (mut routes, mut table) = routes();
        bytes.insert(0, VERSION);
        routes.hear(node(2), &bytes, &mut table, at(0));
        routes.hear(node(2), &bytes[1..], &mut table, at(0));
    }
}
