//! Reads everything, while nobody is at work.

use std::time::Duration;

use gem_shard::log::Read;
use gem_store::index::ordered::Family;
use gem_types::{Error, PartitionId, Result, TopicName};

use super::{Mesh, admin, group, members, seen_in};
use crate::event::Event;
use crate::trace;

/// How long a group may take to be emptied: longer than any delay of the workload, and any backoff.
const DRAIN_PATIENCE: Duration = Duration::from_secs(900);

/// Audits every partition and every group's state.
pub async fn audit(mesh: &Mesh) -> Result<()> {
    for (name, partition) in partitions(mesh).await? {
        audit_partition(mesh, &name, partition).await?;
    }
    mesh.world.emit(Event::Audited);
    admin::probe(mesh);
    Ok(())
}

/// Empties every group.
pub async fn drain(mesh: &Mesh) -> Result<()> {
    for (name, partition) in partitions(mesh).await? {
        for setup in mesh.world.setup.topics.iter().filter(|setup| setup.name == name.as_str()) {
            for group in setup.groups.iter().filter_map(|(group_name, _)| group(&name, partition, group_name)) {
                if let Some(lag) = members::drain(mesh, &group, DRAIN_PATIENCE).await {
                    mesh.world.emit(Event::Drained { group, lag });
                }
            }
        }
    }
    Ok(())
}

/// The state's rows begin behind the applied index (gem-shard's `machine/keys.rs`), which every
/// start raises: a term begins with an entry of its own.
const BEHIND_APPLIED: [u8; 2] = [1, 2];

/// Notes every shard's state, of which nothing is on its way.
pub fn digests(mesh: &Mesh) -> Result<()> {
    for shard in mesh.door.replicas() {
        let store = shard.store().map_err(|e| Error::internal(e.to_string()))?;
        let rows = store.scan(Family::State, &BEHIND_APPLIED, &[u8::MAX], usize::MAX);
        let rows = rows.map_err(|e| Error::internal(e.to_string()))?;
        let digest = rows.iter().fold(trace::EMPTY, |hash, (key, value)| trace::hash(trace::hash(hash, key), value));
        mesh.world.emit(Event::Digest { shard: shard.prefix().to_string(), rows: rows.len(), digest });
    }
    Ok(())
}

async fn partitions(mesh: &Mesh) -> Result<Vec<(TopicName, PartitionId)>> {
    let mut all = Vec::new();
    for shard in mesh.door.logs() {
        let page = shard.list_topics(String::new(), None, 1_000).await?;
        for info in page.topics {
            for partition in &info.partitions {
                mesh.world.meet(partition.id, &info.name, &info.config);
                all.push((info.name.clone(), partition.id));
            }
        }
    }
    Ok(all)
}

async fn audit_partition(mesh: &Mesh, name: &TopicName, partition: PartitionId) -> Result<()> {
    let Some(home) = mesh.home(name) else { return Ok(()) };
    let (mut at, mut records) = (0, Vec::new());
    loop {
        let read = Read { partition, from: at, max_bytes: 256 << 10, wait: Duration::ZERO };
        let out = home.read(read).await?;
        for batch in &out.batches {
            records.extend(seen_in(batch, at.max(out.stats.earliest))?);
        }
        at = out.next;
        if at >= out.stats.next {
            // A cut may have fallen between two reads.
            records.retain(|seen| seen.offset >= out.stats.earliest);
            mesh.world.emit(Event::Audit { partition, stats: out.stats, records });
            return Ok(());
        }
    }
}
