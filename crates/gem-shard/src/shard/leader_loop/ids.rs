//! What remembered ids take of the node's memory.

use std::fmt;

use gem_store::budget::{Budget, Charge, Class};

/// A shard's share of the node's table of ids.
pub(crate) struct IdsCharge {
    budget: Budget,
    charge: Charge,
}

impl fmt::Debug for IdsCharge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IdsCharge").field(&self.charge.bytes()).finish()
    }
}

impl IdsCharge {
    pub fn new(budget: Budget) -> Self {
        let charge = budget.charge_now(Class::Dedup, 0);
        IdsCharge { budget, charge }
    }

    /// The shard's ids take `bytes` now. They are known already, so there is always room: caches
    /// give way, and new ids are refused by their own bound.
    pub fn set(&mut self, bytes: u64) {
        match bytes.checked_sub(self.charge.bytes()) {
            Some(0) => {}
            Some(_) => self.charge = self.budget.charge_now(Class::Dedup, bytes),
            None => self.charge.reduce_to(bytes),
        }
    }

    /// What the node's other shards hold.
    pub fn elsewhere(&self) -> u64 {
        self.budget.used_by(Class::Dedup).saturating_sub(self.charge.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_see_what_the_others_hold() {
        let budget = Budget::new(1000, &[]);
        let (mut one, mut other) = (IdsCharge::new(budget.clone()), IdsCharge::new(budget.clone()));
        one.set(30);
        other.set(12);
        one.set(20);
        assert_eq!((one.elsewhere(), other.elsewhere(), budget.used_by(Class::Dedup)), (12, 20, 32));
        drop(one);
        assert_eq!((other.elsewhere(), budget.used()), (0, 12));
    }
}
