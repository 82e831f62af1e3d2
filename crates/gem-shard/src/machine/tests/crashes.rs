//! Replay: wherever a crash falls, and however entries were grouped into commits, the rows are
//! the same in the end.

use gem_store::index::locations;
use gem_store::index::model::ModelStores;
use proptest::prelude::*;

use super::world::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn replay_after_crashes_ends_at_the_same_rows(
        steps in prop::collection::vec(any::<Step>(), 1..160),
        fly in 0usize..4,
        chaos in prop::collection::vec(0u8..12, 1..400),
        unasked in 0u64..6,
    ) {
        let mut world = World::new(fly);
        for topic in ["ta", "tb"] {
            world.create(topic);
        }
        steps.into_iter().for_each(|step| world.step(step));
        world.settle();

        let stores = ModelStores::new();
        stores.flush_every(unasked);
        let mut machine = open(&stores);
        let mut chaos = chaos.into_iter().cycle().take(4 * world.log.len() + 400);
        loop {
            let index = machine.applied().map_or(1, |applied| applied.index + 1);
            let Some(entry) = world.log.get(index as usize - 1) else { break };
            machine.apply(pos(index), entry, place(index, entry)).unwrap();
            match chaos.next() {
                Some(0) => machine.flush().unwrap(),
                Some(1) => {
                    drop(machine);
                    stores.crash();
                    machine = open(&stores);
                    prop_assert_eq!(machine.durable_applied(), machine.applied());
                }
                Some(2..=5) => {}
                _ => machine.commit().unwrap(),
            }
        }
        machine.commit().unwrap();
        prop_assert_eq!(machine.digest().unwrap(), world.machine.digest().unwrap());
        let live = |machine: &crate::machine::Machine| locations::live_files(&**machine.store()).unwrap();
        prop_assert_eq!(live(&machine), live(&world.machine));

        // A reopened machine knows what the one that ran knows.
        let ids = machine.ids_bytes();
        drop(machine);
        let mut machine = open(&stores);
        prop_assert_eq!(machine.ids_bytes(), ids);
        prop_assert_eq!(machine.ids_bytes(), world.machine.ids_bytes());
        let groups = world.machine.all_groups().unwrap();
        prop_assert_eq!(&machine.all_groups().unwrap(), &groups);
        for group in groups {
            prop_assert_eq!(machine.group(&group).unwrap(), world.machine.group(&group).unwrap());
        }
    }
}
