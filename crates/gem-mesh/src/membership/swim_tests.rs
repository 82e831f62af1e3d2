//! Whole meshes on one thread: virtual time, a network that loses, doubles, delays and cuts.

use std::collections::BTreeSet;

use gem_types::{GroupId, Incarnation, Position, Prefix};

use super::*;

struct Node {
    swim: Swim,
    table: Table,
    /// Who is up, as the actions told it.
    up: BTreeMap<NodeId, Member>,
    loads: BTreeMap<NodeId, u64>,
    told: Vec<(Duration, Action)>,
}

#[derive(Default)]
struct Faults {
    loss: f64,
    doubled: f64,
    delay_ms: u64,
    /// Ways that are cut, from and to.
    cut: BTreeSet<(usize, usize)>,
    /// A node that is stopped, and until when: its timers and messages wait.
    asleep: Option<(usize, Duration)>,
}

struct World {
    random: Xoshiro256PlusPlus,
    now: Duration,
    nodes: BTreeMap<usize, Node>,
    runs: BTreeMap<usize, u64>,
    flying: BTreeMap<(Duration, u64), (usize, NodeId, Bytes)>,
    sent: u64,
    faults: Faults,
    trace: u64,
    shards: u64,
}

fn id(n: usize) -> NodeId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&Position::of(&[b"node", &n.to_be_bytes()]).0.to_be_bytes());
    NodeId(id)
}

fn member(n: usize, run: u64) -> Member {
    let address = ([127, 0, 0, 1], n as u16).into();
    Member {
        node: id(n),
        incarnation: Incarnation(1),
        run,
        control: address,
        bulk: address,
        http: format!("http://127.0.0.1:{n}"),
        zone: String::new(),
        name: format!("n{n}"),
        is_draining: false,
    }
}

impl World {
    fn new(seed: u64, nodes: usize) -> Self {
        let mut world = World {
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            now: Duration::from_secs(1),
            nodes: BTreeMap::new(),
            runs: BTreeMap::new(),
            flying: BTreeMap::new(),
            sent: 0,
            faults: Faults { delay_ms: 5, ..Faults::default() },
            trace: 0,
            shards: 0,
        };
        for n in 0..nodes {
            world.start(n);
        }
        world
    }

    fn start(&mut self, n: usize) {
        let run = self.runs.entry(n).or_default();
        *run += 1000;
        let me = member(n, *run);
        let mut swim = Swim::new(me, Settings::default(), self.random.random(), self.now).unwrap();
        let seed = self.nodes.keys().find(|other| **other != n).copied().unwrap_or(n);
        swim.join([id(seed)], self.now);
        let table = Table::new(id(n), 1000);
        self.nodes.insert(n, Node { swim, table, up: BTreeMap::new(), loads: BTreeMap::new(), told: vec![] });
        self.collect(n);
    }

    fn number(&self, node: NodeId) -> Option<usize> {
        self.nodes.iter().find(|(_, n)| n.swim.me().node == node).map(|(n, _)| *n)
    }

    fn collect(&mut self, n: usize) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&n) else { return };
        for action in node.swim.take_actions() {
            match &action {
                Action::Send { to, bytes } => {
                    assert!(bytes.len() <= crate::seams::CONTROL_BYTES_MAX);
                    let copies = 1 + usize::from(self.random.random_bool(self.faults.doubled));
                    for _ in 0..copies {
                        if self.random.random_bool(self.faults.loss) {
                            continue;
                        }
                        let delay = Duration::from_micros(self.random.random_range(100..=1000 * self.faults.delay_ms));
                        self.sent += 1;
                        self.flying.insert((now + delay, self.sent), (n, *to, bytes.clone()));
                    }
                    continue;
                }
                Action::Up(m) => assert!(node.up.insert(m.node, m.clone()).is_none(), "up twice"),
                Action::Changed(m) => {
                    let before = node.up.insert(m.node, m.clone()).expect("changed, but not up");
                    assert!(m.run > before.run, "an older run won");
                }
                Action::Down { member, .. } => assert!(node.up.remove(&member.node).is_some(), "down twice"),
                Action::Load(node_id, load) => {
                    node.loads.insert(*node_id, load.version);
                }
                Action::Rejoined(me) => assert_eq!(me, node.swim.me()),
                Action::Heard(_) => {}
            }
            node.told.push((now, action));
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let message = self.flying.keys().next().copied();
            let awake_at =
                |n| self.faults.asleep.filter(|(asleep, _)| *asleep == n).map_or(Duration::ZERO, |(_, at)| at);
            let timers =
                self.nodes.iter().filter_map(|(n, node)| Some((node.swim.next_timer()?.max(awake_at(*n)), *n)));
            let timer = timers.min();
            let at = message.map(|(at, _)| at).into_iter().chain(timer.map(|(at, _)| at)).min();
            let Some(at) = at.filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            if let Some(key) = message.filter(|(m, _)| *m == at) {
                let (from, to, bytes) = self.flying.remove(&key).unwrap();
                let Some(n) = self.number(to).filter(|n| !self.faults.cut.contains(&(from, *n))) else { continue };
                if let Some((_, awake_at)) = self.faults.asleep.filter(|(asleep, until)| *asleep == n && *until >= at) {
                    // It looks at its timers first.
                    self.flying.insert((awake_at + Duration::from_micros(key.1), key.1), (from, to, bytes));
                    continue;
                }
                let parts: [&[u8]; 3] = [&self.trace.to_be_bytes(), &self.now.as_nanos().to_be_bytes(), &bytes];
                self.trace = Position::of(&parts).0;
                let node = self.nodes.get_mut(&n).unwrap();
                node.swim.hear(id(from), &bytes, &mut node.table, self.now);
                self.collect(n);
            } else if let Some((_, n)) = timer {
                let node = self.nodes.get_mut(&n).unwrap();
                node.swim.tick(&node.table, self.now);
                self.collect(n);
            }
        }
        self.now = end;
    }

    fn seconds(&mut self, seconds: u64) {
        self.run(Duration::from_secs(seconds));
    }

    /// One node's shard splits or elects a leader: a new or newer descriptor.
    fn publish(&mut self, n: usize, group: u64, epoch: u64) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&Position::of(&[&group.to_be_bytes()]).0.to_be_bytes());
        let prefix = Prefix::new(group << 54, 10).unwrap();
        let d = Descriptor { prefix, group: GroupId(bytes), epoch, seats: vec![], leader: Some(id(n)), term: epoch };
        let now = self.now;
        let node = self.nodes.get_mut(&n).unwrap();
        node.swim.publish(d, &mut node.table, now);
        self.shards = self.shards.max(group + 1);
    }

    /// All live nodes see each other and no one else, under their present runs, and know the same.
    fn assert_one_view(&self) {
        let live: BTreeMap<NodeId, &Member> = self.nodes.values().map(|n| (n.swim.me().node, n.swim.me())).collect();
        for (n, node) in &self.nodes {
            let others: BTreeMap<_, _> =
                live.iter().filter(|(o, _)| **o != id(*n)).map(|(o, m)| (*o, (*m).clone())).collect();
            assert!(
                node.up == others,
                "node {n} at {:?} sees {:?}\nof {:?}",
                self.now,
                node.up.values().map(|m| (&m.name, m.run)).collect::<Vec<_>>(),
                others.values().map(|m| (&m.name, m.run)).collect::<Vec<_>>(),
            );
            let members = node.swim.members();
            let alive = members.iter().filter(|(_, state)| !matches!(state, State::Down { .. }));
            assert!(alive.map(|(m, _)| (m.node, m.clone())).eq(others));
            assert_eq!(node.table.len() as u64, self.shards, "node {n}");
            let first = self.nodes.values().next().unwrap();
            assert!(node.table.all().eq(first.table.all()), "node {n} knows other descriptors");
        }
    }

    fn downs(&self, n: usize) -> Vec<(Duration, NodeId, bool)> {
        let told = self.nodes[&n].told.iter();
        told.filter_map(|(at, action)| match action {
            Action::Down { member, has_left } => Some((*at, member.node, *has_left)),
            _ => None,
        })
        .collect()
    }
}

#[test]
fn a_mesh_comes_together() {
    for (seed, nodes) in [(1, 2), (2, 3), (3, 10), (4, 50)] {
        let mut world = World::new(seed, nodes);
        world.seconds(5);
        for n in 0..nodes {
            world.publish(n, n as u64, 1);
            let load = Load { version: 7, ..Load::default() };
            world.nodes.get_mut(&n).unwrap().swim.set_load(load);
        }
        world.seconds(15);
        world.assert_one_view();
        for (n, node) in &world.nodes {
            assert_eq!(node.loads.len(), nodes - 1, "digests that node {n} heard of");
            assert!(world.downs(*n).is_empty());
        }
    }
}

#[test]
fn a_dead_node_is_down_within_three_seconds() {
    for seed in 0..20 {
        let mut world = World::new(seed, 3);
        world.seconds(10);
        let died = world.now;
        world.nodes.remove(&2);
        world.seconds(5);
        for n in 0..2 {
            let downs = world.downs(n);
            assert_eq!(downs.len(), 1);
            let (at, node, has_left) = downs[0];
            assert_eq!((node, has_left), (id(2), false));
            assert!(at - died <= Duration::from_millis(3200), "seed {seed}: after {:?}", at - died);
            assert!(at - died >= Duration::from_millis(1500), "no chance to speak up: {:?}", at - died);
        }
    }
}

#[test]
fn a_planned_stop_is_known_at_once_and_a_restart_too() {
    let mut world = World::new(1, 10);
    world.seconds(10);
    world.nodes.get_mut(&3).unwrap().swim.leave(world.now);
    world.collect(3);
    world.nodes.remove(&3);
    world.seconds(1);
    for n in world.nodes.keys() {
        assert_eq!(world.downs(*n).iter().map(|(_, node, left)| (*node, *left)).collect::<Vec<_>>(), [(id(3), true)]);
    }
    world.start(3);
    world.seconds(5);
    world.assert_one_view();
}

#[test]
fn a_restart_faster_than_any_suspicion_is_a_change() {
    let mut world = World::new(1, 5);
    world.seconds(10);
    world.start(4);
    world.seconds(5);
    world.assert_one_view();
    for n in 0..4 {
        assert!(world.downs(n).is_empty());
        assert!(world.nodes[&n].told.iter().any(|(_, a)| matches!(a, Action::Changed(m) if m.node == id(4))));
    }
}

#[test]
fn a_run_that_was_lost_is_overtaken() {
    let mut world = World::new(1, 4);
    world.seconds(10);
    world.runs.insert(3, 0);
    world.start(3);
    world.nodes.get_mut(&3).unwrap().swim = Swim::new(member(3, 1), Settings::default(), 5, world.now).unwrap();
    world.nodes.get_mut(&3).unwrap().swim.join([id(0)], world.now);
    world.collect(3);
    world.seconds(30);
    world.assert_one_view();
}

#[test]
fn draining_is_heard_of_without_a_flap() {
    let mut world = World::new(9, 12);
    world.seconds(10);
    let node = world.nodes.get_mut(&5).unwrap();
    let me = Member { is_draining: true, ..node.swim.me().clone() };
    node.swim.update_me(me, world.now).unwrap();
    world.collect(5);
    world.seconds(5);
    world.assert_one_view();
    for (n, node) in &world.nodes {
        assert!(world.downs(*n).is_empty(), "node {n}");
        assert!(*n == 5 || node.up[&id(5)].is_draining);
    }
}

/// Storms of every kind, then quiet: all live nodes agree.
#[test]
fn all_agree_once_faults_stop() {
    for seed in 0..16 {
        let nodes = if seed == 15 { 50 } else { [3, 5, 8, 20][seed as usize % 4] };
        let mut world = World::new(seed, nodes);
        world.seconds(5);
        let mut epoch = 1;
        for _ in 0..6 {
            let mut faults = Faults {
                loss: world.random.random_range(0.0..0.3),
                doubled: world.random.random_range(0.0..0.3),
                delay_ms: world.random.random_range(1..300),
                cut: BTreeSet::new(),
                asleep: None,
            };
            let boundary = world.random.random_range(0..nodes);
            let is_one_way = world.random.random_bool(0.5);
            for a in 0..boundary {
                for b in boundary..nodes {
                    faults.cut.insert((a, b));
                    if !is_one_way {
                        faults.cut.insert((b, a));
                    }
                }
            }
            world.faults = faults;
            let victim = world.random.random_range(0..nodes);
            if world.nodes.len() > 2 && world.random.random_bool(0.5) {
                world.nodes.remove(&victim);
            } else {
                world.start(victim);
            }
            for _ in 0..4 {
                let group = world.random.random_range(0..40);
                let n = *world.nodes.keys().nth(group as usize % world.nodes.len()).unwrap();
                epoch += 1;
                world.publish(n, group, epoch);
            }
            let seconds = world.random.random_range(1..15);
            world.seconds(seconds);
        }
        world.faults = Faults { delay_ms: 5, ..Faults::default() };
        for n in world.nodes.keys().copied().collect::<Vec<_>>() {
            // Whoever started while cut off asks again, as its owner does.
            let seeds: Vec<_> = world.nodes.keys().map(|n| id(*n)).collect();
            world.nodes.get_mut(&n).unwrap().swim.join(seeds, world.now);
            world.collect(n);
        }
        world.seconds(60);
        let known: BTreeSet<_> = world.nodes.values().flat_map(|n| n.table.all().map(|d| d.group)).collect();
        world.shards = known.len() as u64;
        world.assert_one_view();
        let before: Vec<_> = world.nodes.values().map(|n| n.told.len()).collect();
        world.seconds(60);
        world.assert_one_view();
        let after: Vec<_> = world.nodes.values().map(|n| n.told.len()).collect();
        assert_eq!(before, after, "seed {seed}: quiet stays quiet");
    }
}

#[test]
fn a_partition_of_two_heals_by_itself() {
    let mut world = World::new(3, 2);
    world.seconds(5);
    world.faults.cut = [(0, 1), (1, 0)].into();
    world.seconds(60);
    assert!(world.nodes.values().all(|n| n.up.is_empty()));
    world.faults.cut.clear();
    world.seconds(20);
    world.assert_one_view();
}

/// A newcomer missed all rumours: tables are compared until it knows everything.
#[test]
fn a_large_table_reaches_a_newcomer() {
    let mut world = World::new(4, 3);
    world.seconds(5);
    let shard = |group: u64| {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&Position::of(&[&group.to_be_bytes()]).0.to_be_bytes());
        let prefix = Prefix::new(group << 50, 14).unwrap();
        Descriptor { prefix, group: GroupId(id), epoch: 1, seats: vec![], leader: Some(NodeId([1; 32])), term: 1 }
    };
    for node in world.nodes.values_mut() {
        node.table = Table::new(id(0), 10_000);
        (0..5000).for_each(|group| assert!(node.table.learn(shard(group), world.now)));
    }
    world.start(3);
    world.nodes.get_mut(&3).unwrap().table = Table::new(id(3), 10_000);
    world.shards = 5000;
    world.seconds(20);
    world.assert_one_view();
    let newcomer = &world.nodes[&3];
    assert_eq!(newcomer.told.iter().filter(|(_, a)| matches!(a, Action::Heard(_))).count(), 5000);
}

/// One way is cut: the others vouch for the node that one of them can't reach.
#[test]
fn one_cut_way_takes_no_one_down() {
    let mut world = World::new(5, 6);
    world.seconds(10);
    world.faults.cut = [(0, 1)].into();
    world.seconds(120);
    world.assert_one_view();
    assert!((0..6).all(|n| world.downs(n).is_empty()));
}

#[test]
fn loss_and_delay_alone_take_no_one_down() {
    let mut world = World::new(6, 10);
    world.seconds(10);
    world.faults = Faults { loss: 0.1, doubled: 0.1, delay_ms: 60, cut: BTreeSet::new(), asleep: None };
    world.seconds(300);
    world.assert_one_view();
    let downs: usize = (0..10).map(|n| world.downs(n).len()).sum();
    assert_eq!(downs, 0, "a suspicion that is refuted does not flap");
}

/// A node that is stopped for a while and goes on blames no one.
#[test]
fn a_sleeper_doubts_itself() {
    let mut world = World::new(7, 5);
    world.seconds(10);
    let sleeper = world.nodes.remove(&0).unwrap();
    world.seconds(20);
    assert!((1..5).all(|n| world.downs(n).len() == 1));
    world.nodes.insert(0, sleeper);
    world.seconds(30);
    world.assert_one_view();
    assert!(world.downs(0).is_empty(), "{:?}", world.downs(0));
}

/// A node that sleeps while it suspects another gives that one its time to speak up all the same.
#[test]
fn the_time_asleep_counts_against_no_one() {
    for seed in 0..10 {
        let mut world = World::new(seed, 2);
        world.seconds(5);
        world.faults.cut = [(0, 1), (1, 0)].into();
        let is_suspect = |world: &World| world.nodes[&0].swim.members()[0].1 == State::Suspect;
        while !is_suspect(&world) {
            world.run(Duration::from_millis(10));
        }
        world.faults.cut.clear();
        world.faults.asleep = Some((0, world.now + Duration::from_secs(4)));
        world.seconds(30);
        world.assert_one_view();
        assert!(world.downs(0).is_empty(), "seed {seed}: {:?}", world.downs(0));
    }
}

#[test]
fn one_seed_one_trace() {
    let trace = |seed| {
        let mut world = World::new(seed, 8);
        world.faults = Faults { loss: 0.1, doubled: 0.1, delay_ms: 50, cut: BTreeSet::new(), asleep: None };
        world.seconds(10);
        world.publish(1, 1, 1);
        world.nodes.remove(&3);
        world.seconds(20);
        (world.trace, world.sent)
    };
    assert_eq!(trace(11), trace(11));
    assert_ne!(trace(11), trace(12));
}

/// A thousand and more nodes come and go: what is remembered of them is bounded.
#[test]
fn churn_leaves_bounded_memory() {
    let mut world = World::new(8, 3);
    world.seconds(5);
    let settings = Settings { down_max: 100, ..Settings::default() };
    for n in 0..3 {
        world.nodes.get_mut(&n).unwrap().swim.settings = settings.clone();
    }
    for round in 0..75 {
        let guests = 100 + 20 * round..120 + 20 * round;
        for n in guests.clone() {
            world.start(n);
        }
        world.run(Duration::from_millis(700));
        for n in guests {
            if n % 5 != 0 {
                world.nodes.get_mut(&n).unwrap().swim.leave(world.now);
                world.collect(n);
            }
            world.nodes.remove(&n);
        }
        world.run(Duration::from_millis(300));
    }
    // Three nodes find 300 dead ones by a probe at a time each, in growing doubt of themselves.
    world.seconds(1800);
    world.assert_one_view();
    for node in world.nodes.values() {
        assert!(node.swim.remembered() <= 103, "{}", node.swim.remembered());
        assert!(node.swim.timers.len() < 20, "{} timers", node.swim.timers.len());
        assert!(node.swim.core.updates_backlog() < 10);
    }
    world.seconds(3700);
    assert!(world.nodes.values().all(|n| n.swim.remembered() == 2));
}

#[test]
fn what_is_not_the_senders_is_refused() {
    let mut world = World::new(1, 3);
    world.seconds(5);
    let mut liar = Swim::new(member(7, 1), Settings::default(), 1, world.now).unwrap();
    liar.join([id(0)], world.now);
    let actions = liar.take_actions();
    let Some(Action::Send { bytes, .. }) = actions.first() else { panic!("{actions:?}") };
    let node = world.nodes.get_mut(&0).unwrap();
    node.swim.hear(id(8), bytes, &mut node.table, world.now);
    node.swim.hear(id(7), &bytes[1..], &mut node.table, world.now);
    assert_eq!(node.swim.refused(), 2);
    assert!(node.swim.take_actions().is_empty());
    let long = Member { name: "x".repeat(257), ..member(7, 1) };
    assert_eq!(Swim::new(long, Settings::default(), 1, world.now).err(), Some(TooLong));
}
