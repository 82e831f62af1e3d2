//! A shard elsewhere: its log, spoken to through messages.
//!
//! What it is: [`Call`] names every call of [`ShardLog`](crate::log::ShardLog) as a value; [`wire`]
//! and [`output`] encode calls and answers as lists of parts; [`RemoteShard`] makes calls through a
//! [`Pipe`]; [`serve`] answers them from a log that is here. Whoever can carry a [`Call`] is a
//! `ShardLog` ([`Carries`]): a router that tries several replicas implements that one function.
//!
//! What it is not: it knows no network and no route. A pipe leads to one node, and where that node
//! does not hold the shard any more, its hint is handed up unread.
//!
//! Invariants:
//! - A call is encoded whole: batch, producer's numbers, ids, tokens. Sent again, to whomever, it is
//!   the same call.
//! - Whoever asks learns whether a call may have been carried out ([`Miss`]).
//! - A request names the group and the part of the ring it is for; nobody else answers it.
//! - No batch is copied but small ones; what a decoder allocates is bounded by its input.

mod call;
mod client;
mod output;
mod pieces;
pub mod serve;
mod values;
mod wire;

#[cfg(test)]
mod tests;

pub use call::{Call, WAIT_MAX};
pub use client::{Carries, Miss, Pipe, PipeError, ReadFrom, RemoteShard, Routed};
pub use output::{Answer, Output};
pub use serve::{answer, redirect, refuse, target};
pub use wire::{Request, Target};
