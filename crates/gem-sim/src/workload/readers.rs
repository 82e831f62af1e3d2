//! Readers without a group.

use std::time::Duration;

use gem_shard::log::Read;

use super::{Mesh, seen_in, topic};
use crate::chance::Chance;
use crate::event::Event;

/// Follows a topic from somewhere on, until it is aborted. One a partition at the most: tokio
/// wakes several waiters of one watch in an order that no seed decides.
pub async fn run(mesh: Mesh, name: &'static str, mut chance: Chance) {
    let Some(name) = topic(name) else { return };
    let mut at = None;
    loop {
        mesh.rest(chance.between(1, 200)).await;
        let Some(partition) = mesh.partition(&name, None).await else { continue };
        let Some(home) = mesh.home(&name) else { continue };
        if at.is_none_or(|(of, _)| of != partition) || chance.percent(3) {
            let Ok(stats) = home.stats(partition).await else { continue };
            at = Some((partition, chance.between(0, stats.next + 1)));
        }
        let Some((_, from)) = at else { continue };
        let wait = Duration::from_millis(chance.below(300));
        let read = Read { partition, from, max_bytes: chance.between(1, 20_000) as usize, wait };
        let Ok(out) = home.read(read).await else { continue };
        let begin = from.max(out.stats.earliest);
        let records = out.batches.iter().flat_map(|batch| seen_in(batch, begin).unwrap_or_default()).collect();
        mesh.world.emit(Event::Read { partition, from, next: out.next, records, stats: out.stats });
        at = Some((partition, out.next));
    }
}
