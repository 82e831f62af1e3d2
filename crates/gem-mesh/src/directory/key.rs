//! The space in which nodes and records are near or far: 256 bits, compared by XOR.

use std::fmt;

use gem_types::{MeshId, NodeId, Prefix, ring};
use serde::{Deserialize, Serialize};

/// A point of the space: the SHA-256 of a node's id, or of a mesh's id and a prefix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key(pub [u8; 32]);

/// How far two keys are from each other: their XOR, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Distance([u8; 32]);

impl Key {
    /// Where `node` stands.
    pub fn of_node(node: NodeId) -> Self {
        Key(ring::digest(&[b"gem dht node", &node.0]))
    }

    /// Where the record of `prefix` lies.
    pub fn of_prefix(mesh: MeshId, prefix: Prefix) -> Self {
        Key(ring::digest(&[b"gem dht prefix", &mesh.0, &prefix.to_bytes()]))
    }

    /// How far `other` is.
    pub fn distance(&self, other: &Key) -> Distance {
        let mut out = self.0;
        out.iter_mut().zip(other.0).for_each(|(byte, other)| *byte ^= other);
        Distance(out)
    }

    /// This key with the bits from `index` on taken from `random`, but bit `index` itself turned:
    /// a point of the bucket of that index.
    pub fn in_bucket(&self, index: u8, random: [u8; 32]) -> Self {
        let (byte, bit) = (usize::from(index / 8), 7 - index % 8);
        let mut out = self.0;
        for (i, (own, random)) in out.iter_mut().zip(random).enumerate() {
            *own = match i.cmp(&byte) {
                std::cmp::Ordering::Less => *own,
                std::cmp::Ordering::Equal => {
                    let below = (1u8 << bit) - 1;
                    (*own ^ (1 << bit)) & !below | random & below
                }
                std::cmp::Ordering::Greater => random,
            };
        }
        Key(out)
    }
}

impl Distance {
    /// The number of leading bits that agree: the bucket for what is this far; `None` for nothing.
    pub fn bucket(&self) -> Option<u8> {
        let byte = self.0.iter().position(|b| *b != 0)?;
        let bits = self.0.get(byte).map_or(0, |b| b.leading_zeros());
        u8::try_from(8 * byte as u32 + bits).ok()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(4).try_for_each(|b| write!(f, "{b:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_point_of_a_bucket_lies_in_it(own: [u8; 32], index: u8, random: [u8; 32]) {
            let point = Key(own).in_bucket(index, random);
            prop_assert_eq!(Key(own).distance(&point).bucket(), Some(index));
        }
    }

    #[test]
    fn nothing_is_in_no_bucket() {
        assert_eq!(Key([7; 32]).distance(&Key([7; 32])).bucket(), None);
    }
}
