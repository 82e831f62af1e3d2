//! What goes wrong, by seed.

use std::sync::Arc;
use std::time::Duration;

use crate::chance::Chance;
use crate::event::{End, Event};
use crate::world::World;

/// How a life ends.
pub fn draw_end(chance: &mut Chance) -> End {
    match chance.below(100) {
        0..35 => End::PowerCut,
        35..75 => End::PowerCutAfter(chance.below(40)),
        75..85 => End::Killed,
        _ => End::Stopped,
    }
}

/// How the last life ends, in which nobody is at work.
pub fn draw_last_end(chance: &mut Chance) -> End {
    match chance.below(3) {
        0 => End::PowerCut,
        1 => End::Killed,
        _ => End::Stopped,
    }
}

/// Slow flushes and jumps of the wall clock, until it is aborted.
pub async fn disturb(world: Arc<World>, mut chance: Chance) {
    world.set_slow(false);
    loop {
        tokio::time::sleep(Duration::from_millis(chance.between(100, 2_500))).await;
        match chance.below(4) {
            0 => {
                world.set_slow(true);
                tokio::time::sleep(Duration::from_millis(chance.between(100, 1_500))).await;
                world.set_slow(false);
            }
            1 => {
                // Mostly by seconds; now and then so far that ids leave their window.
                let ms = if chance.percent(80) { chance.below(5_000) } else { chance.between(60_000, 400_000) };
                world.clock.jump(ms);
                world.emit(Event::Jumped(ms));
            }
            _ => {}
        }
    }
}
