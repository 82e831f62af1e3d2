//! Whether the node takes traffic, and why not.

use std::fmt;
use std::sync::{PoisonError, RwLock};

use gem_types::{Error, Result};

/// Why nothing is served before a node has recovered.
pub fn is_starting() -> Error {
    Error::unavailable("this node is starting: it recovers what is on its disk", 1000)
}

/// Answers what is wrong now; nothing where all is well.
type Trouble = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// The reason why the node takes no traffic; none: it does.
pub struct Ready {
    reason: RwLock<Option<String>>,
    trouble: Trouble,
}

impl fmt::Debug for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ready").field("reason", &self.reason).finish_non_exhaustive()
    }
}

impl Ready {
    /// Not ready, for `reason`; once [`set`](Self::set), ready as long as `trouble` has none.
    pub fn asking(reason: impl Into<String>, trouble: impl Fn() -> Option<String> + Send + Sync + 'static) -> Self {
        Ready { reason: RwLock::new(Some(reason.into())), trouble: Box::new(trouble) }
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
        let reason = self.reason.read().unwrap_or_else(PoisonError::into_inner).clone();
        match reason.or_else(&self.trouble) {
            Some(reason) => Err(Error::unavailable(reason, 1000)),
            None => Ok(()),
        }
    }
}
