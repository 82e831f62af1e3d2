//! A bug that tests plant on purpose, to see that it would be found: an entry that was judged in one
//! term is appended in another.
//!
//! What it is not: nothing of a node calls it, no configuration names it. It holds for the thread
//! that planted it, and simulations run on one.

use std::cell::Cell;
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Hold {
    No,
    /// The next entry is to wait.
    Armed,
    /// One waits.
    Waits,
}

thread_local! {
    static HOLD: Cell<Hold> = const { Cell::new(Hold::No) };
    static ANY_TERM: Cell<bool> = const { Cell::new(false) };
}

/// The next entry that was judged waits before it is handed to Raft, until [`release`].
pub fn hold_next() {
    HOLD.set(Hold::Armed);
}

/// Whether an entry waits.
pub fn is_held() -> bool {
    HOLD.get() == Hold::Waits
}

/// What waits goes on.
pub fn release() {
    HOLD.set(Hold::No);
}

/// The bug: from now on, an entry is appended in whatever term Raft is by then.
pub fn plant_any_term(is_planted: bool) {
    ANY_TERM.set(is_planted);
}

/// Waits if this entry is to.
pub(crate) async fn wait() {
    if HOLD.get() == Hold::Armed {
        HOLD.set(Hold::Waits);
        while is_held() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Whether the bug is planted.
pub(crate) fn is_any_term() -> bool {
    ANY_TERM.get()
}
