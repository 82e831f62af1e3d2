//! The kinds of parcels on the bulk plane.

/// Raft's own messages: `gem_shard::raft::wire`.
pub const RAFT: u16 = 1;
/// The offer of a snapshot.
pub const OFFER: u16 = 2;
/// A part of a snapshot.
pub const FETCH: u16 = 3;
/// A call of a shard's log: `gem_shard::remote`.
pub const SHARD: u16 = 4;
/// What leaders ask of nodes: [`super::place::wire`].
pub const PLACE: u16 = 5;
/// The answer to a parcel that can't be answered: a text that says why.
pub const REFUSED: u16 = u16::MAX;
