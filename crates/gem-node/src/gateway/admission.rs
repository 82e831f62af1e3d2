//! Admission: requests come out of the node's memory budget, from the socket to the answer, and so
//! does what streams have ready for clients that don't take it.
//!
//! Where there is no room a publisher first waits its turn (first come, first served), then is
//! refused with `throttled`. Nothing is ever dropped.

use std::fmt;
use std::time::Duration;

use gem_store::budget::{Budget, Charge, Class};
use gem_types::{Error, Result};

/// Takes memory for requests.
pub struct Admission {
    budget: Budget,
    patience: Duration,
}

/// Room taken; given back when dropped.
#[must_use]
pub struct Admitted {
    _charge: Charge,
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").field("patience", &self.patience).finish_non_exhaustive()
    }
}

impl fmt::Debug for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admitted").finish_non_exhaustive()
    }
}

impl Admission {
    /// Room within `budget`; a publisher is slowed by at most `patience` before it is refused.
    pub(super) fn new(budget: Budget, patience: Duration) -> Self {
        Admission { budget, patience }
    }

    /// Takes room for `bytes`, waiting for a while where there is none.
    pub async fn admit(&self, bytes: usize) -> Result<Admitted> {
        match self.budget.charge(Class::Requests, bytes as u64, self.patience).await {
            Ok(charge) => Ok(Admitted { _charge: charge }),
            Err(over) => Err(Error::throttled(
                format!("more arrives than the node can take in ({over}): send slower, or raise memory"),
                1000,
            )),
        }
    }

    /// Bytes that answers may still take.
    pub fn left_for_answers(&self) -> usize {
        usize::try_from(self.budget.left_to(Class::Answers)).unwrap_or(usize::MAX)
    }

    /// Room for an answer of `bytes` that is there already.
    pub fn answer(&self, bytes: usize) -> Admitted {
        Admitted { _charge: self.budget.charge_now(Class::Answers, bytes as u64) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn too_much_is_slowed_then_refused() {
        let admission = Admission::new(Budget::new(4096, &[]), Duration::from_millis(5));
        let first = admission.admit(4000).await.unwrap();
        assert_eq!(admission.admit(100).await.unwrap_err().code, gem_types::Code::Throttled);
        drop(first);
        assert!(admission.admit(100).await.is_ok());
    }
}
