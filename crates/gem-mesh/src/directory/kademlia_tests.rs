//! Whole networks on one thread, each lookup held against brute force.

use gem_types::GroupId;

use super::*;

struct World {
    random: Xoshiro256PlusPlus,
    now: Duration,
    nodes: BTreeMap<NodeId, Kademlia>,
    flying: BTreeMap<(Duration, u64), (NodeId, NodeId, Bytes)>,
    sent: u64,
    loss: f64,
    results: BTreeMap<(NodeId, QueryId), Action>,
    trace: u64,
}

const MESH: MeshId = MeshId([7; 16]);

impl World {
    fn new(seed: u64, count: usize) -> Self {
        let mut world = World {
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            now: Duration::ZERO,
            nodes: BTreeMap::new(),
            flying: BTreeMap::new(),
            sent: 0,
            loss: 0.0,
            results: BTreeMap::new(),
            trace: 0,
        };
        for _ in 0..count {
            world.join();
        }
        world.run(Duration::from_secs(5));
        world
    }

    fn join(&mut self) -> NodeId {
        let node = NodeId(self.random.random());
        let me = Contact { node, control: ([127, 0, 0, 1], 1).into() };
        let mut kademlia = Kademlia::new(me, MESH, Settings::default(), self.random.random(), self.now);
        if !self.nodes.is_empty() {
            let seed = self.any();
            kademlia.add(Contact { node: seed, ..me }, self.now);
            kademlia.bootstrap(self.now);
        }
        self.nodes.insert(node, kademlia);
        self.collect(node);
        self.run(Duration::from_millis(200));
        node
    }

    fn any(&mut self) -> NodeId {
        let n = self.random.random_range(0..self.nodes.len());
        *self.nodes.keys().nth(n).unwrap()
    }

    fn collect(&mut self, node: NodeId) {
        let actions = self.nodes.get_mut(&node).map(Kademlia::take_actions).unwrap_or_default();
        for action in actions {
            match action {
                Action::Send { to, bytes } => {
                    self.sent += 1;
                    let delay = Duration::from_micros(self.random.random_range(100..2000));
                    if !self.random.random_bool(self.loss) {
                        self.flying.insert((self.now + delay, self.sent), (node, to.node, bytes));
                    }
                }
                Action::Nodes(id, _) | Action::Got(id, _) | Action::Found(id, ..) => {
                    assert!(self.results.insert((node, id), action).is_none(), "answered twice");
                }
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let message = self.flying.keys().next().copied();
            let timer = self.nodes.iter().filter_map(|(n, k)| Some((k.next_timer()?, *n))).min();
            let at = message.map(|(at, _)| at).into_iter().chain(timer.map(|(at, _)| at)).min();
            let Some(at) = at.filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            if let Some(key) = message.filter(|(m, _)| *m == at) {
                let (from, to, bytes) = self.flying.remove(&key).unwrap();
                let parts: [&[u8]; 3] = [&self.trace.to_be_bytes(), &at.as_nanos().to_be_bytes(), &bytes];
                self.trace = Position::of(&parts).0;
                if let Some(node) = self.nodes.get_mut(&to) {
                    node.hear(from, &bytes, self.now);
                    self.collect(to);
                }
            } else if let Some((_, n)) = timer {
                self.nodes.get_mut(&n).unwrap().tick(self.now);
                self.collect(n);
            }
        }
        self.now = end;
    }

    /// Runs a query at some node to its end.
    fn ask(&mut self, query: impl FnOnce(&mut Kademlia, Duration) -> Option<QueryId>) -> (NodeId, Action) {
        let node = self.any();
        let id = query(self.nodes.get_mut(&node).unwrap(), self.now).unwrap();
        self.collect(node);
        for _ in 0..600 {
            if let Some(result) = self.results.remove(&(node, id)) {
                return (node, result);
            }
            self.run(Duration::from_millis(100));
        }
        panic!("a query without an end");
    }

    fn nearest(&self, key: &Key, but: NodeId) -> Vec<NodeId> {
        let mut all: Vec<_> = self.nodes.keys().copied().filter(|n| *n != but).collect();
        all.sort_by_key(|n| Key::of_node(*n).distance(key));
        all.truncate(K);
        all
    }

    fn publish(&mut self, shards: &[Descriptor]) {
        for shard in shards {
            let node = self.any();
            for record in Record::of_shard(shard) {
                self.nodes.get_mut(&node).unwrap().publish(record, self.now);
            }
            self.collect(node);
        }
        self.run(Duration::from_secs(10));
    }

    fn kill(&mut self, share: f64) {
        let dead = (self.nodes.len() as f64 * share) as usize;
        for _ in 0..dead {
            let node = self.any();
            self.nodes.remove(&node);
        }
    }
}

fn shard(prefix: Prefix, epoch: u64) -> Descriptor {
    let mut group = [0; 16];
    group[..9].copy_from_slice(&prefix.to_bytes());
    Descriptor { prefix, group: GroupId(group), epoch, seats: vec![], leader: None, term: 1 }
}

/// Leaves of a random tree: prefixes that tile the ring.
fn tree(random: &mut Xoshiro256PlusPlus, leaves: usize) -> Vec<Descriptor> {
    let mut tiles = vec![Prefix::ROOT];
    while tiles.len() < leaves {
        let at = random.random_range(0..tiles.len());
        let (left, right) = tiles.swap_remove(at).children().unwrap();
        tiles.extend([left, right]);
    }
    tiles.into_iter().map(|prefix| shard(prefix, 3)).collect()
}

#[test]
fn lookups_find_what_brute_force_finds() {
    let mut tries = 0;
    for (seed, count) in [(1, 2), (2, 5), (3, 21), (4, 60), (5, 200)] {
        let mut world = World::new(seed, count);
        for _ in 0..250 {
            let key = Key(world.random.random());
            let (asker, result) = world.ask(|k, now| k.find_nodes(key, now));
            let Action::Nodes(_, found) = result else { panic!("{result:?}") };
            let found: Vec<_> = found.iter().map(|c| c.node).collect();
            assert_eq!(found, world.nearest(&key, asker), "{count} nodes");
            tries += 1;
        }
    }
    assert!(tries > 1000);
}

/// The share of the nearest nodes that lookups find.
fn share_found(world: &mut World) -> f64 {
    let (mut found_of, mut all_of) = (0, 0);
    for _ in 0..200 {
        let key = Key(world.random.random());
        let (asker, result) = world.ask(|k, now| k.find_nodes(key, now));
        let Action::Nodes(_, found) = result else { panic!("{result:?}") };
        let nearest = world.nearest(&key, asker);
        let found: BTreeSet<_> = found.iter().map(|c| c.node).collect();
        assert!(found.iter().all(|n| world.nodes.contains_key(n)), "a dead node answered");
        all_of += nearest.len();
        found_of += nearest.iter().filter(|n| found.contains(*n)).count();
    }
    found_of as f64 / all_of as f64
}

#[test]
fn lookups_pass_by_the_dead() {
    for (seed, dead) in [(1, 0.3), (2, 0.5)] {
        let mut world = World::new(seed, 150);
        let before: Vec<_> = world.nodes.keys().copied().collect();
        world.kill(dead);
        // Answers are full of the dead at first: those farther out are named by no one.
        let share = share_found(&mut world);
        assert!(share > 0.75, "of the nearest {share} were found with {dead} dead");
        let dead: Vec<_> = before.into_iter().filter(|n| !world.nodes.contains_key(n)).collect();
        let now = world.now;
        for kademlia in world.nodes.values_mut() {
            // As membership tells it of all the dead.
            dead.iter().for_each(|n| kademlia.remove(*n));
            kademlia.bootstrap(now);
        }
        for node in world.nodes.keys().copied().collect::<Vec<_>>() {
            world.collect(node);
        }
        world.run(Duration::from_secs(5));
        let share = share_found(&mut world);
        assert!(share > 0.99, "of the nearest {share} were found after {} deaths were told", dead.len());
    }
}

#[test]
fn lookups_bear_loss() {
    for (seed, loss) in [(3, 0.1), (4, 0.05)] {
        let mut world = World::new(seed, 150);
        world.loss = loss;
        let share = share_found(&mut world);
        // One is missed where the call or the answer is lost.
        let least = (1.0 - loss) * (1.0 - loss) - 0.05;
        assert!(share > least, "of the nearest {share} were found with {loss} lost");
    }
}

#[test]
fn searches_find_the_shard_though_nodes_die() {
    for (seed, count, leaves, dead) in [(1, 1, 16, 0.0), (2, 3, 20, 0.0), (3, 30, 100, 0.3), (4, 120, 200, 0.4)] {
        let mut world = World::new(seed, count);
        let shards = tree(&mut world.random, leaves);
        world.publish(&shards);
        world.kill(dead);
        for _ in 0..300 {
            let position = Position(world.random.random());
            let (_, result) = world.ask(|k, now| k.search(position, now));
            let expected = shards.iter().find(|s| s.holds(position)).cloned();
            let Action::Found(_, at, found) = result else { panic!("{result:?}") };
            assert_eq!((at, found), (position, expected), "{count} nodes, {leaves} shards");
        }
    }
}

#[test]
fn a_split_shows_and_an_old_leaf_loses() {
    let mut world = World::new(5, 40);
    let parent = shard("01".parse().unwrap(), 5);
    let (left, right) = parent.prefix.children().unwrap();
    let left = Descriptor { prefix: left, epoch: 6, ..parent.clone() };
    world.publish(&[shard("00".parse().unwrap(), 1), parent.clone(), shard("1".parse().unwrap(), 1)]);
    world.publish(&[left.clone(), shard(right, 1)]);
    // Whoever still stands for the parent says so once more.
    world.publish(std::slice::from_ref(&parent));
    let (_, result) = world.ask(|k, now| k.get(parent.prefix, now));
    let Action::Got(_, Some(Record::Internal { epoch: 6, .. })) = result else { panic!("{result:?}") };
    for (position, holder) in [(left.prefix.first(), left.group), (right.last(), shard(right, 1).group)] {
        let (_, result) = world.ask(|k, now| k.search(position, now));
        let Action::Found(_, _, Some(found)) = result else { panic!("{result:?}") };
        assert_eq!(found.group, holder);
    }
}

#[test]
fn a_node_stands_for_what_it_leads() {
    let mut world = World::new(8, 25);
    let node = world.any();
    let led = [shard("00".parse().unwrap(), 3), shard("011".parse().unwrap(), 9)];
    let now = world.now;
    let prefixes = |world: &World| world.nodes[&node].published.keys().map(Prefix::to_string).collect::<BTreeSet<_>>();
    world.nodes.get_mut(&node).unwrap().stand_for(&led, now);
    world.collect(node);
    assert_eq!(prefixes(&world), ["-", "0", "00", "01", "011"].map(String::from).into());
    world.run(Duration::from_secs(5));
    let (_, result) = world.ask(|k, now| k.get(Prefix::ROOT, now));
    assert!(matches!(result, Action::Got(_, Some(Record::Internal { epoch: 9, .. }))), "{result:?}");
    let sent = world.sent;
    world.nodes.get_mut(&node).unwrap().stand_for(&led, now);
    world.collect(node);
    assert_eq!(world.sent, sent, "nothing is new");
    world.nodes.get_mut(&node).unwrap().stand_for(&led[..1], now);
    assert_eq!(prefixes(&world), ["-", "0", "00"].map(String::from).into());
}

#[test]
fn records_live_as_long_as_someone_stands_for_them() {
    let mut world = World::new(6, 30);
    let kept = shard("0".parse().unwrap(), 1);
    world.publish(std::slice::from_ref(&kept));
    world.publish(&[shard("1".parse().unwrap(), 1)]);
    for node in world.nodes.values_mut() {
        node.withdraw("1".parse().unwrap());
    }
    for _ in 0..10 {
        // The mesh renews itself meanwhile, but for who stands for the record.
        let node = world.any();
        if !world.nodes[&node].published.contains_key(&kept.prefix) {
            world.nodes.remove(&node);
        }
        world.join();
        world.run(Duration::from_secs(500));
    }
    let (_, result) = world.ask(|k, now| k.get("1".parse().unwrap(), now));
    assert!(matches!(result, Action::Got(_, None)), "{result:?}");
    let (_, result) = world.ask(|k, now| k.get(kept.prefix, now));
    assert!(matches!(&result, Action::Got(_, Some(Record::Leaf(d))) if *d == kept), "{result:?}");
}

#[test]
fn one_seed_one_trace() {
    let trace = |seed| {
        let mut world = World::new(seed, 30);
        world.loss = 0.1;
        let shards = tree(&mut world.random, 10);
        world.publish(&shards);
        world.run(Duration::from_secs(1000));
        (world.trace, world.sent)
    };
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1), trace(2));
}

#[test]
fn queries_and_strangers_are_bounded() {
    let mut world = World::new(7, 2);
    let node = world.any();
    let kademlia = world.nodes.get_mut(&node).unwrap();
    for n in 0..QUERIES_MAX + 10 {
        let id = kademlia.find_nodes(Key([3; 32]), world.now);
        assert_eq!(id.is_some(), n < QUERIES_MAX);
    }
    for _ in 0..20_000 {
        let stranger = Contact { node: NodeId(world.random.random()), control: ([127, 0, 0, 1], 1).into() };
        kademlia.add(stranger, world.now);
    }
    assert!(kademlia.contacts() <= 20 * K, "{}", kademlia.contacts());
    kademlia.take_actions();
    kademlia.tick(world.now + Duration::from_secs(5));
    assert!(kademlia.calls.len() <= 30 && kademlia.call_order.len() <= 30, "{}", kademlia.calls.len());
}
