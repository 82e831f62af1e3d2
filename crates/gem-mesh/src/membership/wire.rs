//! What members say to each other: one version byte, then the message in postcard's encoding.
//!
//! Invariants: every decoder is total, bounded by the bytes it is given, and refuses what would
//! break an invariant further in.

use foca::{Header, Member as Update};
use gem_types::{GroupId, NodeId};
use serde::{Deserialize, Serialize};

use super::{Load, Member};
use crate::directory::Descriptor;
use crate::directory::table::{Rank, is_sound};

/// The first byte of every message: 1 in the upper half for membership, the version in the lower.
pub const VERSION: u8 = 0x11;

/// A message between members.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Envelope {
    /// A packet of the SWIM library, and what travels on its back.
    Swim { packet: Vec<u8>, rumours: Vec<Rumour> },
    /// Rumours alone.
    Rumours(Vec<Rumour>),
    /// A table's checksums, by part.
    Sums(Vec<u64>),
    /// All groups of some parts whose checksums differed, and how new they are.
    Marks { parts: Vec<u8>, marks: Vec<(GroupId, Rank)> },
    /// Groups of which the sender lacks what the receiver has.
    Want(Vec<GroupId>),
    /// What the receiver lacks.
    Have(Vec<Descriptor>),
}

/// News that every member is to hear.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Rumour {
    /// How loaded a node is, in its run of that number.
    Load { node: NodeId, run: u64, load: Load },
    /// A shard changed.
    Shard(Descriptor),
    /// A node has left as planned.
    Left { node: NodeId, run: u64 },
}

impl Envelope {
    pub(super) fn encode(&self) -> Vec<u8> {
        // Plain data into a growing buffer: postcard has no way to fail here.
        postcard::to_extend(self, vec![VERSION]).unwrap_or_default()
    }

    /// The message in `bytes`; `None` for another version, or for anything malformed.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (VERSION, body) = bytes.split_first().map(|(v, body)| (*v, body))? else { return None };
        let (envelope, rest) = postcard::take_from_bytes::<Envelope>(body).ok()?;
        let is_sound = rest.is_empty()
            && match &envelope {
                Envelope::Swim { rumours, .. } | Envelope::Rumours(rumours) => rumours.iter().all(Rumour::is_sound),
                Envelope::Have(descriptors) => descriptors.iter().all(is_sound),
                Envelope::Sums(_) | Envelope::Marks { .. } | Envelope::Want(_) => true,
            };
        is_sound.then_some(envelope)
    }
}

impl Rumour {
    fn is_sound(&self) -> bool {
        match self {
            Rumour::Shard(descriptor) => is_sound(descriptor),
            Rumour::Load { .. } | Rumour::Left { .. } => true,
        }
    }

    /// Its size in a message, in bytes.
    pub(super) fn size(&self) -> usize {
        size(self)
    }
}

/// The size of `value` in a message, in bytes.
pub(super) fn size<T: Serialize>(value: &T) -> usize {
    postcard::experimental::serialized_size(value).unwrap_or(usize::MAX)
}

/// A packet of the SWIM library, read far enough to judge it.
#[derive(Clone, Debug)]
pub(super) struct Packet<'a> {
    pub header: Header<Member>,
    pub updates: Vec<Update<Member>>,
    tail: &'a [u8],
}

impl<'a> Packet<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let (header, mut tail) = postcard::take_from_bytes::<Header<Member>>(bytes).ok()?;
        let mut updates = Vec::new();
        if let Some((count, rest)) = tail.split_first_chunk::<2>() {
            tail = rest;
            for _ in 0..u16::from_be_bytes(*count) {
                let (update, rest) = postcard::take_from_bytes::<Update<Member>>(tail).ok()?;
                updates.push(update);
                tail = rest;
            }
        }
        let is_sound = header.src.is_sound() && updates.iter().all(|u| u.id().is_sound());
        is_sound.then_some(Packet { header, updates, tail })
    }

    /// The packet, without the updates that were taken out of it.
    pub(super) fn write(&self) -> Vec<u8> {
        let mut out = postcard::to_allocvec(&self.header).unwrap_or_default();
        out.extend((self.updates.len() as u16).to_be_bytes());
        for update in &self.updates {
            out = postcard::to_extend(update, out).unwrap_or_default();
        }
        out.extend(self.tail);
        out
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
