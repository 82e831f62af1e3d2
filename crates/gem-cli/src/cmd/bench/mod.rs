//! `gem bench`: load against a running node or mesh.
//!
//! Load and server often share a machine, so the load itself is cheap: payloads are shared, messages
//! go in batches, a latency is noted once a batch. Latencies count from the time at which a batch
//! was *meant* to be sent: a stalled server is not let off by a client that stalls with it.

mod deliver;
mod journal;
mod latency;
mod load;
mod publish;
mod report;

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::cmd::ClientArgs;
use crate::exit::Outcome;
use crate::units;

#[derive(Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Publishes as fast as the node takes it, or at --rate. Latency: intended send to receipt.
    Publish(LoadArgs),
    /// Fills the topic with --messages where it has fewer, then delivers and acks them through a new
    /// group. Latency: delivery to the ack's answer.
    Deliver(LoadArgs),
    /// Publishes at --rate (default 1000) while a group takes and acks. Latency: intended send to
    /// delivery.
    Latency(LoadArgs),
    /// Appends to a journal alone, without a node: what a publish can be held against.
    Journal(journal::JournalArgs),
}

#[derive(Args, Clone, Debug)]
pub struct LoadArgs {
    /// The topic under load.
    #[arg(long, default_value = "bench", value_name = "T")]
    topic: String,
    /// The payload of a message.
    #[arg(long, default_value = "1KiB", value_parser = units::size, value_name = "SIZE")]
    size: u64,
    /// How many messages in all.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    messages: Option<u64>,
    /// How long, instead of how many.
    #[arg(long, value_parser = units::duration, value_name = "TIME", conflicts_with = "messages")]
    duration: Option<Duration>,
    /// Producers, each with a connection of its own.
    #[arg(long, default_value_t = 1, value_name = "P", value_parser = clap::value_parser!(u32).range(1..=1024))]
    producers: u32,
    /// Consumers, each with a connection of its own.
    #[arg(long, default_value_t = 1, value_name = "C", value_parser = clap::value_parser!(u32).range(1..=1024))]
    consumers: u32,
    /// Messages a second in all; without it, as fast as it goes.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    rate: Option<u64>,
    /// Messages a batch [default: 1000; for latency 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: Option<u32>,
    /// Batches of a producer that are on their way at once; a consumer's credit is as many messages.
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    inflight: u32,
    /// Distinct keys; 0: messages have none.
    #[arg(long, default_value_t = 0, value_name = "N")]
    keys: u64,
    /// Sends whole record batches instead of messages.
    #[arg(long)]
    packed: bool,
    /// The server's process on this machine: reports its CPU time and what it wrote.
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    #[command(flatten)]
    client: ClientArgs,
}

pub async fn run(args: BenchArgs) -> Outcome {
    let (report, json) = match args.verb {
        Verb::Publish(args) => (publish::run(&args).await?, args.client.json),
        Verb::Deliver(args) => (deliver::run(&args).await?, args.client.json),
        Verb::Latency(args) => (latency::run(&args).await?, args.client.json),
        Verb::Journal(args) => (journal::run(&args).await?, args.json),
    };
    report.print(json)
}
