//! Shards.
pub mod log;
