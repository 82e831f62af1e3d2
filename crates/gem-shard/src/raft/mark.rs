//! What the journal is told of a group's replica here: which of its stores counts, and for which
//! part of the ring it was made.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use gem_types::{Incarnation, Prefix};

const HEAD: &[u8] = b"gem group 3 ";

/// A replica's mark, made anew with each snapshot that is taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The generation of the store that counts.
    pub generation: u32,
    /// The prefix for which the replica was made; what the state says, once there is one, goes
    /// before it.
    pub prefix: Prefix,
    /// The life of this replica: one that was given up and is made again is another, whose votes
    /// are its own.
    pub incarnation: Incarnation,
}

impl Mark {
    /// ```text
    /// "gem group 3 " | generation u32 | incarnation u64 | prefix: bits u64, length u8   (little-endian)
    /// ```
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEAD.len() + 21);
        out.put_slice(HEAD);
        out.put_u32_le(self.generation);
        out.put_u64_le(self.incarnation.0);
        out.put_u64_le(self.prefix.first().0);
        out.put_u8(self.prefix.length());
        out.freeze()
    }

    /// Reads back what [`encode`](Self::encode) wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let bad = || String::from("a group's mark in the journal has an unknown format");
        let mut rest = bytes.strip_prefix(HEAD).filter(|rest| rest.len() == 21).ok_or_else(bad)?;
        let generation = rest.get_u32_le();
        let incarnation = Incarnation(rest.get_u64_le());
        let bits = rest.get_u64_le();
        let prefix = Prefix::new(bits, rest.get_u8()).ok_or_else(bad)?;
        Ok(Mark { generation, prefix, incarnation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_back() {
        for prefix in Prefix::tiles(3) {
            let mark = Mark { generation: 7, prefix, incarnation: Incarnation(9) };
            assert_eq!(Mark::decode(&mark.encode()), Ok(mark));
        }
        assert!(Mark::decode(b"gem group 1").is_err());
    }
}
