//! Picking a node for a replica.
//!
//! A shard prefers the nodes whose ids are XOR-closest to its prefix, so that most stay where they
//! are while nodes come and go, under a bound on load: a node that holds more than its share by a
//! quarter is passed over (consistent hashing with bounded loads, Mirrokni et al. 2018). Never two
//! in a zone, if zones allow.

use std::collections::BTreeSet;

use gem_types::{NodeId, Prefix, ring};

/// A node that might take a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub node: NodeId,
    /// Its zone; empty where it has none.
    pub zone: String,
    /// Replicas that it holds.
    pub replicas: u32,
    /// How much it can hold compared with others: bytes of memory.
    pub capacity: u64,
}

/// A node may hold so much more than its share before others are preferred, in percent.
const BOUND_PERCENT: u64 = 125;

/// The distance of a node from a prefix.
fn distance(node: NodeId, prefix: Prefix) -> u64 {
    let digest = ring::digest(&[b"gem placement", &node.0]);
    let mut head = [0; 8];
    head.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(head) ^ prefix.first().0
}

/// The node among `candidates` for a replica of the shard `prefix`; `zones` are those that its
/// other replicas are in. `None` where there is no candidate.
pub fn choose(prefix: Prefix, zones: &BTreeSet<String>, candidates: &[Candidate]) -> Option<NodeId> {
    let capacity: u128 = candidates.iter().map(|one| u128::from(one.capacity.max(1))).sum();
    let replicas: u128 = candidates.iter().map(|one| u128::from(one.replicas)).sum::<u128>() + 1;
    let is_over = |one: &Candidate| {
        // replicas / all > capacity / all × bound, without division.
        let bound = replicas * u128::from(one.capacity.max(1)) * u128::from(BOUND_PERCENT);
        (u128::from(one.replicas) + 1) * capacity * 100 > bound + capacity * 100
    };
    let key = |one: &Candidate| {
        let is_zone_taken = !one.zone.is_empty() && zones.contains(&one.zone);
        (is_zone_taken, is_over(one), distance(one.node, prefix), one.node)
    };
    candidates.iter().min_by_key(|one| key(one)).map(|one| one.node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn node(n: u8) -> Candidate {
        Candidate { node: NodeId([n; 32]), zone: String::new(), replicas: 0, capacity: 1 << 30 }
    }

    #[test]
    fn load_stays_near_its_share() {
        let mut candidates: Vec<_> = (0..5).map(node).collect();
        for prefix in Prefix::tiles(6) {
            for _ in 0..3 {
                let chosen = choose(prefix, &BTreeSet::new(), &candidates).unwrap();
                candidates.iter_mut().filter(|one| one.node == chosen).for_each(|one| one.replicas += 1);
            }
        }
        let most = candidates.iter().map(|one| one.replicas).max().unwrap();
        let all: u32 = candidates.iter().map(|one| one.replicas).sum();
        assert_eq!(all, 192);
        assert!(most <= 192 * 125 / 500 + 2, "{most}");
    }

    #[test]
    fn zones_go_before_all_else() {
        let mut candidates: Vec<_> = (0..4).map(node).collect();
        let zone = |one: &mut Candidate, zone: &str| one.zone = zone.into();
        for (one, name) in candidates.iter_mut().zip(["a", "a", "b", "b"]) {
            zone(one, name);
        }
        let taken = BTreeSet::from(["a".to_owned()]);
        let mut seen = BTreeMap::new();
        for prefix in Prefix::tiles(5) {
            *seen.entry(choose(prefix, &taken, &candidates).unwrap()).or_insert(0) += 1;
        }
        assert!(seen.keys().all(|node| node.0[0] >= 2), "{seen:?}");
        // Where there is no other zone, the same one is better than none.
        assert!(choose(Prefix::ROOT, &taken, &candidates[..2]).is_some());
        assert_eq!(choose(Prefix::ROOT, &taken, &[]), None);
    }
}
