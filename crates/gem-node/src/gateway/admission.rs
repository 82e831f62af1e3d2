//! Admission: how many bytes of publishes may be in flight.
//!
//! Above the bound a publisher first waits its turn (first come, first served: the semaphore is
//! fair), then is refused with `throttled`. Nothing is ever dropped.

use std::sync::Arc;
use std::time::Duration;

use gem_types::{Error, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What one permit stands for, in bytes.
const UNIT: usize = 1024;
/// How long a publisher is slowed before it is refused.
const SLOWED: Duration = Duration::from_secs(2);

/// Bytes in flight. A permit is held until the publish is answered.
#[derive(Debug)]
pub struct Admission {
    room: Arc<Semaphore>,
    units: usize,
}

/// Room taken; given back when dropped.
#[derive(Debug)]
pub struct Admitted {
    _permit: OwnedSemaphorePermit,
}

impl Admission {
    pub(super) fn new(bytes_max: usize) -> Self {
        let units = (bytes_max / UNIT).clamp(1, Semaphore::MAX_PERMITS);
        Admission { room: Arc::new(Semaphore::new(units)), units }
    }

    /// Takes room for `bytes`, waiting for a moment where there is none.
    pub async fn admit(&self, bytes: usize) -> Result<Admitted> {
        // What is larger than all the room may pass alone.
        let units = bytes.div_ceil(UNIT).clamp(1, self.units) as u32;
        if let Ok(permit) = self.room.clone().try_acquire_many_owned(units) {
            return Ok(Admitted { _permit: permit });
        }
        match tokio::time::timeout(SLOWED, self.room.clone().acquire_many_owned(units)).await {
            Ok(Ok(permit)) => Ok(Admitted { _permit: permit }),
            _ => Err(Error::throttled(
                "more is being published than the node can store: send slower, or raise memory",
                1000,
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn too_much_is_slowed_then_refused() {
        let admission = Admission::new(4096);
        let first = admission.admit(4000).await.unwrap();
        assert_eq!(admission.admit(1).await.unwrap_err().code, gem_types::Code::Throttled);
        drop(first);
        assert!(admission.admit(1 << 30).await.is_ok());
    }
}
