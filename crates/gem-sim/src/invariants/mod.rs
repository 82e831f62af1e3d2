//! The promises, one a file. Each looks at events alone, as a client or an operator sees them, and
//! names the sentence that it holds GEM to.

mod acks_stay;
mod at_least_once;
mod attempts;
mod dead_letters;
mod floors;
mod key_order;
mod key_turns;
mod mesh_rests;
mod nothing_lost;
mod one_leader;
mod same_state;
mod tiles;
mod one_holder;
mod places_kept;
mod refusals;
mod serves;
mod state_kept;
mod stored_once;

use std::collections::BTreeMap;

use crate::event::Event;
use crate::facts::{Facts, Moment};

/// What an invariant makes of an event: how many checks it made, or what is wrong.
pub type Verdict = Result<u64, String>;

/// A promise that is checked as events come in.
pub trait Invariant: Send {
    /// Its name.
    fn name(&self) -> &'static str;
    /// The sentence that it holds GEM to, and where that stands.
    fn promise(&self) -> &'static str;
    /// Looks at an event, which `facts` knows already.
    fn observe(&mut self, at: &Moment, facts: &Facts, event: &Event) -> Verdict;
}

/// Checks made, by invariant.
pub type Checks = BTreeMap<&'static str, u64>;

/// All of them.
pub struct Invariants {
    all: Vec<Box<dyn Invariant>>,
    checks: Checks,
}

impl Invariants {
    /// All, at the beginning of a run.
    pub fn all() -> Invariants {
        let all: Vec<Box<dyn Invariant>> = vec![
            Box::new(serves::Serves),
            Box::new(nothing_lost::NothingLost::default()),
            Box::new(refusals::Refusals::default()),
            Box::new(stored_once::StoredOnce),
            Box::new(places_kept::PlacesKept::default()),
            Box::new(key_order::KeyOrder::default()),
            Box::new(key_turns::KeyTurns::default()),
            Box::new(acks_stay::AcksStay::default()),
            Box::new(floors::Floors::default()),
            Box::new(attempts::Attempts::default()),
            Box::new(one_holder::OneHolder::default()),
            Box::new(at_least_once::AtLeastOnce::default()),
            Box::new(dead_letters::DeadLetters::default()),
            Box::new(state_kept::StateKept::default()),
            Box::new(one_leader::OneLeader::default()),
            Box::new(same_state::SameState::default()),
            Box::new(tiles::Tiles),
            Box::new(mesh_rests::MeshRests),
        ];
        let checks = all.iter().map(|invariant| (invariant.name(), 0)).collect();
        Invariants { all, checks }
    }

    /// Lets all look; the first that is broken is named.
    pub fn observe(&mut self, at: &Moment, facts: &Facts, event: &Event) -> Result<(), (&'static str, String)> {
        for invariant in &mut self.all {
            match invariant.observe(at, facts, event) {
                Ok(made) => *self.checks.entry(invariant.name()).or_default() += made,
                Err(what) => return Err((invariant.name(), what)),
            }
        }
        Ok(())
    }

    /// How much was checked.
    pub fn checks(&self) -> Checks {
        self.checks.clone()
    }

    /// Name and promise of each.
    pub fn promises() -> Vec<(&'static str, &'static str)> {
        Invariants::all().all.iter().map(|invariant| (invariant.name(), invariant.promise())).collect()
    }
}
