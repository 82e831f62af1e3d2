//! How the nodes of a mesh find, know and reach each other.
//!
//! What it is: [`control`] (one libp2p swarm a node: discovery and small messages), [`bulk`] (TCP
//! links under TLS for everything large), [`membership`] (who lives, and how loaded they are),
//! [`directory`] (who holds which part of the ring), [`placement`] (who should), [`runs`] (whether a
//! node's disk is the one that it ran on before).
//!
//! What it is not: it knows no topic, no shard's log and no disk but the small lists that it
//! is handed. `gem-node` joins it to `gem-shard`.
//!
//! Invariants:
//! - What a node knows of others is a hint: a wrong one costs a detour, never a message.
//! - Nobody is heard who has not proved its key, its mesh and the join secret.
//! - Every queue is bounded, every table has a most size whatever the churn.
//! - What decides takes state and event in, and gives actions out; libp2p is named in [`control`]
//!   alone, sockets in [`control`] and [`bulk`].

pub mod bulk;
mod checked;
pub mod control;
pub mod directory;
pub mod membership;
pub mod placement;
pub mod runs;
pub mod seams;

pub use seams::{Answers, CallError, Calls, Control, Hears, Parcel};
