//! Little-endian reading and writing of what the journal's heads, tables and footers are made of.

use bytes::Bytes;
use gem_types::{GroupId, Incarnation, NodeId, ReplicaId};

use super::types::LogPos;

/// Reads from the front of a slice. Every read answers `None` at the end: input is never trusted.
pub(super) struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[b]| b)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn group(&mut self) -> Option<GroupId> {
        self.array().map(GroupId)
    }

    pub(super) fn leader(&mut self) -> Option<(u64, ReplicaId)> {
        let term = self.u64()?;
        let node = NodeId(self.array()?);
        Some((term, ReplicaId { node, incarnation: Incarnation(self.u64()?) }))
    }

    pub(super) fn pos(&mut self) -> Option<LogPos> {
        let (term, leader) = self.leader()?;
        Some(LogPos { term, leader, index: self.u64()? })
    }

    pub(super) fn bytes(&mut self) -> Option<Bytes> {
        let length = self.u32()? as usize;
        Some(Bytes::copy_from_slice(self.take(length)?))
    }
}

/// Appends to a vector.
pub(super) trait Output {
    fn put(&mut self, bytes: &[u8]);

    fn put_u32(&mut self, n: u32) {
        self.put(&n.to_le_bytes());
    }

    fn put_u64(&mut self, n: u64) {
        self.put(&n.to_le_bytes());
    }

    fn put_leader(&mut self, term: u64, leader: &ReplicaId) {
        self.put_u64(term);
        self.put(&leader.node.0);
        self.put_u64(leader.incarnation.0);
    }

    fn put_pos(&mut self, id: &LogPos) {
        self.put_leader(id.term, &id.leader);
        self.put_u64(id.index);
    }

    /// Length and bytes. What is put here was taken in by a check on its size.
    fn put_bytes(&mut self, bytes: &[u8]) {
        self.put_u32(bytes.len() as u32);
        self.put(bytes);
    }
}

impl Output for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}
