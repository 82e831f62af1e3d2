//! Every key of the configuration, once: the table from which fields, checks, documentation and
//! `gem config` all follow.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::value::{FromValue, Kind, LogFormat, Memory, Value};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// A key of `gem.toml`.
#[derive(Debug)]
pub struct Key {
    /// Its name; as a flag with `-` for `_`, as a variable in capitals after `GEM_`.
    pub name: &'static str,
    pub(super) kind: Kind,
    /// The value where none is given.
    pub default: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// What other keys it acts together with; may be empty.
    pub relation: &'static str,
    /// How to choose it.
    pub choose: &'static str,
}

impl Key {
    /// What values are allowed.
    pub fn allowed(&self) -> String {
        self.kind.allowed()
    }
}

macro_rules! keys {
    ($($name:ident: $type:ty = $default:literal in $kind:expr,
        purpose $purpose:literal,
        relation $relation:literal,
        choose $choose:literal;)*) => {
        /// Every key, in the order in which people meet them.
        pub const KEYS: &[Key] = &[$(Key {
            name: stringify!($name),
            kind: $kind,
            default: $default,
            purpose: $purpose,
            relation: $relation,
            choose: $choose,
        }),*];

        /// The value of every key.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Settings {
            $(#[doc = $purpose] pub $name: $type,)*
        }

        impl Settings {
            /// The settings with the values that `value` has for each key's name; else the name
            /// of the key that has none of its type.
            pub(super) fn collect(value: impl Fn(&str) -> Option<Value>) -> Result<Settings, &'static str> {
                Ok(Settings {
                    $($name: value(stringify!($name))
                        .and_then(|value| <$type>::from_value(&value))
                        .ok_or(stringify!($name))?,)*
                })
            }
        }
    };
}

keys! {
    data: PathBuf = "./gem-data" in Kind::Path,
        purpose "The directory that holds everything the node keeps: identity, journal, index and objects.",
        relation "One node a directory; an empty one founds a mesh.",
        choose "A local disk with room for the journal (`journal_limit`), what retention keeps, and `disk_reserve`.";
    listen: SocketAddr = "127.0.0.1:7400" in Kind::Address,
        purpose "The address for clients: REST, gRPC and metrics on one port.",
        relation "An address off loopback needs `insecure`.",
        choose "Loopback for trying out; an interface's own address to serve other machines.";
    mesh: SocketAddr = "127.0.0.1:7401" in Kind::Address,
        purpose "The address for the mesh's other nodes: encrypted, and only members are let in.",
        relation "Bulk links take `mesh_bulk`. Needs no `insecure` off loopback.",
        choose "An address that every other node reaches; loopback where all nodes share one machine.";
    mesh_bulk: Option<SocketAddr> = "" in Kind::OptionalAddress,
        purpose "The address for the mesh's bulk links: replication, copies of replicas, requests passed on.",
        relation "Without one: `mesh`'s address, with the port after it.",
        choose "None, unless that port is taken or another network should carry the bulk of the traffic.";
    join: Vec<SocketAddr> = "" in Kind::Addresses(64),
        purpose "Mesh addresses of nodes to join through; any that answers will do.",
        relation "With it nothing is ever founded; needs `secret_file` or `$GEM_SECRET`. A member knows its mesh and no longer needs it.",
        choose "`mesh` of two or three nodes that run most of the time.";
    secret_file: Option<PathBuf> = "" in Kind::OptionalPath,
        purpose "The file that holds the join secret, which lets a node into its mesh.",
        relation "Goes before `$GEM_SECRET`. A founding without a secret makes one and writes it to `join-secret` in `data`.",
        choose "A copy of the founding node's `join-secret`, readable to the node's user alone.";
    zone: Option<String> = "" in Kind::Name(64),
        purpose "The name of what fails together with this node: a rack, a room, an availability zone.",
        relation "A shard's replicas lie in different zones as far as there are enough.",
        choose "The same name for all nodes of one place; none where all are in one.";
    name: Option<String> = "" in Kind::Name(64),
        purpose "A name for people, in logs and tables.",
        relation "Names nothing: the node's id does. Without one the id is shown.",
        choose "The host's name, or what it is called in your inventory.";
    insecure: bool = "false" in Kind::Switch,
        purpose "Allows `listen` to be an address off loopback although there is neither encryption nor a login yet.",
        relation "See `listen`.",
        choose "Only in a network that you trust as a whole.";
    log_format: LogFormat = "text" in Kind::LogFormat,
        purpose "The form of log lines on standard error.",
        relation "",
        choose "`json` where a collector reads them.";

    memory: Memory = "2GiB" in Kind::Memory(64 * MIB, 16 * TIB, 1, 90),
        purpose "All the memory that the node plans with: requests, replication, caches, buffers and tables.",
        relation "`max_batch` and the requests at work come out of it. What is beyond is read from disk, then publishers are slowed, then refused.",
        choose "On a machine of its own, 70% to 80%; beside others, what they leave. A container's limit is what counts.";
    max_message: usize = "1MiB" in Kind::Size(1, 64 * MIB),
        purpose "The largest message: payload, key, headers and id together.",
        relation "No message is larger than `max_batch` either.",
        choose "As small as your messages allow; keep large objects elsewhere and send where they are.";
    max_batch: usize = "8MiB" in Kind::Size(1, 64 * MIB),
        purpose "The most that one publish may carry, all messages together, after decompression.",
        relation "A file of the journal must hold two (`journal_file_size`).",
        choose "The default; larger batches gain nothing and wait longer.";
    max_headers: usize = "32KiB" in Kind::Size(0, 4 * MIB),
        purpose "The most that the header names and values of one message may have.",
        relation "Counts towards `max_message`.",
        choose "The default, unless a tracing system needs more.";
    max_key: usize = "4KiB" in Kind::Size(0, MIB),
        purpose "The longest key.",
        relation "Counts towards `max_message`.",
        choose "The default; a key names a thing, it does not hold it.";
    max_id: usize = "256B" in Kind::Size(1, 64 * KIB),
        purpose "The longest message id that a client may give.",
        relation "Counts towards `max_message`. Stored with every message.",
        choose "The default holds a URL and a UUID.";
    request_timeout: Duration = "30s" in Kind::Time(Duration::from_millis(100), Duration::from_secs(3600)),
        purpose "How long a request that changes something may take before it is answered with `deadline`.",
        relation "Waits that a client asks for (`wait_ms`) come on top.",
        choose "Longer than the slowest flush of your disk under load; clients retry with the same id.";

    auto_create_topics: bool = "true" in Kind::Switch,
        purpose "Whether a topic is made when it is first published to or pulled from.",
        relation "",
        choose "`false` where a misspelt name should be an error.";
    dedup_bytes: u64 = "256MiB" in Kind::Size(KIB, TIB),
        purpose "The room for remembered message ids, over all topics of a node.",
        relation "No id is forgotten before its topic's `dedup_window`: where the room is full, publishes with ids of clients are throttled.",
        choose "About 100 bytes for each message with an id within the window: 1000 a second for 10 minutes take 60 MB.";
    max_out: u32 = "65536" in Kind::Count(1, 1 << 24),
        purpose "The most messages of one group and partition that may be out: delivered and not yet settled.",
        relation "Credit that members give beyond it waits.",
        choose "More than consumers together hold at work; a few hundred bytes of memory each.";
    member_timeout: Duration = "30s" in Kind::Time(Duration::from_millis(100), Duration::from_secs(3600)),
        purpose "How long a group's member may be silent before what it holds goes to others.",
        relation "A topic's ack timeout ends single leases, whichever comes first.",
        choose "Longer than a consumer's worst pause: garbage collection, a reconnect.";
    replace_after: Duration = "30s" in Kind::Time(Duration::from_secs(1), Duration::from_secs(86_400)),
        purpose "How long a node may not answer before its replicas are rebuilt on others.",
        relation "Rebuilding takes at most `copy_limit` a node.",
        choose "Longer than a restart of a node or its machine takes; shorter leaves data at risk for less time, and copies more.";
    max_clock_skew: Duration = "5s" in Kind::Time(Duration::from_millis(1), Duration::from_secs(3600)),
        purpose "How far a node's clock may be from the others' before it stops cutting by age and gives leadership away.",
        relation "",
        choose "The default, with time synchronisation running on every machine.";

    journal_file_size: u64 = "64MiB" in Kind::Size(MIB, 4 * GIB),
        purpose "The size of each preallocated file of the journal.",
        relation "At least twice `max_batch`; `journal_limit` must hold four.",
        choose "The default; larger on disks that write above 1 GB/s.";
    journal_limit: u64 = "8GiB" in Kind::Size(4 * MIB, 1024 * TIB),
        purpose "What the journal may take on disk before its oldest files are gathered into objects.",
        relation "At least four times `journal_file_size`.",
        choose "What is published in an hour or so: history is read fastest from objects, and what retention drops sooner is never written again.";
    disk_reserve: u64 = "256MiB" in Kind::Size(MIB, 16 * TIB),
        purpose "Space kept free for what must go on when the disk is full: votes, acks, deletion. Publishes are refused before it is touched.",
        relation "Also leave room for a few files of `journal_file_size`.",
        choose "The default; more where other programs fill the same disk.";
    copy_limit: u64 = "64MiB" in Kind::Size(64 * KIB, TIB),
        purpose "The most that a node takes in per second when it rebuilds replicas. Read and checked, but not kept to yet.",
        relation "Starts after `replace_after`, or when a node is drained or removed.",
        choose "What disks and network have left beside publishes: half of it, or so.";
    shards_log2: u8 = "4" in Kind::Count(0, 8),
        purpose "A founding node makes two to the power of this many shards. Later it has no effect: shards split as they grow.",
        relation "",
        choose "The default, 16 shards; 0 for a node that will stay small and alone.";
    metrics_topics: u32 = "100" in Kind::Count(0, 100_000),
        purpose "How many topics (and groups) have metrics under their own name; the quieter ones are counted as `_other`.",
        relation "",
        choose "What your metrics store can hold: some ten series each.";
}
