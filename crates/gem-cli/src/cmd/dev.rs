//! `gem dev`: a mesh of separate node processes on the loopback address.
//!
//! What it is: for trying out, and for watching what a mesh does when one of its nodes is killed.
//! The first node founds the mesh, the others join it with its secret; the same directory goes on
//! with the same mesh.
//!
//! What it is not: it restarts nothing. A node that ends is told of, and stays down.
//!
//! Invariants: no node outlives the command, unless that is killed itself; nodes that are members
//! already start together, since none serves without a majority.

mod nodes;
mod places;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use crate::exit::{Exit, Outcome};
use crate::output;
use nodes::{Event, Nodes, Start};
use places::Place;

/// How long a node may take to stop after SIGTERM.
const STOP: Duration = Duration::from_secs(15);
/// After this a node that is not ready is told of; it is still waited for.
const READY: Duration = Duration::from_secs(60);

#[derive(Args)]
pub struct DevArgs {
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    nodes: u16,
    /// The directory for the nodes' data and logs; one that is there already goes on as it was. A
    /// gem.toml in it holds for every node.
    #[arg(long, default_value = "./gem-dev", value_name = "DIR")]
    data: PathBuf,
    /// The first node's port for clients; it takes the next two for the mesh, and each further node
    /// its three ten higher.
    #[arg(long, default_value_t = 7400, value_name = "BASE", value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// All the memory that each node plans with.
    #[arg(long, default_value = "512MiB", value_name = "SIZE|PERCENT")]
    memory: String,
}

/// Runs the nodes until SIGTERM or Ctrl-C.
pub async fn run(args: DevArgs) -> Outcome {
    let mut signals =
        Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
    let places = places::all(&args.data, args.nodes, args.port)?;
    places::check_free(&places)?;
    let mut nodes = Nodes::new();
    let ended = serve(&places, &args.memory, &mut nodes, &mut signals).await;
    stop(&mut nodes, &mut signals).await;
    ended
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Starts the nodes and tells what becomes of them, until a signal or their end.
async fn serve(places: &[Place], memory: &str, nodes: &mut Nodes, signals: &mut Signals) -> Outcome {
    let Some(first) = places.first() else { return Ok(()) };
    let (members, newcomers): (Vec<_>, Vec<_>) = places.iter().partition(|place| place.is_member());
    // Nobody can join before the mesh is there.
    let (at_once, later) = match members.first() {
        Some(_) if first.is_member() => (members, newcomers),
        Some(place) => return Err(lost_first(first, place)),
        None => (vec![first], newcomers.into_iter().filter(|place| place.number != first.number).collect()),
    };
    let start = Start { first, memory };
    let mut waited_for = BTreeSet::new();
    for place in at_once {
        nodes.start(&start, place)?;
        waited_for.insert(place.number);
    }
    let mut later = Some(later);
    let mut patience = Instant::now() + READY;
    loop {
        let event = tokio::select! {
            event = nodes.next() => event,
            () = signals.any() => return Ok(()),
            () = sleep_until(patience), if !waited_for.is_empty() => {
                for place in places.iter().filter(|place| waited_for.contains(&place.number)) {
                    say(&format!("{} is not ready yet; its log is {}", place.name(), place.log.display()));
                }
                patience = Instant::now() + READY;
                continue;
            }
        };
        match event {
            Some(Event::Ready { number, ready }) => {
                waited_for.remove(&number);
                output::line(format_args!("node-{number} {ready}"))?;
                if number == first.number {
                    for place in later.take().into_iter().flatten() {
                        nodes.start(&start, place)?;
                        waited_for.insert(place.number);
                        patience = Instant::now() + READY;
                    }
                }
            }
            Some(Event::Ended { number, how }) => {
                waited_for.remove(&number);
                let log = places.iter().find(|place| place.number == number).map(|place| place.log.display());
                let log = log.map(|log| log.to_string()).unwrap_or_default();
                if number == first.number && later.as_ref().is_some_and(|later| !later.is_empty()) {
                    return Err(Exit::failed(format!(
                        "dev: node-1 ended ({how}) before it was ready, and the others join through it; its log is {log}"
                    )));
                }
                say(&format!("node-{number} ended ({how}); its log is {log}"));
            }
            None => return Err(Exit::failed("dev: all nodes have ended: start them again with the same command")),
        }
    }
}

fn lost_first(first: &Place, other: &Place) -> Exit {
    Exit::failed(format!(
        "dev: {} is a member of a mesh, but {}, which the others join through, has no data: choose another --data",
        other.data.display(),
        first.data.display()
    ))
}

/// SIGTERM for all, and what has not ended in time is killed; at once on another signal.
async fn stop(nodes: &mut Nodes, signals: &mut Signals) {
    nodes.terminate();
    let ended = async { while nodes.next().await.is_some() {} };
    let is_over = tokio::select! {
        ended = tokio::time::timeout(STOP, ended) => ended.is_ok(),
        () = signals.any() => false,
    };
    if !is_over {
        say("nodes that have not stopped are killed; what they acknowledged is safe");
        nodes.kill();
        while nodes.next().await.is_some() {}
    }
}

/// A line on standard error, beside the results.
fn say(line: &str) {
    use std::io::Write as _;
    // Nobody to tell is no reason to stop the nodes.
    let _ = writeln!(std::io::stderr(), "gem: dev: {line}");
}
