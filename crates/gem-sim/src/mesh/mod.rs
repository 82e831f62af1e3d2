//! Simulation of whole meshes: several nodes' real membership, directory, placement, routing,
//! replication, journals and delivery on one thread, by seed.
//!
//! What it is: a [`run`] founds a mesh, lets others join, lets clients work through all nodes, does
//! one fault after another ([`faults`]) and ends them all; then the mesh must come to rest, and
//! everything must read as it was acknowledged, through every node. Workload and invariants are
//! those of one node, and more.
//!
//! What is a model here and not the real code, beside what [`crate::node`] lists: both planes
//! ([`network`]), with their handshakes, keys, address book and back-pressure; joining (a node is
//! given identity and members); load digests (none are told); the gateways (clients speak to each
//! node's routes). A paused node is one whose messages and flushes stand still: its timers go on, so
//! that a process that wakes up believing in an old time is *not* modelled. Clocks differ by an
//! offset, not in their pace.

mod clock;
mod door;
mod faults;
mod network;
mod node;
mod planted;
mod run;
pub mod suite;
mod watch;
