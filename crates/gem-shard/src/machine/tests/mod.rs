//! The machine against a naive model, and against crashes.

mod basics;
mod crashes;
mod groups;
mod model;
pub(crate) mod world;
