use gem_types::{Incarnation, ReplicaId};
use proptest::prelude::*;

use super::*;
use crate::directory::Seat;

fn group(n: u64) -> GroupId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&Position::of(&[&n.to_be_bytes()]).0.to_be_bytes());
    GroupId(id)
}

fn shard(n: u64, prefix: &str, epoch: u64) -> Descriptor {
    let prefix = prefix.parse().unwrap();
    Descriptor { prefix, group: group(n), epoch, seats: vec![], leader: None, term: 1 }
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_split_shrinks_the_parent() {
    let mut table = Table::new(NodeId([1; 32]), 10);
    let position = Position(0b011 << 61);
    assert!(table.learn(shard(1, "01", 5), at(0)));
    assert_eq!(table.find(position).unwrap().group, group(1));
    assert!(table.learn(shard(2, "011", 1), at(0)));
    assert_eq!(table.find(position).unwrap().group, group(2));
    assert!(table.learn(shard(1, "010", 6), at(0)));
    assert!(!table.learn(shard(1, "01", 5), at(0)), "an older one is no news");
    assert_eq!(table.find(Position(0b010 << 61)).unwrap().epoch, 6);
    assert_eq!(table.covering("01".parse().unwrap()).len(), 2);
    assert_eq!(table.covering("0110".parse().unwrap())[0].group, group(2));
    assert!(table.find(Position(0)).is_none());
}

#[test]
fn a_retired_group_stays_away() {
    let mut table = Table::new(NodeId([1; 32]), 10);
    table.learn(shard(1, "0", 5), at(0));
    table.retire(group(1), at(1));
    assert!(!table.learn(shard(1, "0", 9), at(2)));
    assert!(table.find(Position(0)).is_none());
    assert_eq!(table.parts(), &[0; PARTS]);
    for n in 0..2 * RETIRED_MAX as u64 {
        table.retire(group(n), at(3));
    }
    assert_eq!(table.retired.len(), RETIRED_MAX);
}

#[test]
fn the_oldest_far_one_goes_first_and_ones_own_never() {
    let mut table = Table::new(NodeId([0; 32]), 3);
    let mut own = shard(1, "1111", 1);
    let replica = ReplicaId { node: NodeId([0; 32]), incarnation: Incarnation(1) };
    own.seats.push(Seat { replica, is_voter: true });
    table.learn(own, at(0));
    table.learn(shard(2, "00", 1), at(0));
    table.learn(shard(3, "10", 1), at(0));
    table.learn(shard(4, "01", 1), at(100));
    assert!(table.get(group(3)).is_none(), "the far one of the oldest minute went");
    table.learn(shard(2, "00", 1), at(200));
    table.learn(shard(5, "110", 1), at(200));
    assert!(table.get(group(4)).is_none(), "what was confirmed since stays");
    assert!(table.get(group(1)).is_some() && table.get(group(2)).is_some());
    assert_eq!(table.len(), 3);
}

proptest! {
    /// Against a list that is searched from end to end.
    #[test]
    fn finds_as_a_plain_list_does(
        steps in prop::collection::vec((0u64..20, 0u8..6, any::<u64>(), 0u64..8), 1..60),
        probes in prop::collection::vec(any::<u64>(), 20),
    ) {
        let mut table = Table::new(NodeId([9; 32]), 1000);
        let mut list: BTreeMap<GroupId, (Descriptor, u64)> = BTreeMap::new();
        for (i, (n, length, bits, epoch)) in steps.iter().enumerate() {
            let prefix = Prefix::new(*bits, *length).unwrap();
            let d = Descriptor { prefix, group: group(*n), epoch: *epoch, seats: vec![], leader: None, term: 0 };
            let news = list.get(&d.group).is_none_or(|(known, _)| d.is_newer_than(known));
            prop_assert_eq!(table.learn(d.clone(), at(i as u64)), news);
            match list.get_mut(&d.group) {
                Some((known, confirmed)) if !news && known.epoch == d.epoch => *confirmed = i as u64,
                Some(_) if !news => {}
                _ => { list.insert(d.group, (d, i as u64)); }
            }
        }
        for p in probes {
            let best = list.values().filter(|(d, _)| d.holds(Position(p)))
                .max_by_key(|(d, confirmed)| (d.prefix.length(), *confirmed)).map(|(d, _)| d);
            prop_assert_eq!(table.find(Position(p)), best);
            let prefix = Prefix::new(p, 3).unwrap();
            let inside = list.values().filter(|(d, _)| prefix.contains(d.prefix.first()) && d.prefix.length() >= 3).count();
            let above = list.values().any(|(d, _)| d.prefix.length() < 3 && d.holds(prefix.first()));
            prop_assert_eq!(table.covering(prefix).len(), inside + usize::from(above));
        }
        let mut same = Table::new(NodeId([3; 32]), 1000);
        for (d, _) in list.values().rev() {
            same.learn(d.clone(), at(0));
        }
        prop_assert_eq!(table.parts(), same.parts());
    }
}
