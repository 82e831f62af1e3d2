//! How loaded this node is: a digest, told to the others each few seconds.

use std::sync::Arc;
use std::time::Duration;

use gem_mesh::membership::Load;
use gem_shard::Status;
use gem_store::budget::Budget;
use gem_store::journal::Journal;
use gem_store::objects::Objects;
use gem_types::seams::Clock;

use super::agent::Agent;
use crate::shards::Shards;

/// Between two digests.
const PAUSE: Duration = Duration::from_secs(2);

/// What a digest is made of.
pub struct Gauges {
    /// The node's shards.
    pub shards: Shards,
    /// The node's memory.
    pub budget: Budget,
    /// Its limit, in bytes.
    pub memory_limit: u64,
    /// The node's journal.
    pub journal: Journal,
    /// The node's objects.
    pub objects: Objects,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// Tells the others of the node's load for as long as it runs.
pub async fn tell(agent: Arc<Agent>, gauges: Gauges) {
    let mut version = 0;
    let (mut busy, mut at) = (busy_ms(), gauges.clock.monotonic());
    loop {
        version += 1;
        let (now_busy, now) = (busy_ms(), gauges.clock.monotonic());
        let passed = u64::try_from((now.saturating_sub(at)).as_millis()).unwrap_or(u64::MAX).max(1);
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
        let permille = now_busy.saturating_sub(busy).saturating_mul(1000) / passed / cores;
        (busy, at) = (now_busy, now);
        let shards = gauges.shards.all();
        let leads = shards.iter().filter(|shard| matches!(shard.status(), Status::Leading { .. })).count();
        let room = gauges.journal.room();
        if !room.publish_ok {
            gauges.journal.look_for_room();
        }
        agent.tell_load(Load {
            version,
            cpu_permille: u16::try_from(permille).unwrap_or(u16::MAX),
            memory_bytes: gauges.budget.used(),
            memory_limit: gauges.memory_limit,
            disk_bytes: gauges.journal.bytes() + gauges.objects.bytes(),
            disk_free: room.available.saturating_sub(room.reserve),
            replicas: u32::try_from(shards.len()).unwrap_or(u32::MAX),
            leaders: u32::try_from(leads).unwrap_or(u32::MAX),
            queue_bytes: 0,
            publish_rate: 0,
            is_disk_full: !room.publish_ok || gauges.journal.poisoned().is_some(),
        });
        tokio::time::sleep(PAUSE).await;
    }
}

/// The processor time that this process has used, in milliseconds; 0 where the system does not
/// tell it.
fn busy_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name in brackets, fields 14 and 15 of the whole: user and system time, in
    // hundredths of a second.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace()).into_iter().flatten();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * 10
}
