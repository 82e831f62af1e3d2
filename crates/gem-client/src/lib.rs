//! The Rust client of GEM: publish, subscribe, administer, over gRPC `gem.v1`.
//!
//! ```no_run
//! use gem_client::{Client, Message, SubscribeOptions};
//!
//! # async fn example() -> gem_client::Result<()> {
//! let client = Client::connect("http://127.0.0.1:7400")?;
//!
//! // One message: answered once it is durable.
//! let receipt = client.publish("orders", Message::new("42 shipped").key("order-42")).await?;
//! println!("stored at {}:{}", receipt.partition, receipt.offset);
//!
//! // Many messages: batched and pipelined in the background, stored once each, in order by key.
//! let producer = client.producer("orders", Default::default());
//! for n in 0..1000 {
//!     producer.send(Message::new(format!("event {n}")).key("order-42")).await?;
//! }
//! producer.flush().await?;
//!
//! // A group shares the topic's messages; what is not acked is delivered again.
//! let mut orders = client.subscribe("orders", SubscribeOptions::group("billing"))?;
//! while let Some(delivery) = orders.next().await {
//!     let delivery = delivery?;
//!     println!("{:?}", delivery.message.message.payload);
//!     delivery.ack().await?;
//! }
//! # Ok(()) }
//! ```
//!
//! What it is: one [`Client`] a process, cheap to clone, which fails over between the nodes it was
//! given, retries what may be retried, and keeps every wait under a deadline.
//!
//! What it is not: it caches no route and no topic, knows no partition map, and never decides what
//! is a duplicate: the mesh does.
//!
//! Invariants:
//! - A retry carries the ids or the producer's numbers of the first attempt, so that nothing is
//!   stored twice.
//! - An error with a code other than `deadline` and `internal` means that nothing was stored by any
//!   attempt.
//! - Every queue is bounded: a producer by bytes, a subscription by its credit.

mod admin;
mod client;
mod config;
mod endpoints;
mod mesh;
mod message;
mod producer;
mod pull;
mod retry;
mod status;
mod subscription;
mod wire;

pub use admin::{Group, Member, Ordering, Topic, TopicConfig};
pub use client::{Client, Page};
pub use config::ClientConfig;
pub use gem_types::message::{Receipt, StoredMessage};
pub use gem_types::{Code, Error, Result};
pub use mesh::{Mesh, Node, NodeState, Replica, Shard, ShardHealth};
pub use message::Message;
pub use producer::{PendingReceipt, PendingReceipts, Producer, ProducerConfig};
pub use subscription::{Delivery, Mode, Settled, Settler, SubscribeOptions, Subscription};
