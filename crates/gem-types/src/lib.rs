//! The vocabulary of GEM: ids, the ring, messages, record batches, limits,
//! errors and configuration.
//!
//! What it is: types and codecs that every other crate speaks in, and the seams
//! (clock, randomness) through which the outside world enters.
//!
//! What it is not: nothing here opens a file, a socket or a thread, and nothing
//! here knows a shard, a node or a protocol gateway.
//!
//! Invariants:
//! - A decoder never panics on any input and never allocates more than its input's
//!   size times a small constant.
//! - A payload is never copied by encode-split-check: slices share one buffer.
//! - An [`Error`](error::Error) always carries a [`Code`](error::Code) of the public
//!   contract, so no gateway invents one.

pub mod ids;
pub mod ring;
pub mod message;
pub mod batch;
pub mod limits;
pub mod error;
pub mod config;
pub mod seams;

pub use error::{Code, Error, Result};
pub use ids::{
    GroupId, GroupName, Incarnation, MeshId, NodeId, Offset, PartitionId, ProducerId, ReplicaId, TimestampMs, TopicName,
};
pub use message::Message;
pub use ring::{Position, Prefix};
