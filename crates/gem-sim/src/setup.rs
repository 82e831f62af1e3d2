//! How a run is set up: what of node and topics differs between seeds.

use gem_shard::log::{GroupRef, Mode, Ordering, TopicConfig};

use crate::chance::Chance;

/// Bugs that are planted on purpose, to see that the invariants find them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Planted {
    /// None: the real code.
    #[default]
    None,
    /// The journal answers some flushes before they are made.
    AckBeforeFlush,
    /// The applied index is written apart from the rows that it stands for.
    AppliedApart,
    /// In a mesh: an entry that was judged in one term is appended in another.
    AnyTerm,
    /// In a mesh: a replica that takes in a snapshot claims payloads that it lacks.
    EmptySnapshot,
    /// In a mesh: who joins founds groups under ids that there are.
    GroupIdAgain,
}

impl Planted {
    /// Those of one node's run.
    pub const OF_NODES: [Planted; 2] = [Planted::AckBeforeFlush, Planted::AppliedApart];
    /// Those of a mesh's run.
    pub const OF_MESHES: [Planted; 4] =
        [Planted::AckBeforeFlush, Planted::AnyTerm, Planted::EmptySnapshot, Planted::GroupIdAgain];
    const ALL: [Planted; 5] = [
        Planted::AckBeforeFlush,
        Planted::AppliedApart,
        Planted::AnyTerm,
        Planted::EmptySnapshot,
        Planted::GroupIdAgain,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Planted::None => "none",
            Planted::AckBeforeFlush => "ack-before-flush",
            Planted::AppliedApart => "applied-apart",
            Planted::AnyTerm => "any-term",
            Planted::EmptySnapshot => "empty-snapshot",
            Planted::GroupIdAgain => "group-id-again",
        }
    }

    /// The bug of that name.
    pub fn parse(name: &str) -> Option<Planted> {
        Planted::ALL.into_iter().find(|planted| planted.name() == name)
    }
}

/// The shortest silence after which a member counts as lost.
pub const MEMBER_TIMEOUT_MS_MIN: u64 = 1_500;
/// The groups of the workload in mode `key`.
const KEY_GROUPS: [&str; 2] = ["shipping", "audit"];

/// The mode in which the workload uses a group.
pub fn mode_of(group: &GroupRef) -> Mode {
    if KEY_GROUPS.contains(&group.group.as_str()) { Mode::Key } else { Mode::Shared }
}

/// A topic of the workload.
#[derive(Clone, Debug)]
pub struct TopicSetup {
    /// Its name.
    pub name: &'static str,
    /// Its configuration.
    pub config: TopicConfig,
    /// Now and then it is deleted, and made again by whoever publishes next.
    pub churns: bool,
    /// Now and then it is purged.
    pub purges: bool,
    /// Its groups, and how many members each has.
    pub groups: Vec<(&'static str, u32)>,
}

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The planted bug, if any.
    pub planted: Planted,
    /// Several nodes: answers reach clients in another order than they were given.
    pub is_mesh: bool,
    /// The mesh is founded with 2^k shards.
    pub shards_log2: u8,
    /// A journal file.
    pub segment_bytes: u64,
    /// Journal files above which the oldest are gathered.
    pub files_kept: u64,
    /// See `GatherConfig`.
    pub purge_patience: u32,
    /// See `ShardConfig`.
    pub index_flush_bytes: u64,
    /// The index flushes unasked with every so many writes; 0: never.
    pub index_flush_every: u64,
    /// Bytes of the tail cache.
    pub tail_cache: u64,
    /// See `DispatchConfig`.
    pub member_timeout_ms: u64,
    /// See `DispatchConfig`.
    pub frontier_chunk: u64,
    /// A usual flush takes up to so long.
    pub flush_ms_max: u64,
    /// Lives before the last.
    pub lives: u32,
    /// A life's workload lasts up to so long.
    pub life_ms_max: u64,
    /// The topics.
    pub topics: Vec<TopicSetup>,
}

impl Setup {
    /// The setup of a run.
    pub fn draw(planted: Planted, chance: &mut Chance) -> Setup {
        Setup {
            planted,
            is_mesh: false,
            shards_log2: chance.between(1, 3) as u8,
            segment_bytes: 64 << 10 << chance.below(2),
            files_kept: chance.between(3, 6),
            purge_patience: chance.between(1, 8) as u32,
            index_flush_bytes: 8 << 10 << chance.below(4),
            index_flush_every: if chance.percent(50) { chance.between(5, 60) } else { 0 },
            tail_cache: if chance.percent(50) { 4 << 20 } else { 16 << 10 },
            member_timeout_ms: chance.between(MEMBER_TIMEOUT_MS_MIN, 4_000),
            frontier_chunk: chance.between(4, 200),
            flush_ms_max: chance.between(1, 12),
            lives: chance.between(3, 6) as u32,
            life_ms_max: chance.between(1_000, 9_000),
            topics: topics(chance),
        }
    }

    /// How long a flush takes.
    pub fn flush_ms(&self, is_slow: bool, chance: &mut Chance) -> u64 {
        match is_slow {
            true => chance.between(50, 400),
            false if chance.percent(1) => chance.between(20, 200),
            false => chance.below(self.flush_ms_max + 1),
        }
    }
}

fn topics(chance: &mut Chance) -> Vec<TopicSetup> {
    let config = |chance: &mut Chance| TopicConfig {
        ack_timeout_ms: chance.between(400, 2_500),
        max_deliveries: chance.between(3, 8) as u32,
        dedup_window_ms: chance.between(30, 120) * 1_000,
        ..TopicConfig::default()
    };
    let members = |chance: &mut Chance| chance.between(1, 4) as u32;
    vec![
        TopicSetup {
            name: "orders",
            config: config(chance),
            churns: false,
            purges: false,
            groups: vec![("billing", members(chance)), ("shipping", members(chance))],
        },
        TopicSetup {
            name: "ledger",
            config: TopicConfig {
                ordering: if chance.percent(50) { Ordering::Total } else { Ordering::Key },
                ..config(chance)
            },
            churns: false,
            purges: false,
            groups: vec![("audit", members(chance))],
        },
        TopicSetup {
            name: "metrics",
            config: TopicConfig { retention_bytes: Some(chance.between(8, 64) << 10), ..config(chance) },
            churns: false,
            purges: true,
            groups: vec![("graphs", members(chance))],
        },
        TopicSetup {
            name: "sessions",
            config: config(chance),
            churns: true,
            purges: false,
            groups: vec![("cleaners", members(chance))],
        },
    ]
}
