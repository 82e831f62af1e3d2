//! Shards.
pub mod log;
pub mod entry;
pub mod dispatch;
pub mod machine;
pub mod leader;
