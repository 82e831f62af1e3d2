//! Who should hold which part of the ring.
//!
//! What it is: [`plan`], which says the one next step for a shard, from what its leader sees of the
//! shard and of the mesh; and [`choose`], which picks a node for a replica.
//!
//! What it is not: it carries nothing out, and need not be right: what it sees may be stale. The
//! receiver of a replica admits it or does not, and every change goes through the shard's log.
//!
//! Invariants:
//! - A voter leaves only together with the entry of its replacement, or because the mesh has fewer
//!   members than the shard has voters.
//! - At most one step of a shard is under way.

pub mod choose;
pub mod plan;

pub use choose::{Candidate, choose};
pub use plan::{Replica, Shard, Sight, Step, plan};
