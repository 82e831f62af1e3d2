//! Waits for the journal without blocking: the outcome of a submission, asked for now and then.

use std::sync::{Arc, Mutex, PoisonError};

use crate::StoreError;
use crate::journal::Done;

#[derive(Debug, Clone, Default)]
pub(super) struct Ticket {
    outcome: Arc<Mutex<Option<Result<(), StoreError>>>>,
}

impl Ticket {
    /// A ticket, and what fills it in.
    pub fn new() -> (Ticket, Done) {
        let ticket = Ticket::default();
        let filled = ticket.clone();
        (ticket, Box::new(move |outcome| filled.set(outcome)))
    }

    fn set(&self, outcome: Result<(), StoreError>) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
    }

    /// The outcome, once it is there.
    pub fn outcome(&self) -> Option<Result<(), StoreError>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
