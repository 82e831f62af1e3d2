//! The ring: 64-bit positions, and the prefixes that shards hold of it.
//!
//! A position is the first 8 bytes of a SHA-256. A shard holds every position that
//! begins with its prefix; prefixes tile the ring as the leaves of a binary trie do
//! (Prefix Hash Trees, Ramabhadran et al. 2004).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A place on the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position(pub u64);

impl Position {
    /// The position of `parts`, each preceded by its length so that no two lists of
    /// parts share an input.
    pub fn of(parts: &[&[u8]]) -> Self {
        let digest = digest(parts);
        let mut first = [0u8; 8];
        first.copy_from_slice(&digest[..8]);
        Position(u64::from_be_bytes(first))
    }
}

/// SHA-256 over length-prefixed parts: the one way in which GEM derives ids.
pub fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// A prefix of ring positions: the range of one shard. At most 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Prefix {
    /// The prefix's bits, left-aligned; all bits below its length are zero.
    bits: u64,
    length: u8,
}

impl Prefix {
    /// The whole ring.
    pub const ROOT: Prefix = Prefix { bits: 0, length: 0 };

    /// The prefix of `length` bits at the head of `bits`; `None` above 64 bits.
    pub fn new(bits: u64, length: u8) -> Option<Self> {
        match length {
            0 => Some(Prefix::ROOT),
            1..=64 => Some(Prefix { bits: bits & (u64::MAX << (64 - length)), length }),
            _ => None,
        }
    }

    /// The `2^k` prefixes of length `k` that tile the ring, in ring order.
    pub fn tiles(k: u8) -> impl Iterator<Item = Prefix> {
        let k = k.min(16);
        (0..1u64 << k).filter_map(move |n| Prefix::new(if k == 0 { 0 } else { n << (64 - k) }, k))
    }

    /// Whether `position` lies in this prefix.
    pub fn contains(&self, position: Position) -> bool {
        Prefix::new(position.0, self.length) == Some(*self)
    }

    /// The two children, left first; `None` at 64 bits.
    pub fn children(&self) -> Option<(Prefix, Prefix)> {
        let length = self.length.checked_add(1).filter(|l| *l <= 64)?;
        let right = self.bits | 1u64 << (64 - length);
        Some((Prefix { bits: self.bits, length }, Prefix { bits: right, length }))
    }

    /// The first position inside.
    pub fn first(&self) -> Position {
        Position(self.bits)
    }

    /// The last position inside.
    pub fn last(&self) -> Position {
        Position(if self.length == 0 { u64::MAX } else { self.bits | !(u64::MAX << (64 - self.length)) })
    }

    /// The number of bits.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Nine bytes that identify the prefix: the bits, then the length.
    pub fn to_bytes(&self) -> [u8; 9] {
        let mut out = [0; 9];
        out[..8].copy_from_slice(&self.bits.to_be_bytes());
        out[8] = self.length;
        out
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.length == 0 {
            return f.write_str("-");
        }
        (0..self.length).try_for_each(|i| f.write_str(if self.bits >> (63 - i) & 1 == 1 { "1" } else { "0" }))
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "-" {
            return Ok(Prefix::ROOT);
        }
        let mut bits = 0u64;
        for (i, c) in text.chars().enumerate() {
            match c {
                '0' if i < 64 => {}
                '1' if i < 64 => bits |= 1 << (63 - i),
                _ => {
                    return Err(format!(
                        "{text:?} is not a prefix: write up to 64 binary digits, or - for the whole ring"
                    ));
                }
            }
        }
        Prefix::new(bits, text.len() as u8).ok_or_else(|| "a prefix has at most 64 bits".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tiles_cover_the_ring_once() {
        let tiles: Vec<_> = Prefix::tiles(4).collect();
        assert_eq!(tiles.len(), 16);
        assert_eq!(tiles[0].first(), Position(0));
        assert_eq!(tiles[15].last(), Position(u64::MAX));
        for pair in tiles.windows(2) {
            assert_eq!(pair[0].last().0 + 1, pair[1].first().0);
        }
    }

    proptest! {
        #[test]
        fn children_tile_their_parent(bits: u64, length in 0u8..64, position: u64) {
            let parent = Prefix::new(bits, length).unwrap();
            let (left, right) = parent.children().unwrap();
            let position = Position(position);
            prop_assert_eq!(parent.contains(position), left.contains(position) ^ right.contains(position));
            prop_assert_eq!(left.last().0 + 1, right.first().0);
        }

        #[test]
        fn text_and_back(bits: u64, length in 0u8..=64) {
            let prefix = Prefix::new(bits, length).unwrap();
            prop_assert_eq!(prefix.to_string().parse::<Prefix>().unwrap(), prefix);
        }
    }
}
