//! Who holds which part of the ring.

pub mod descriptor;

pub use descriptor::{Descriptor, Seat};
