//! What a shard's leader decides, and how it proposes it.

pub(crate) mod proposer;
pub mod verdicts;
