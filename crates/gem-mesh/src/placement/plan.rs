//! The next step for one shard, as its leader sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gem_types::{NodeId, Prefix, ReplicaId};

use super::choose::{Candidate, choose};

/// A replica, as the leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Whether it votes.
    pub is_voter: bool,
    /// Whether it holds the leader's log but for a little.
    pub is_caught_up: bool,
}

/// A shard, as its leader sees it.
#[derive(Clone, Debug)]
pub struct Shard {
    /// Its part of the ring.
    pub prefix: Prefix,
    /// The leader's own replica.
    pub leader: ReplicaId,
    /// All replicas, the leader's included.
    pub seats: BTreeMap<ReplicaId, Replica>,
}

/// A node, as the leader's node sees it.
#[derive(Clone, Debug)]
pub struct Sight {
    /// For how long it has been down; `None` where it answers.
    pub down_for: Option<Duration>,
    /// Whether it has not answered of late: nothing new is given to it.
    pub is_suspect: bool,
    /// Whether a person has taken it out of the mesh.
    pub is_removed: bool,
    /// Whether it is being emptied.
    pub is_draining: bool,
    /// Whether its disk takes no more.
    pub is_full: bool,
    /// Its zone.
    pub zone: String,
    /// Replicas that it holds, and of those how many it leads.
    pub replicas: u32,
    /// See `replicas`.
    pub leaders: u32,
    /// How much it can hold compared with others: bytes of memory.
    pub capacity: u64,
}

impl Sight {
    fn may_take(&self) -> bool {
        self.may_lead() && !self.is_draining
    }

    fn may_lead(&self) -> bool {
        self.down_for.is_none() && !self.is_suspect && !self.is_removed && !self.is_full
    }

    /// Whether it counts as a member: a node that is being emptied or was removed does not.
    fn is_member(&self) -> bool {
        !self.is_removed && !self.is_draining
    }
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Rest,
    /// Make a replica that does not vote yet, on this node.
    Add(NodeId),
    /// Make these the voters, by one joint change; every other replica goes.
    SetVoters(BTreeSet<ReplicaId>),
    /// Drop these, which do not vote.
    DropLearners(BTreeSet<ReplicaId>),
    /// Hand leadership to this voter.
    HandOver(ReplicaId),
}

/// Leaderships are evened out only where two nodes differ by so many, and replicas likewise.
const SLACK: u32 = 2;

/// The next step for `shard` in a mesh of `nodes`, whose shards should have `replicas` voters each.
/// A dead node's replica is replaced after `replace_after`, stretched by the share of nodes that
/// are down. `may_balance`: whether what is well may be moved for the sake of balance.
pub fn plan(
    shard: &Shard,
    nodes: &BTreeMap<NodeId, Sight>,
    replicas: u32,
    replace_after: Duration,
    may_balance: bool,
) -> Step {
    let members = nodes.values().filter(|sight| sight.is_member()).count();
    let wanted = (replicas as usize).min(members).max(1);
    let down = nodes.values().filter(|sight| sight.down_for.is_some() && !sight.is_removed).count();
    // Many at once are more likely a partition or a power cut than so many broken disks.
    let patience = replace_after * u32::try_from(1 + 3 * down / nodes.len().max(1)).unwrap_or(1);
    let is_gone = |replica: &ReplicaId| match nodes.get(&replica.node) {
        Some(sight) => sight.is_removed || sight.down_for.is_some_and(|down_for| down_for >= patience),
        // Forgotten by membership: down for an hour or more.
        None => true,
    };
    let is_leaving = |replica: &ReplicaId| nodes.get(&replica.node).is_some_and(|sight| sight.is_draining);
    let voters: BTreeSet<ReplicaId> = seats_of(shard, true);
    let learners: BTreeSet<ReplicaId> = seats_of(shard, false);
    let lost: BTreeSet<ReplicaId> = learners.iter().filter(|one| is_gone(one) || is_leaving(one)).copied().collect();
    if !lost.is_empty() {
        return Step::DropLearners(lost);
    }
    let stay: BTreeSet<ReplicaId> = voters.iter().filter(|one| !is_gone(one) && !is_leaving(one)).copied().collect();
    let ready = |one: &&ReplicaId| shard.seats.get(one).is_some_and(|seat| seat.is_caught_up);
    let ready: BTreeSet<ReplicaId> = learners.iter().filter(ready).copied().collect();
    if stay.len() < wanted {
        if stay.len() + learners.len() < wanted {
            return add(shard, nodes).map_or(Step::Rest, Step::Add);
        }
        // A mesh of two has one voter and a learner: two voters would stop with either.
        let is_pair = wanted == 2 && voters.len() == 1 && stay.len() == 1;
        if !is_pair && stay.len() + ready.len() >= wanted {
            return set_voters(shard, &stay, &ready, wanted);
        }
        return Step::Rest;
    }
    if voters.len() > stay.len() || voters.len() > wanted {
        // Fewer members than voters, or more voters than wanted: those that stay are enough.
        let mut keep: Vec<ReplicaId> = stay.iter().copied().collect();
        let load = |one: &ReplicaId| nodes.get(&one.node).map_or(u32::MAX, |sight| sight.replicas);
        keep.sort_by_key(|one| (*one != shard.leader, load(one), *one));
        keep.truncate(wanted);
        let keep: BTreeSet<ReplicaId> = keep.into_iter().collect();
        return hand_over_or_set(shard, keep, nodes);
    }
    if !learners.is_empty() {
        // A swap for the sake of balance: once it holds the log, the fullest node's replica goes.
        if let Some(incoming) = ready.first() {
            let mut voters = voters;
            if let Some(fullest) = fullest(&voters, nodes) {
                voters.remove(&fullest);
            }
            voters.insert(*incoming);
            return hand_over_or_set(shard, voters, nodes);
        }
        return Step::Rest;
    }
    if nodes.get(&shard.leader.node).is_some_and(|sight| sight.is_full) {
        // It refuses what is published; the others may have room.
        let step = lead_elsewhere(shard, &voters, nodes);
        if step != Step::Rest {
            return step;
        }
    }
    if may_balance { balance(shard, &voters, nodes) } else { Step::Rest }
}

fn seats_of(shard: &Shard, voters: bool) -> BTreeSet<ReplicaId> {
    shard.seats.iter().filter(|(_, seat)| seat.is_voter == voters).map(|(replica, _)| *replica).collect()
}

fn add(shard: &Shard, nodes: &BTreeMap<NodeId, Sight>) -> Option<NodeId> {
    let taken: BTreeSet<NodeId> = shard.seats.keys().map(|replica| replica.node).collect();
    let zones = taken.iter().filter_map(|node| nodes.get(node)).map(|sight| sight.zone.clone()).collect();
    let free = nodes.iter().filter(|(node, sight)| !taken.contains(node) && sight.may_take());
    let candidates: Vec<Candidate> = free.map(|(node, sight)| candidate(*node, sight)).collect();
    choose(shard.prefix, &zones, &candidates)
}

fn candidate(node: NodeId, sight: &Sight) -> Candidate {
    Candidate { node, zone: sight.zone.clone(), replicas: sight.replicas, capacity: sight.capacity }
}

fn set_voters(shard: &Shard, stay: &BTreeSet<ReplicaId>, ready: &BTreeSet<ReplicaId>, wanted: usize) -> Step {
    let missing = wanted.saturating_sub(stay.len());
    let voters: BTreeSet<ReplicaId> = stay.iter().chain(ready.iter().take(missing)).copied().collect();
    if voters.contains(&shard.leader) {
        return Step::SetVoters(voters);
    }
    // The leader is leaving: another leads through the change.
    match stay.iter().next() {
        Some(other) if shard.seats.get(other).is_some_and(|seat| seat.is_caught_up) => Step::HandOver(*other),
        // Nobody else votes yet: the change itself brings the others in.
        _ => Step::SetVoters(voters.into_iter().chain([shard.leader]).collect()),
    }
}

fn hand_over_or_set(shard: &Shard, voters: BTreeSet<ReplicaId>, nodes: &BTreeMap<NodeId, Sight>) -> Step {
    if voters.contains(&shard.leader) {
        return Step::SetVoters(voters);
    }
    lead_elsewhere(shard, &voters, nodes)
}

/// Hands leadership to that one of `voters` whose node leads the least, if another may lead.
fn lead_elsewhere(shard: &Shard, voters: &BTreeSet<ReplicaId>, nodes: &BTreeMap<NodeId, Sight>) -> Step {
    let may_lead = |one: &&ReplicaId| {
        **one != shard.leader
            && shard.seats.get(one).is_some_and(|seat| seat.is_voter && seat.is_caught_up)
            && nodes.get(&one.node).is_some_and(Sight::may_lead)
    };
    let least = voters.iter().filter(may_lead).min_by_key(|one| nodes.get(&one.node).map_or(0, |sight| sight.leaders));
    least.map_or(Step::Rest, |one| Step::HandOver(*one))
}

fn fullest(voters: &BTreeSet<ReplicaId>, nodes: &BTreeMap<NodeId, Sight>) -> Option<ReplicaId> {
    voters.iter().max_by_key(|one| (nodes.get(&one.node).map_or(0, |sight| sight.replicas), **one)).copied()
}

fn balance(shard: &Shard, voters: &BTreeSet<ReplicaId>, nodes: &BTreeMap<NodeId, Sight>) -> Step {
    let Some(me) = nodes.get(&shard.leader.node) else { return Step::Rest };
    // Leadership first: it is free.
    let others = voters.iter().filter(|one| **one != shard.leader);
    let living = others.filter(|one| {
        shard.seats.get(one).is_some_and(|seat| seat.is_caught_up)
            && nodes.get(&one.node).is_some_and(|sight| sight.may_lead() && !sight.is_draining)
    });
    if let Some(least) = living.min_by_key(|one| nodes.get(&one.node).map_or(u32::MAX, |sight| sight.leaders)) {
        let leaders = nodes.get(&least.node).map_or(u32::MAX, |sight| sight.leaders);
        if me.leaders >= leaders.saturating_add(SLACK) {
            return Step::HandOver(*least);
        }
    }
    // Then replicas: from the fullest of this shard's nodes to one that holds clearly less.
    let Some(full) = fullest(voters, nodes).and_then(|one| nodes.get(&one.node)) else { return Step::Rest };
    let taken: BTreeSet<NodeId> = shard.seats.keys().map(|replica| replica.node).collect();
    let emptier = nodes.iter().filter(|(node, sight)| {
        !taken.contains(node) && sight.may_take() && full.replicas >= sight.replicas.saturating_add(SLACK)
    });
    let zones: BTreeSet<String> = BTreeSet::new();
    let candidates: Vec<Candidate> = emptier.map(|(node, sight)| candidate(*node, sight)).collect();
    choose(shard.prefix, &zones, &candidates).map_or(Step::Rest, Step::Add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gem_types::Incarnation;

    fn replica(n: u8) -> ReplicaId {
        ReplicaId { node: NodeId([n; 32]), incarnation: Incarnation(1) }
    }

    fn sight() -> Sight {
        Sight {
            down_for: None,
            is_suspect: false,
            is_removed: false,
            is_draining: false,
            is_full: false,
            zone: String::new(),
            replicas: 1,
            leaders: 1,
            capacity: 1 << 30,
        }
    }

    fn nodes(count: u8) -> BTreeMap<NodeId, Sight> {
        (1..=count).map(|n| (NodeId([n; 32]), sight())).collect()
    }

    fn shard(voters: &[u8], learners: &[u8]) -> Shard {
        let seat = |is_voter| move |n: &u8| (replica(*n), Replica { is_voter, is_caught_up: true });
        let seats = voters.iter().map(seat(true)).chain(learners.iter().map(seat(false))).collect();
        Shard { prefix: Prefix::ROOT, leader: replica(voters[0]), seats }
    }

    fn step(shard: &Shard, nodes: &BTreeMap<NodeId, Sight>) -> Step {
        plan(shard, nodes, 3, Duration::from_secs(30), true)
    }

    fn voters(of: &[u8]) -> Step {
        Step::SetVoters(of.iter().map(|n| replica(*n)).collect())
    }

    #[test]
    fn a_mesh_grows_from_one_to_three() {
        assert_eq!(step(&shard(&[1], &[]), &nodes(1)), Step::Rest);
        assert_eq!(step(&shard(&[1], &[]), &nodes(2)), Step::Add(NodeId([2; 32])));
        // Two: a voter and a learner.
        assert_eq!(step(&shard(&[1], &[2]), &nodes(2)), Step::Rest);
        assert_eq!(step(&shard(&[1], &[2]), &nodes(3)), Step::Add(NodeId([3; 32])));
        assert_eq!(step(&shard(&[1], &[2, 3]), &nodes(3)), voters(&[1, 2, 3]));
        let mut late = shard(&[1], &[2, 3]);
        late.seats.get_mut(&replica(3)).unwrap().is_caught_up = false;
        assert_eq!(step(&late, &nodes(3)), Step::Rest, "a learner that lags does not vote");
    }

    #[test]
    fn a_dead_voter_is_replaced_once_patience_ends() {
        let mut mesh = nodes(4);
        let down = |mesh: &mut BTreeMap<NodeId, Sight>, secs| {
            mesh.get_mut(&NodeId([3; 32])).unwrap().down_for = Some(Duration::from_secs(secs));
        };
        down(&mut mesh, 10);
        assert_eq!(step(&shard(&[1, 2, 3], &[]), &mesh), Step::Rest);
        down(&mut mesh, 31);
        assert_eq!(step(&shard(&[1, 2, 3], &[]), &mesh), Step::Add(NodeId([4; 32])));
        assert_eq!(step(&shard(&[1, 2, 3], &[4]), &mesh), voters(&[1, 2, 4]));
        // Nobody to take its place: the dead voter stays.
        let mut three = nodes(3);
        down(&mut three, 3_000);
        assert_eq!(step(&shard(&[1, 2, 3], &[]), &three), Step::Rest);
    }

    #[test]
    fn a_node_is_drained() {
        let mut mesh = nodes(4);
        mesh.get_mut(&NodeId([3; 32])).unwrap().is_draining = true;
        assert_eq!(step(&shard(&[1, 2, 3], &[]), &mesh), Step::Add(NodeId([4; 32])));
        assert_eq!(step(&shard(&[1, 2, 3], &[4]), &mesh), voters(&[1, 2, 4]));
        // The leader's own: it hands over first.
        assert!(matches!(step(&shard(&[3, 1, 2], &[4]), &mesh), Step::HandOver(_)));
        // Of three, one goes: two members are left, and two voters would stop with either.
        let mut three = nodes(3);
        three.get_mut(&NodeId([3; 32])).unwrap().is_draining = true;
        assert!(matches!(step(&shard(&[1, 2, 3], &[]), &three), Step::SetVoters(_)));
    }

    #[test]
    fn leadership_moves_before_replicas() {
        let mut mesh = nodes(4);
        let set = |mesh: &mut BTreeMap<NodeId, Sight>, n: u8, replicas, leaders| {
            let sight = mesh.get_mut(&NodeId([n; 32])).unwrap();
            (sight.replicas, sight.leaders) = (replicas, leaders);
        };
        set(&mut mesh, 1, 16, 10);
        set(&mut mesh, 2, 16, 3);
        set(&mut mesh, 3, 16, 3);
        set(&mut mesh, 4, 0, 0);
        assert_eq!(step(&shard(&[1, 2, 3], &[]), &mesh), Step::HandOver(replica(2)));
        mesh.get_mut(&NodeId([2; 32])).unwrap().is_suspect = true;
        assert_eq!(step(&shard(&[1, 2, 3], &[]), &mesh), Step::HandOver(replica(3)), "not to one that is silent");
        mesh.get_mut(&NodeId([2; 32])).unwrap().is_suspect = false;
        set(&mut mesh, 1, 16, 4);
        assert_eq!(step(&shard(&[1, 2, 3], &[]), &mesh), Step::Add(NodeId([4; 32])));
        set(&mut mesh, 4, 15, 0);
        assert_eq!(step(&shard(&[1, 2, 3], &[]), &mesh), Step::Rest, "a small difference is left alone");
        // The swap: the fullest goes, here the highest of equals.
        set(&mut mesh, 4, 1, 0);
        assert_eq!(step(&shard(&[1, 2, 3], &[4]), &mesh), voters(&[1, 2, 4]));
    }

    #[test]
    fn a_full_node_leads_nothing_as_long_as_another_can() {
        let mut mesh = nodes(3);
        let set_full =
            |mesh: &mut BTreeMap<NodeId, Sight>, n: u8| mesh.get_mut(&NodeId([n; 32])).unwrap().is_full = true;
        set_full(&mut mesh, 1);
        let full =
            |mesh: &BTreeMap<NodeId, Sight>| plan(&shard(&[1, 2, 3], &[]), mesh, 3, Duration::from_secs(30), false);
        assert_eq!(full(&mesh), Step::HandOver(replica(2)));
        mesh.get_mut(&NodeId([1; 32])).unwrap().leaders = 9;
        assert_eq!(step(&shard(&[2, 1, 3], &[]), &mesh), Step::Rest, "none is handed to it");
        set_full(&mut mesh, 2);
        assert_eq!(full(&mesh), Step::HandOver(replica(3)));
        set_full(&mut mesh, 3);
        assert_eq!(full(&mesh), Step::Rest);
    }
}
