//! `gem demo`: the main job end to end on real events, and its proof.
//!
//! GitHub webhook payloads become at least 20,000 events, each with an id of its own, keyed by
//! repository with a fan-out drawn by seed. They are published over gRPC, REST and the Python SDK at
//! once, and processed by a group of three consumer processes in mode `key`. One consumer is killed
//! midway, then the node itself, with SIGKILL under load; all start again. The proof is read off the
//! ids: every acknowledged event is stored once, at the place that was acknowledged, and processed
//! at least once, in order by key.

mod consumers;
mod events;
mod node;
mod proof;
mod publishers;
mod record;
mod run;
mod show;
pub mod worker;

use std::path::PathBuf;

use clap::Args;

use crate::exit::{Exit, Outcome};
use crate::output;

#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Webhook payloads, one JSON object a line, as {"event": "...", "payload": {...}}.
    #[arg(long, value_name = "FILE.ndjson", env = "GEM_DEMO_INPUT")]
    input: Option<PathBuf>,
    /// How many events are made of them.
    #[arg(long, default_value_t = 20_000, value_name = "N", value_parser = clap::value_parser!(u32).range(20_000..=5_000_000))]
    events: u32,
    /// Events a second in all.
    #[arg(long, default_value_t = 3_000, value_name = "N", value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    rate: u32,
    /// Draws keys and order.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// A Python that can `import gem`: publishes a third of the events.
    #[arg(long, value_name = "PATH", env = "GEM_DEMO_PYTHON", default_value = "python3")]
    python: PathBuf,
    /// Does without the Python SDK.
    #[arg(long)]
    without_python: bool,
    /// Keeps the data directory, the ledger and the logs.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

pub async fn run(args: DemoArgs) -> Outcome {
    let Some(input) = &args.input else {
        return Err(Exit::usage(
            "demo: real events are needed: give --input FILE.ndjson, or run ./dev demo, which fetches them",
        ));
    };
    let events = events::load(input, &args)?;
    let verdict = run::run(&args, events).await?;
    if args.json {
        output::json(&verdict.json())?;
    } else {
        verdict.print()?;
    }
    if verdict.holds() {
        return Ok(());
    }
    Err(Exit::failed(format!("demo: the proof does not hold: {}", verdict.failures().join("; "))))
}
