//! The exchange of tables of descriptors: what finds its way even when a rumour was missed.
//!
//! A node sends its table's checksums by part; the other answers with the groups of the parts that
//! differ and how new they are; the first sends what the other lacks and asks for what it lacks.
//!
//! Invariants: every message stays far below the control plane's limit; one round moves at most
//! [`MESSAGES_MAX`] times [`HAVE_BYTES`], and the next goes on where it ended.

use std::collections::BTreeMap;

use gem_types::GroupId;

use super::wire::{Envelope, size};
use crate::directory::table::{PARTS, Rank};
use crate::directory::{Descriptor, Table};

/// The most groups that are named in one message.
pub const MARKS_MAX: usize = 1000;
/// The most bytes of descriptors in one message.
pub const HAVE_BYTES: usize = 32 << 10;
/// The most messages of descriptors in one answer.
pub const MESSAGES_MAX: usize = 8;

/// How a round begins.
pub(super) fn sums(table: &Table) -> Envelope {
    Envelope::Sums(table.parts().to_vec())
}

/// The answer to another's checksums: the parts that differ, beginning with part `first` so that
/// not always the same ones come to nothing.
pub(super) fn marks(table: &Table, theirs: &[u64], first: u8) -> Option<Envelope> {
    if theirs.len() != PARTS {
        return None;
    }
    let (mut parts, mut marks) = (Vec::new(), Vec::new());
    for part in (0..=u8::MAX).map(|i| i.wrapping_add(first)) {
        if theirs.get(usize::from(part)) == table.parts().get(usize::from(part)) {
            continue;
        }
        let found: Vec<_> = table.part(part).take(MARKS_MAX + 1).collect();
        if marks.len() + found.len() > MARKS_MAX {
            break;
        }
        parts.push(part);
        marks.extend(found);
    }
    (!parts.is_empty()).then_some(Envelope::Marks { parts, marks })
}

/// What to do about another's marks: send what it lacks, ask for what this node lacks.
pub(super) fn settle(table: &Table, parts: &[u8], marks: &[(GroupId, Rank)]) -> Vec<Envelope> {
    let theirs: BTreeMap<GroupId, Rank> = marks.iter().copied().collect();
    let ours = parts.iter().flat_map(|part| table.part(*part));
    let lacking = ours.filter(|(group, rank)| theirs.get(group) < Some(rank)).map(|(group, _)| group);
    let mut out = have(table, lacking);
    // A full table gives one thing up for another: it asks for nothing.
    let is_wanted = |(group, rank): &(&GroupId, &Rank)| {
        !table.is_retired(**group) && table.get(**group).map(Rank::of) < Some(**rank)
    };
    let wanted: Vec<_> = theirs.iter().filter(is_wanted).map(|(group, _)| *group).take(MARKS_MAX).collect();
    if !wanted.is_empty() && !table.is_full() {
        out.push(Envelope::Want(wanted));
    }
    out
}

/// The descriptors of `groups`, in messages.
pub(super) fn have(table: &Table, groups: impl Iterator<Item = GroupId>) -> Vec<Envelope> {
    let (mut out, mut next, mut bytes) = (Vec::new(), Vec::<Descriptor>::new(), 0);
    for descriptor in groups.filter_map(|group| table.get(group)) {
        let more = size(descriptor);
        if bytes + more > HAVE_BYTES && !next.is_empty() {
            out.push(Envelope::Have(std::mem::take(&mut next)));
            bytes = 0;
            if out.len() >= MESSAGES_MAX {
                return out;
            }
        }
        bytes += more;
        next.push(descriptor.clone());
    }
    if !next.is_empty() {
        out.push(Envelope::Have(next));
    }
    out
}
