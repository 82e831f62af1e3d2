//! Who holds which part of the ring.

pub mod buckets;
pub mod descriptor;
pub mod kademlia;
pub mod key;
pub mod record;
pub mod routes;
pub mod search;
pub mod table;

mod lookup;
pub mod message;
mod records;

pub use buckets::Contact;
pub use descriptor::{Descriptor, Seat};
pub use kademlia::Kademlia;
pub use key::Key;
pub use record::Record;
pub use routes::{Route, Routes};
pub use table::Table;
