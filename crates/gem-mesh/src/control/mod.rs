//! The control swarm: finding nodes, and small messages between them.
//!
//! What it is: [`ControlPlane`], one libp2p swarm a node, which keeps one stream each way with
//! every node that this one talks to ([`crate::seams::Control`]); [`join()`], by which a node that
//! belongs to no mesh asks to be let into one; [`Addresses`] and [`Book`], where the others listen.
//!
//! What it is not: it decides nothing about who is a member, and carries nothing large. libp2p is
//! named here and nowhere else.
//!
//! Invariants:
//! - nobody is heard that has not proved its key (TLS), its mesh and the join secret
//!   (`hello.rs`, `handshake.rs`), or whose disk is older than one that was met (`meeting.rs`);
//! - sending never waits: queues are bounded, what doesn't fit is dropped and counted
//!   (`outbox.rs`);
//! - when to dial whom is decided in plain code (`peers.rs`); `driver.rs` carries it out.

mod identity;
mod frame;
mod secret;
mod hello;
mod handshake;
mod meeting;
mod joined;
mod addresses;
mod book;
mod outbox;
mod peers;
mod link;
mod gate;
mod streams;
mod swarm;
mod context;
mod driver;
mod plane;
mod join;
#[cfg(test)]
mod strangers;

pub use addresses::{ADDRESSES_MAX, Addresses, Known};
pub use book::{BOOK_BYTES_MAX, BOOK_MEMBERS_MAX, Book, BookError, Keeper, Keeps};
pub use hello::Refusal;
pub use join::{Attempt, JoinConfig, JoinError, join};
pub use joined::{Hosts, JOINED_MEMBERS_MAX, Joined};
pub use outbox::{QUEUE_BYTES_MAX, QUEUE_MESSAGES_MAX, QUEUES_BYTES_MAX};
pub use plane::{Config, ControlPlane};
pub use secret::Secret;
pub use swarm::StartError;
