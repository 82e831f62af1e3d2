//! What a node has noted of the runs of others.
//!
//! Invariant: at most [`NOTES_MAX`], the newest last.

use gem_types::NodeId;

use super::Stranger;
use super::past::Runs;

/// The most nodes of which a run is noted: those met longest ago are forgotten first.
pub const NOTES_MAX: usize = 1024;

/// The newest run of a node that was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) node: NodeId,
    pub(super) number: u32,
    pub(super) id: u64,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Notes(Vec<Note>);

impl Notes {
    /// These notes, oldest first.
    pub(super) fn new(notes: Vec<Note>) -> Notes {
        Notes(notes)
    }

    pub(super) fn all(&self) -> &[Note] {
        &self.0
    }

    /// Whether these runs of `node` are news.
    pub(super) fn check(&self, node: NodeId, runs: &Runs) -> Result<bool, Stranger> {
        let Some(noted) = self.0.iter().find(|note| note.node == node) else { return Ok(true) };
        let older = Stranger::Older { noted: noted.number };
        if runs.number() < noted.number {
            return Err(older);
        }
        match runs.id_of(noted.number) {
            Some(id) if id != noted.id => Err(older),
            // Where it was met too long ago to be told, its word is taken.
            _ => Ok(runs.number() > noted.number),
        }
    }

    /// Notes the newest of `runs`.
    pub(super) fn take(&mut self, node: NodeId, runs: &Runs) {
        let Some(id) = runs.newest() else { return };
        self.0.retain(|note| note.node != node);
        self.0.push(Note { node, number: runs.number(), id });
        let surplus = self.0.len().saturating_sub(NOTES_MAX);
        self.0.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_bounded_and_the_newest_stay() {
        let (mut notes, runs) = (Notes::default(), Runs::default().next(5));
        let node = |number: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_le_bytes());
            NodeId(id)
        };
        (0..2 * NOTES_MAX).for_each(|number| notes.take(node(number), &runs));
        notes.take(node(NOTES_MAX), &runs);
        assert_eq!(notes.all().len(), NOTES_MAX);
        assert!(notes.check(node(0), &runs).unwrap(), "forgotten");
        assert!(!notes.check(node(NOTES_MAX), &runs).unwrap());
        assert_eq!(notes.all().last().map(|note| note.node), Some(node(NOTES_MAX)));
    }
}
