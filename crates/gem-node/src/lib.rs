//! A GEM node: the gateway, its protocols on one port, metrics, and the life of a node.
//!
//! What it is: the place where storage and shards meet clients. [`gateway`] is the one internal
//! API; [`rest`] and [`grpc`] translate to it; [`serve`] owns the sockets; [`node`] starts and
//! stops everything in order.
//!
//! What it is not: it stores nothing itself, and decides nothing about order, duplicates or
//! deliveries: the shards do. It speaks to them through `gem_shard::log` alone.
//!
//! Invariants:
//! - A batch is refused as a whole before anything is written, or has an outcome a message.
//! - Results come in the order of what they answer.
//! - Every error has a code of the contract, mapped in [`errors`] and nowhere else.
//! - A slow reader fills its own channel and nobody else's.

pub mod errors;
pub mod gateway;
pub mod gatherer;
pub mod grpc;
pub mod memory;
pub mod mesh;
pub mod metrics;
pub mod node;
pub mod ready;
pub mod rest;
pub mod serve;
pub mod shards;
mod tasks;

pub use node::{Node, NodeError};

#[cfg(test)]
mod mesh_api_tests;
#[cfg(test)]
mod serve_tests;
