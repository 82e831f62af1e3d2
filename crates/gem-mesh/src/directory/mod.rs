//! Who holds which part of the ring.

pub mod descriptor;
pub mod table;

pub use descriptor::{Descriptor, Seat};
pub use table::Table;
