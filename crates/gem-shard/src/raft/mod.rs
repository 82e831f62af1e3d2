//! The Raft glue: what openraft is given of the journal, the machine and the network.
pub mod cache;
pub mod group;
pub mod log_store;
pub mod mark;
pub mod runtime;
mod sizes;
pub mod state_machine;
pub mod transport;
pub mod types;
pub mod wire;
