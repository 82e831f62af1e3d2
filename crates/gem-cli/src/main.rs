//! The `gem` binary: a node, and everything that talks to one.
//!
//! What it is: arguments in, calls to [`gem_node`] and [`gem_client`], text out.
//!
//! What it is not: nothing here stores, routes or delivers; and no client command reaches into a
//! node otherwise than through its public interface.
//!
//! Invariants:
//! - Exit codes: 0 done, 1 failed (one line on standard error: what, where, what to do), 2 wrong usage.
//! - Standard output carries results alone; progress and logs go to standard error.
//! - Tables and colour on a terminal only; piped output is plain, and `--json` is JSON alone.

mod allocator;
mod child;
mod cmd;
mod exit;
mod message_json;
mod output;
mod units;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::exit::Exit;

/// GEM: a decentralised event-streaming system.
#[derive(Parser)]
#[command(name = "gem", version = cmd::version::TEXT, propagate_version = false, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a node in the foreground.
    Start(cmd::start::StartArgs),
    /// Shows the main job end to end on real events, and proves that it holds.
    Demo(cmd::demo::DemoArgs),
    /// Publishes MESSAGE, or each line of standard input.
    Pub(cmd::publish::PubArgs),
    /// Prints the payloads of a topic, one a line.
    Sub(cmd::subscribe::SubArgs),
    /// Topics: list, create, show, alter, delete, purge.
    Topic(cmd::topic::TopicArgs),
    /// Groups: list, show, delete, seek.
    Group(cmd::group::GroupArgs),
    /// The mesh: status, nodes, shards, drain, remove.
    Mesh(cmd::mesh::MeshArgs),
    /// A mesh of separate node processes on this machine, to try things out.
    Dev(cmd::dev::DevArgs),
    /// Loads a running node: publish, deliver, latency.
    Bench(cmd::bench::BenchArgs),
    /// The effective configuration, with where each value came from.
    Config(cmd::config::ConfigArgs),
    /// A consumer process of the demo.
    #[command(hide = true)]
    DemoWorker(cmd::demo::worker::WorkerArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Exit::failed(format!("start: no threads can be made: {error}")).report(),
    };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Start(args) => cmd::start::run(args).await,
            Command::Demo(args) => cmd::demo::run(args).await,
            Command::Pub(args) => cmd::publish::run(args).await,
            Command::Sub(args) => cmd::subscribe::run(args).await,
            Command::Topic(args) => cmd::topic::run(args).await,
            Command::Group(args) => cmd::group::run(args).await,
            Command::Mesh(args) => cmd::mesh::run(args).await,
            Command::Dev(args) => cmd::dev::run(args).await,
            Command::Bench(args) => cmd::bench::run(args).await,
            Command::Config(args) => cmd::config::run(&args),
            Command::DemoWorker(args) => cmd::demo::worker::run(args).await,
        }
    });
    // Reads of standard input can't be cancelled: don't wait for them.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => exit.report(),
    }
}
