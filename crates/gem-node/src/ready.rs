//! Whether the node takes traffic, and why not.

use std::sync::{PoisonError, RwLock};

use gem_types::{Error, Result};

/// The reason why the node takes no traffic; none: it does.
#[derive(Debug)]
pub struct Ready {
    reason: RwLock<Option<String>>,
}

impl Ready {
    /// Not ready, for `reason`.
    pub fn not_yet(reason: impl Into<String>) -> Self {
        Ready { reason: RwLock::new(Some(reason.into())) }
    }

    /// Takes traffic from now on.
    pub fn set(&self) {
        *self.reason.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Takes no more traffic, for `reason`.
    pub fn unset(&self, reason: impl Into<String>) {
        *self.reason.write().unwrap_or_else(PoisonError::into_inner) = Some(reason.into());
    }

    /// `unavailable` with the reason where the node takes no traffic.
    pub fn check(&self) -> Result<()> {
        match &*self.reason.read().unwrap_or_else(PoisonError::into_inner) {
            Some(reason) => Err(Error::unavailable(reason.clone(), 1000)),
            None => Ok(()),
        }
    }
}
