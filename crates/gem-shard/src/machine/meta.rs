//! The machine's own rows: how far it is, who replicates it, how many partitions it made.

use bytes::Bytes;
use gem_store::StoreError;
use gem_types::{Incarnation, NodeId, Prefix, ReplicaId};

use super::keys;
use super::overlay::Overlay;
use super::tables::damaged;
use crate::entry::LogPos;
use crate::entry::wire::{Malformed, Reader, Writer};

const APPLIED: u8 = 1;
const MEMBERSHIP: u8 = 2;
const LIVES: u8 = 3;
const RANGE: u8 = 4;
const VERSION: u8 = 1;

/// The machine's own rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Meta {
    pub applied: Option<LogPos>,
    pub membership: Option<(LogPos, Bytes)>,
    /// How many partitions were ever made: tells apart those of one name.
    pub lives: u64,
    /// The part of the ring that the shard holds.
    pub range: Option<Prefix>,
}

impl Meta {
    pub fn read(rows: &Overlay) -> Result<Meta, StoreError> {
        let mut meta = Meta::default();
        let mut read = |name: u8, take: &mut dyn FnMut(&mut Reader<'_>, &mut Meta) -> Result<(), Malformed>| {
            let Some(row) = rows.get(&keys::meta(name))? else { return Ok(()) };
            let mut input = Reader::new(&row, "machine's row");
            let read = match input.u8() {
                Ok(VERSION) => take(&mut input, &mut meta).and_then(|()| input.end()),
                _ => Err(Malformed("machine's row")),
            };
            read.map_err(|error| damaged(error, &row))
        };
        read(APPLIED, &mut |input, meta| {
            meta.applied = Some(take_pos(input)?);
            Ok(())
        })?;
        read(MEMBERSHIP, &mut |input, meta| {
            let pos = take_pos(input)?;
            meta.membership = Some((pos, Bytes::copy_from_slice(input.bytes()?)));
            Ok(())
        })?;
        read(LIVES, &mut |input, meta| {
            meta.lives = input.u64()?;
            Ok(())
        })?;
        read(RANGE, &mut |input, meta| {
            let bits = input.u64()?;
            meta.range = Some(Prefix::new(bits, input.u8()?).ok_or(Malformed("machine's range"))?);
            Ok(())
        })?;
        Ok(meta)
    }

    /// Writes what differs from `written`.
    pub fn write(&self, written: &Meta, rows: &mut Overlay) {
        let mut put = |name: u8, fill: &dyn Fn(&mut Writer)| {
            let mut out = Writer::new();
            out.u8(VERSION);
            fill(&mut out);
            rows.put(keys::meta(name), out.finish().into());
        };
        if let Some(applied) = self.applied.filter(|_| self.applied != written.applied) {
            put(APPLIED, &|out| put_pos(out, applied));
        }
        if let Some((pos, bytes)) = self.membership.as_ref().filter(|_| self.membership != written.membership) {
            put(MEMBERSHIP, &|out| {
                put_pos(out, *pos);
                out.bytes(bytes);
            });
        }
        if let Some(range) = self.range.filter(|_| self.range != written.range) {
            put(RANGE, &|out| {
                out.u64(range.first().0).u8(range.length());
            });
        }
        if self.lives != written.lives {
            put(LIVES, &|out| {
                out.u64(self.lives);
            });
        }
    }
}

fn put_pos(out: &mut Writer, pos: LogPos) {
    out.u64(pos.term).fixed(&pos.leader.node.0).u64(pos.leader.incarnation.0).u64(pos.index);
}

fn take_pos(input: &mut Reader<'_>) -> Result<LogPos, Malformed> {
    let term = input.u64()?;
    let leader = ReplicaId { node: NodeId(input.fixed()?), incarnation: Incarnation(input.u64()?) };
    Ok(LogPos { term, leader, index: input.u64()? })
}
