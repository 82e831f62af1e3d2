//! One shard of a GEM mesh: a replicated log with topics, groups and deliveries.
//!
//! What it is: [`log`] is the waist that everything above speaks to; [`shard`] implements it on
//! one replica, [`remote`] on a way to a replica elsewhere. Beneath lie [`raft`] (the glue to openraft), [`machine`] (what the log
//! determines), [`leader`] (what a leader judges and proposes) and [`dispatch`] (who gets which
//! message until when).
//!
//! What it is not: it knows no socket, no mesh and no other shard.
//!
//! Invariants:
//! - What is acknowledged was flushed, committed and applied.
//! - What decides is plain synchronous code; what acts around it is thin.
//! - Time and chance enter through the seams, and take effect only as entries.

pub mod dispatch;
pub mod entry;
pub mod leader;
pub mod log;
pub mod machine;
#[doc(hidden)]
pub mod planted;
pub(crate) mod parts;
pub mod raft;
pub mod remote;
pub mod shard;
pub mod snapshot;
pub mod watch;

pub use leader::proposer::ProposerConfig;
pub use shard::{Shard, ShardConfig, ShardDeps, Status};
