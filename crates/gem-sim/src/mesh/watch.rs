//! Looks at replicas, as nobody in a mesh can: who leads, and what each holds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use gem_shard::machine::Machine;
use gem_shard::{Shard, Status};
use gem_store::index::ordered::Family;
use gem_types::{GroupId, ReplicaId};

use crate::event::Event;
use crate::stores::View;
use crate::trace;
use crate::world::World;

/// The state's rows begin behind the applied index (gem-shard's `machine/keys.rs`).
const BEHIND_APPLIED: [u8; 2] = [1, 2];

/// Tells of every change of leader once.
pub struct Watch {
    world: Arc<World>,
    leads: Mutex<BTreeMap<(GroupId, ReplicaId), u64>>,
}

impl Watch {
    /// Has seen nobody lead.
    pub fn new(world: Arc<World>) -> Arc<Watch> {
        Arc::new(Watch { world, leads: Mutex::default() })
    }

    /// Looks who leads.
    pub fn look(&self, replicas: &[Arc<Shard>]) {
        for shard in replicas {
            let Status::Leading { term } = shard.status() else { continue };
            let at = (shard.id(), shard.replica());
            let before = self.leads.lock().unwrap_or_else(PoisonError::into_inner).insert(at, term);
            if before != Some(term) {
                let (group, prefix, replica) = (shard.id(), shard.prefix(), shard.replica());
                self.world.emit(Event::Leads { group, prefix, term, replica });
            }
        }
    }

    /// Tells what each replica holds.
    pub fn digest(&self, replicas: &[Arc<Shard>]) {
        for shard in replicas {
            let Some((index, digest)) = held(shard) else { continue };
            self.world.emit(Event::Applied { group: shard.id(), replica: shard.replica(), index, digest });
        }
    }
}

/// Up to which entry a replica has applied the log, and a hash of what it holds.
fn held(shard: &Shard) -> Option<(u64, u64)> {
    let store = shard.store().ok()?;
    let machine = Machine::open(Arc::new(View(store.clone()))).ok()?;
    let index = machine.applied()?.index;
    let rows = store.scan(Family::State, &BEHIND_APPLIED, &[u8::MAX], usize::MAX).ok()?;
    let digest = rows.iter().fold(trace::EMPTY, |hash, (key, value)| trace::hash(trace::hash(hash, key), value));
    Some((index, digest))
}
