//! Partitions against lists of messages: places, duplicates, cuts, counts.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::world::*;
use crate::entry::Command;
use crate::leader::verdicts::Ruling;
use crate::log::Placed;

/// A partition as one would write it down: the id of each message, and when it was stored.
#[derive(Default)]
struct Naive {
    messages: Vec<(Option<u8>, i64)>,
    earliest: u64,
    ids: BTreeMap<u8, u64>,
    last_ms: i64,
}

impl Naive {
    fn append(&mut self, ids: &[Option<u8>], now_ms: i64) -> Vec<Placed> {
        let mut placed = Vec::new();
        for id in ids {
            if let Some(offset) = id.and_then(|id| self.ids.get(&id)) {
                placed.push(Placed { offset: *offset, duplicate: true });
                continue;
            }
            // A batch of nothing but duplicates is not stored, and leaves no time.
            self.last_ms = self.last_ms.max(now_ms);
            let offset = self.messages.len() as u64;
            self.messages.push((*id, self.last_ms));
            self.ids.extend(id.map(|id| (id, offset)));
            placed.push(Placed { offset, duplicate: false });
        }
        placed
    }

    fn expire(&mut self, before_ms: i64) {
        let messages = &self.messages;
        self.ids.retain(|_, offset| messages[*offset as usize].1 >= before_ms);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_partition_is_the_list_of_its_messages(
        steps in prop::collection::vec((0u8..8, prop::collection::vec(prop::option::of(0u8..12), 1..6), any::<u16>()), 1..120),
        fly in 0usize..4,
    ) {
        let mut world = World::new(fly);
        let partition = world.create("ta");
        let mut naive = Naive::default();
        for (kind, ids, c) in steps {
            world.now_ms += i64::from(c % 40) - 8;
            match kind {
                0 => {
                    let before = u64::from(c) % (naive.messages.len() as u64 + 2);
                    let ruling = world.verdicts.trim(&mut world.machine, partition, Some(before)).unwrap();
                    let Ruling::Propose(command, _) = ruling else { panic!() };
                    world.command(command);
                    naive.earliest = before.clamp(naive.earliest, naive.messages.len() as u64);
                }
                1 if c % 2 == 0 => {
                    // An expiry takes effect when it is applied: let nothing fly past it.
                    world.settle();
                    let before_ms = world.now_ms - i64::from(c % 300);
                    world.command(Command::ExpireIds { partition, before_ms });
                    world.settle();
                    naive.expire(before_ms);
                }
                _ => {
                    let placed = world.append(append(partition, &ids)).unwrap();
                    prop_assert_eq!(placed, naive.append(&ids, world.now_ms));
                }
            }
            if fly == 0 {
                let stats = world.machine.partition(partition).unwrap().unwrap().stats();
                prop_assert_eq!((stats.earliest, stats.next), (naive.earliest, naive.messages.len() as u64));
                prop_assert_eq!(stats.messages, stats.next - stats.earliest);
            }
        }
        world.settle();
        let row = world.machine.partition(partition).unwrap().unwrap();
        prop_assert_eq!((row.earliest, row.next), (naive.earliest, naive.messages.len() as u64));
        let bytes = row.bytes;

        // Every message retained is in a batch that is there, and what is counted is what is there.
        let batches = world.machine.locate(partition, naive.earliest, 1000).unwrap();
        prop_assert_eq!(batches.iter().map(|(_, location)| u64::from(location.length())).sum::<u64>(), bytes);
        prop_assert_eq!(batches.is_empty(), naive.earliest == naive.messages.len() as u64);
        prop_assert!(batches.first().is_none_or(|(base, _)| *base <= naive.earliest));
        let everything = world.machine.locate(partition, 0, 1000).unwrap();
        prop_assert_eq!(everything, batches);

        // A search by time agrees with a look at each message.
        for at_ms in [0, world.now_ms - 400, world.now_ms - 100, world.now_ms, world.now_ms + 1] {
            let found = world.machine.resolve(partition, crate::log::From::Time(at_ms)).unwrap().unwrap();
            let first = naive.messages.iter().position(|(_, stored_ms)| *stored_ms >= at_ms);
            let first = first.map_or(naive.messages.len() as u64, |first| first as u64);
            prop_assert_eq!(found, first.max(naive.earliest));
        }
    }
}
