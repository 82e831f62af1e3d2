//! The runs that a node has had, as it tells them.
//!
//! ```text
//! number u32 | count u8 | id u64 …        little-endian; the ids of the last runs, oldest first
//! ```
//!
//! Invariant: at most [`RUNS_MAX`] ids, and no more of them than there were runs.

use bytes::{Buf, BufMut};

/// How many of its last runs a node tells: a peer that met it before those takes its word.
pub const RUNS_MAX: usize = 16;

/// A node's runs. By default none: that of a node that never ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    number: u32,
    /// Oldest first; the last is that of run `number`.
    ids: Vec<u64>,
}

impl Runs {
    /// These runs; `None` where there are more ids than runs, or than are told.
    pub(super) fn new(number: u32, ids: Vec<u64>) -> Option<Runs> {
        let is_sound = ids.len() <= RUNS_MAX.min(number as usize) && ids.is_empty() == (number == 0);
        is_sound.then_some(Runs { number, ids })
    }

    /// These and one more.
    pub(super) fn next(mut self, id: u64) -> Runs {
        if self.ids.len() == RUNS_MAX {
            self.ids.remove(0);
        }
        self.ids.push(id);
        Runs { number: self.number.saturating_add(1), ids: self.ids }
    }

    /// How many there were.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The ids of the last ones, oldest first.
    pub(super) fn ids(&self) -> &[u64] {
        &self.ids
    }

    /// The id of the present one.
    pub(super) fn newest(&self) -> Option<u64> {
        self.ids.last().copied()
    }

    /// The id of run `number`, if it is among those told.
    pub(super) fn id_of(&self, number: u32) -> Option<u64> {
        let back = self.number.checked_sub(number)? as usize;
        self.ids.iter().rev().nth(back).copied()
    }

    /// Appends its bytes.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u32_le(self.number);
        // At most RUNS_MAX.
        out.put_u8(self.ids.len() as u8);
        self.ids.iter().for_each(|id| out.put_u64_le(*id));
    }

    /// What [`encode`](Runs::encode) wrote, taken from the front of `bytes`; `None` where they are
    /// none.
    pub fn decode(bytes: &mut impl Buf) -> Option<Runs> {
        let number = bytes.try_get_u32_le().ok()?;
        let count = usize::from(bytes.try_get_u8().ok()?);
        if count > RUNS_MAX {
            return None;
        }
        let ids = (0..count).map(|_| bytes.try_get_u64_le().ok()).collect::<Option<_>>()?;
        Runs::new(number, ids)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn runs() -> impl Strategy<Value = Runs> {
        prop::collection::vec(any::<u64>(), 0..40).prop_map(|ids| ids.into_iter().fold(Runs::default(), Runs::next))
    }

    proptest! {
        #[test]
        fn runs_survive(runs in runs(), after: [u8; 3]) {
            let mut bytes = Vec::new();
            runs.encode(&mut bytes);
            bytes.extend(after);
            let mut rest = &bytes[..];
            prop_assert_eq!(Runs::decode(&mut rest), Some(runs));
            prop_assert_eq!(rest, after);
        }

        #[test]
        fn any_bytes_are_runs_or_none(bytes: Vec<u8>) {
            if let Some(runs) = Runs::decode(&mut &bytes[..]) {
                prop_assert!(runs.ids().len() <= RUNS_MAX);
                prop_assert_eq!(runs.id_of(runs.number()), runs.newest());
            }
        }

        #[test]
        fn each_of_the_last_is_known_by_its_number(ids in prop::collection::vec(any::<u64>(), 1..60)) {
            let runs = ids.iter().copied().fold(Runs::default(), Runs::next);
            for (number, id) in (1u32..).zip(&ids) {
                let told = (number as usize + RUNS_MAX > ids.len()).then_some(*id);
                prop_assert_eq!(runs.id_of(number), told);
            }
            prop_assert_eq!(runs.id_of(runs.number() + 1), None);
        }
    }
}
