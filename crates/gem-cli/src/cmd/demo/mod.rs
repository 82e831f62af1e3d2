//! `gem demo`: the main job end to end on real events, and its proof.
//!
//! GitHub webhook payloads become at least 20,000 events, each with an id of its own, keyed by
//! repository with a fan-out drawn by seed. They are published over gRPC, REST and the Python SDK at
//! once, each through another node of a mesh of real processes, and processed by a group of three
//! consumer processes in mode `key` and one of two in mode `shared`, through different nodes too. One
//! consumer is killed midway, then the node that leads the topic's shard, with SIGKILL under load; it
//! stays dead, and a fresh node joins instead. The proof is read off the ids, through that newcomer:
//! every acknowledged event is stored once, at the place that was acknowledged, and processed at
//! least once by each group, in order by key where the group promises it. With `--nodes 1` there is
//! one node and one group, and the node is started again.

mod consumers;
mod events;
mod ledger;
mod mesh;
mod node;
mod pauses;
mod proof;
mod publishers;
mod record;
mod run;
mod show;
mod stage;
mod verdict;
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
    /// How many nodes the mesh has to begin with: 1, or 3 to 7 (a mesh of two does not survive the
    /// loss of either).
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = nodes)]
    nodes: usize,
    /// Events a second in all.
    #[arg(long, default_value_t = 2_000, value_name = "N", value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
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

fn nodes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(1) => Ok(1),
        Ok(2) => Err("a mesh of two does not survive the loss of a node: take 1, or 3 to 7".to_owned()),
        Ok(count @ 3..=7) => Ok(count),
        _ => Err("take 1, or 3 to 7".to_owned()),
    }
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
