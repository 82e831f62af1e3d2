//! What a shard's leader decides, and how it proposes it.

pub mod verdicts;
