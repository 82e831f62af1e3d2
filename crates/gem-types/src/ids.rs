//! The names by which GEM's parts know each other.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ring::{Position, digest};

/// A position in a partition: rises by one a stored record.
pub type Offset = u64;
/// Milliseconds since the Unix epoch.
pub type TimestampMs = i64;

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub [u8; $len]);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

macro_rules! hex_text {
    ($name:ident, $len:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> std::result::Result<Self, String> {
                let bytes = text.as_bytes();
                let mut out = [0u8; $len];
                if bytes.len() != 2 * $len {
                    return Err(format!("{text:?} is not an id of {} hexadecimal digits", 2 * $len));
                }
                for (slot, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    let digits = std::str::from_utf8(pair).map_err(|e| e.to_string())?;
                    *slot = u8::from_str_radix(digits, 16).map_err(|e| format!("{text:?}: {e}"))?;
                }
                Ok($name(out))
            }
        }
    };
}

bytes_id!(
    /// A mesh: made at random at its founding, and never again.
    MeshId, 16
);
hex_text!(MeshId, 16);

bytes_id!(
    /// A Raft group. Never used again: a prefix may recur in the life of a mesh, its group's id may not.
    GroupId, 16
);
hex_text!(GroupId, 16);

impl GroupId {
    /// The group that holds `prefix` when the mesh is founded.
    pub fn founding(mesh: MeshId, prefix: crate::Prefix) -> Self {
        Self::derive(&[b"gem founding group", &mesh.0, &prefix.to_bytes()])
    }

    /// The right-hand child that `parent`'s split at log index `split_index` makes.
    pub fn split_child(parent: GroupId, split_index: u64) -> Self {
        Self::derive(&[b"gem split child", &parent.0, &split_index.to_be_bytes(), b"right"])
    }

    fn derive(parts: &[&[u8]]) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&digest(parts)[..16]);
        GroupId(id)
    }
}

bytes_id!(
    /// A partition: its ring position (8 bytes, big-endian), then 8 bytes that tell apart
    /// the partitions that a name had over time. Sorting by id sorts by ring position, so a
    /// shard's rows are one range and a split is a range cut.
    PartitionId, 16
);
hex_text!(PartitionId, 16);

impl PartitionId {
    /// Partition `number` of `topic`, where `made` identifies the entry that created the topic.
    /// Partition 0 lies at the topic's own position: in its home shard.
    pub fn new(topic: &TopicName, number: u32, made: &[u8]) -> Self {
        let position = if number == 0 {
            topic.position()
        } else {
            Position::of(&[b"gem partition", topic.as_str().as_bytes(), &number.to_be_bytes()])
        };
        let unique = Position::of(&[b"gem partition life", topic.as_str().as_bytes(), &number.to_be_bytes(), made]);
        let mut id = [0; 16];
        id[..8].copy_from_slice(&position.0.to_be_bytes());
        id[8..].copy_from_slice(&unique.0.to_be_bytes());
        PartitionId(id)
    }

    /// Where on the ring the partition lies.
    pub fn position(&self) -> Position {
        let mut first = [0; 8];
        first.copy_from_slice(&self.0[..8]);
        Position(u64::from_be_bytes(first))
    }
}

bytes_id!(
    /// A node: its ed25519 public key. Shown as its libp2p peer id (an identity multihash of the
    /// key in libp2p's protobuf encoding, in base58).
    NodeId, 32
);

/// libp2p's protobuf `PublicKey{Type: Ed25519, Data: 32 bytes}` under an identity multihash.
const PEER_ID_HEAD: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0u8; 38];
        bytes[..6].copy_from_slice(&PEER_ID_HEAD);
        bytes[6..].copy_from_slice(&self.0);
        f.write_str(&bs58::encode(bytes).into_string())
    }
}

impl FromStr for NodeId {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let bytes = bs58::decode(text).into_vec().map_err(|e| format!("{text:?} is not a node id: {e}"))?;
        match bytes.strip_prefix(&PEER_ID_HEAD).and_then(|key| key.try_into().ok()) {
            Some(key) => Ok(NodeId(key)),
            None => Err(format!("{text:?} is not the peer id of an ed25519 key")),
        }
    }
}

/// Which life of a node's disk: a node that lost its disk comes back under a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

/// A replica, as Raft counts them: a node and the incarnation of its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ReplicaId {
    /// The node.
    pub node: NodeId,
    /// The life of its disk.
    pub incarnation: Incarnation,
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:x}", self.node, self.incarnation.0)
    }
}

/// A producer: its creation time in milliseconds (upper 44 bits of 63) and 19 random bits, so that
/// ids sort by age and fit the signed 64 bits of a record batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProducerId(pub i64);

impl ProducerId {
    const RANDOM_BITS: u32 = 19;

    /// An id made at `now_ms` with `random` bits to tell apart those of one millisecond.
    pub fn new(now_ms: TimestampMs, random: u64) -> Self {
        let time = (now_ms.max(0) as u64) & ((1 << 44) - 1);
        ProducerId((time << Self::RANDOM_BITS | random & ((1 << Self::RANDOM_BITS) - 1)) as i64)
    }

    /// When it was made; `None` for a negative id (a batch without a producer has -1).
    pub fn created_ms(&self) -> Option<TimestampMs> {
        (self.0 >= 0).then_some(self.0 >> Self::RANDOM_BITS)
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self> {
                $name::new(&text)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                $name::new(text)
            }
        }
    };
}

name!(
    /// A topic's name: 1 to 249 of `A-Za-z0-9._-`.
    TopicName
);
name!(
    /// A group's name: 1 to 64 of `A-Za-z0-9_-`.
    GroupName
);

/// The end of every dead-letter topic's name.
pub const DEAD_LETTER_SUFFIX: &str = ".dlq";
/// The beginning of every name that is the system's.
pub const SYSTEM_PREFIX: &str = "_gem";
const TOPIC_NAME_MAX: usize = 249;
const GROUP_NAME_MAX: usize = 64;

impl TopicName {
    /// Checks `text`; refuses with `invalid_argument`. `.` and `..` are refused too, since names
    /// travel in URL paths.
    pub fn new(text: &str) -> Result<Self> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if text.is_empty() || text.len() > TOPIC_NAME_MAX || !text.bytes().all(legal) || text == "." || text == ".." {
            return Err(Error::invalid(format!(
                "{text:?} is not a topic name: use 1 to {TOPIC_NAME_MAX} of A-Z a-z 0-9 . _ -"
            )));
        }
        Ok(TopicName(text.into()))
    }

    /// Whether the name is the system's: readable, not writable by users.
    pub fn is_system(&self) -> bool {
        self.0.starts_with(SYSTEM_PREFIX) || self.is_dead_letter()
    }

    /// Whether this is a group's dead-letter topic.
    pub fn is_dead_letter(&self) -> bool {
        self.0.ends_with(DEAD_LETTER_SUFFIX)
    }

    /// The topic's own position: its home shard is the one that holds it.
    pub fn position(&self) -> Position {
        Position::of(&[b"gem topic", self.0.as_bytes()])
    }

    /// The topic that takes the dead letters of `group`; refused where the name would be too long.
    pub fn dead_letters(&self, group: &GroupName) -> Result<TopicName> {
        let name = format!("{self}.{group}{DEAD_LETTER_SUFFIX}");
        if name.len() > TOPIC_NAME_MAX {
            return Err(Error::invalid(format!(
                "group {group} of topic {self} has no room for its dead-letter topic: the name {name:?} has {} bytes, at most {TOPIC_NAME_MAX} are allowed; use a shorter group name",
                name.len()
            )));
        }
        Ok(TopicName(name.into()))
    }
}

impl GroupName {
    /// Checks `text`; refuses with `invalid_argument`.
    pub fn new(text: &str) -> Result<Self> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        if text.is_empty() || text.len() > GROUP_NAME_MAX || !text.bytes().all(legal) {
            return Err(Error::invalid(format!(
                "{text:?} is not a group name: use 1 to {GROUP_NAME_MAX} of A-Z a-z 0-9 _ -"
            )));
        }
        Ok(GroupName(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_id_reads_as_a_peer_id() {
        let id = NodeId([7; 32]);
        assert!(id.to_string().starts_with("12D3KooW"));
        assert_eq!(id.to_string().parse::<NodeId>().unwrap(), id);
    }

    #[test]
    fn names_are_checked() {
        assert!(TopicName::new("orders.v1-eu_2").is_ok());
        for bad in ["", "a b", "..", ".", "ä", &"x".repeat(250)] {
            assert!(TopicName::new(bad).is_err(), "{bad:?}");
        }
        assert!(GroupName::new("billing").is_ok());
        assert!(GroupName::new("a.b").is_err());
        assert!(TopicName::new("_gem.mesh").unwrap().is_system());
        assert!(TopicName::new("a.b.dlq").unwrap().is_system());
        let long = TopicName::new(&"x".repeat(249)).unwrap();
        assert!(long.dead_letters(&GroupName::new("g").unwrap()).is_err());
    }

    #[test]
    fn a_producer_id_carries_its_time() {
        let id = ProducerId::new(1_790_000_000_000, u64::MAX);
        assert_eq!(id.created_ms(), Some(1_790_000_000_000));
        assert_eq!(ProducerId(-1).created_ms(), None);
    }

    #[test]
    fn partition_zero_lies_at_home() {
        let topic = TopicName::new("orders").unwrap();
        let first = PartitionId::new(&topic, 0, b"one");
        assert_eq!(first.position(), topic.position());
        assert_ne!(first, PartitionId::new(&topic, 0, b"two"));
    }
}
