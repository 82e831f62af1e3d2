//! Operators: purges, deletions, seeks, index flushes, and looks at groups' state.

use gem_shard::log::{From, GroupRef};
use gem_shard::machine::Machine;

use super::{Mesh, group, topic};
use crate::chance::Chance;
use crate::event::{Answer, Event, GroupView};
use crate::setup::TopicSetup;
use crate::stores::View;

/// Does this and that until it is aborted.
pub async fn run(mesh: Mesh, mut chance: Chance) {
    loop {
        mesh.rest(chance.between(50, 500)).await;
        let Some(setup) = chance.pick(&mesh.world.setup.topics).cloned() else { return };
        match chance.below(10) {
            0..2 if setup.purges => purge(&mesh, &setup).await,
            0..4 if setup.churns => delete(&mesh, &setup).await,
            4 => seek(&mesh, &setup, &mut chance).await,
            5 | 6 => {
                if let Some(shard) = chance.pick(&mesh.door.replicas()) {
                    // Where it fails the disk is gone, and the life with it.
                    let _ = shard.flush_index().await;
                }
            }
            // Of several replicas each is at another place.
            _ if mesh.world.setup.is_mesh => {}
            _ => probe(&mesh),
        }
    }
}

async fn purge(mesh: &Mesh, setup: &TopicSetup) {
    let Some(name) = topic(setup.name) else { return };
    let Some(partition) = mesh.partition(&name, None).await else { return };
    let Some(home) = mesh.home(&name) else { return };
    mesh.world.emit(Event::Purging(partition));
    let answer = Answer::of(home.trim(partition, None).await);
    // Read at once, for others publish meanwhile; what is stored by now bounds what was purged.
    let next = match home.stats(partition).await {
        Ok(stats) => stats.next,
        Err(_) => u64::MAX,
    };
    mesh.world.emit(Event::Purged(partition, answer, next));
}

async fn delete(mesh: &Mesh, setup: &TopicSetup) {
    let Some(name) = topic(setup.name) else { return };
    let Some(partition) = mesh.partition(&name, None).await else { return };
    let Some(home) = mesh.home(&name) else { return };
    mesh.world.emit(Event::Deleting(partition));
    let answer = Answer::of(home.delete_topic(name.clone()).await);
    mesh.world.emit(Event::Deleted(partition, answer));
}

async fn seek(mesh: &Mesh, setup: &TopicSetup, chance: &mut Chance) {
    let Some(name) = topic(setup.name) else { return };
    let Some((group_name, _)) = chance.pick(&setup.groups) else { return };
    // Most groups are left alone, for more can be said of them.
    if *group_name != "graphs" && *group_name != "billing" {
        return;
    }
    let Some(partition) = mesh.partition(&name, None).await else { return };
    let (Some(home), Some(group)) = (mesh.home(&name), group(&name, partition, group_name)) else { return };
    let number = chance.below(20);
    let Ok(next) = home.resolve(partition, 0, From::Latest).await else { return };
    let to = next.saturating_sub(number);
    let op = mesh.world.op();
    mesh.world.emit(Event::Seek { op, group: group.clone(), to });
    let answer = Answer::of(home.seek(group, to).await);
    mesh.world.emit(Event::Sought { op, answer });
}

/// Looks at every group's state, as applied.
pub fn probe(mesh: &Mesh) {
    let partitions = mesh.world.facts(|facts| {
        let known = facts.partitions.iter().filter(|(_, fact)| !fact.is_going);
        known.map(|(id, fact)| (*id, fact.topic.clone())).collect::<Vec<_>>()
    });
    for shard in mesh.door.replicas() {
        let Ok(store) = shard.store() else { continue };
        let Ok(mut machine) = Machine::open(std::sync::Arc::new(View(store))) else { continue };
        for (partition, name) in partitions.iter().filter(|(_, name)| shard.prefix().contains(name.position())) {
            for setup in mesh.world.setup.topics.iter().filter(|setup| setup.name == name.as_str()) {
                let groups = setup.groups.iter().filter_map(|(group_name, _)| group(name, *partition, group_name));
                for group in groups {
                    if let Some(view) = view(&mut machine, &group) {
                        mesh.world.emit(Event::Probe { group, view });
                    }
                }
            }
        }
    }
}

fn view(machine: &mut Machine, group: &GroupRef) -> Option<GroupView> {
    let state = machine.group(group).ok()??;
    Some(GroupView {
        life: state.life,
        seeks: state.seeks,
        floor: state.floor,
        acked: state.acked.iter().map(|range| (range.start, range.end)).collect(),
        attempts: state.attempts.iter().map(|(offset, count)| (*offset, *count)).collect(),
    })
}
