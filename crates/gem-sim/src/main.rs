//! Deterministic simulation of GEM, on one thread, by seed: one node's real journal, shards and
//! gatherer over a simulated disk, clock and index; and whole [`mesh`]es of such nodes over a
//! simulated network.
//!
//! What it is: a [`run`] is several lives of one node under a [`workload`], each ended by a fault
//! ([`faults`]); [`invariants`] hold what clients see to GEM's promises. The same seed is the same
//! run: that is checked first, by the hash of its [`trace`].
//!
//! What it is not: it measures nothing.
//!
//! Invariants:
//! - Nothing but the seed decides: no real clock, no chance of the system's, no threads in a run,
//!   no order of a hash table.
//! - What is a model and not the real code is listed in [`node`] and [`mesh`] alone.
//! - The invariants are checked too: bugs that are planted on purpose must be found.

mod chance;
mod clock;
mod dead_letters;
mod disk;
mod event;
mod facts;
mod faults;
mod invariants;
mod mesh;
mod node;
mod run;
mod setup;
mod stores;
mod suite;
mod trace;
mod workload;
mod world;

use std::process::ExitCode;

use setup::Planted;

const USAGE: &str = "usage: gem-sim --seed N [--trace] [--planted ack-before-flush|applied-apart]
       gem-sim suite [--seeds N] [--first N]     (N also by GEM_SIM_SEEDS)
       gem-sim mesh [--seeds N] [--first N]
       gem-sim mesh --seed N [--trace] [--planted any-term|empty-snapshot|group-id-again|…]
       gem-sim promises";

fn main() -> ExitCode {
    run::note_panics();
    // `RUST_LOG=info` shows what the nodes of a run say.
    if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_default_env() {
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["suite", options @ ..] => match suite_options(options) {
            Some((first, seeds)) => suite::suite(first, seeds),
            None => wrong_usage(),
        },
        ["mesh", options @ ..] => match mesh_options(options) {
            Some(MeshRuns::One(seed, planted, is_printed)) => mesh::suite::one(seed, planted, is_printed),
            Some(MeshRuns::Many(first, seeds)) => mesh::suite::suite(first, seeds),
            None => wrong_usage(),
        },
        ["promises"] => {
            for (name, promise) in invariants::Invariants::promises() {
                println!("{name}: {promise}");
            }
            ExitCode::SUCCESS
        }
        options => match seed_options(options) {
            Some((seed, planted, is_printed)) => suite::one(seed, planted, is_printed),
            None => wrong_usage(),
        },
    }
}

fn wrong_usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

fn suite_options(options: &[&str]) -> Option<(u64, u64)> {
    let by_environment = std::env::var("GEM_SIM_SEEDS").ok().map(|text| text.parse().ok());
    let (mut first, mut seeds) = (1, by_environment.unwrap_or(Some(suite::SEEDS))?);
    for pair in options.chunks(2) {
        match pair {
            ["--seeds", n] => seeds = n.parse().ok()?,
            ["--first", n] => first = n.parse().ok()?,
            _ => return None,
        }
    }
    Some((first, seeds))
}

enum MeshRuns {
    One(u64, Planted, bool),
    Many(u64, u64),
}

fn mesh_options(options: &[&str]) -> Option<MeshRuns> {
    let by_environment = std::env::var("GEM_SIM_MESH_SEEDS").ok().map(|text| text.parse().ok());
    let (mut first, mut seeds) = (1, by_environment.unwrap_or(Some(mesh::suite::SEEDS))?);
    let (mut seed, mut planted, mut is_printed) = (None, Planted::None, false);
    let mut options = options.iter();
    while let Some(option) = options.next() {
        match *option {
            "--seed" => seed = Some(options.next()?.parse().ok()?),
            "--seeds" => seeds = options.next()?.parse().ok()?,
            "--first" => first = options.next()?.parse().ok()?,
            "--trace" => is_printed = true,
            "--planted" => planted = Planted::parse(options.next()?)?,
            _ => return None,
        }
    }
    Some(match seed {
        Some(seed) => MeshRuns::One(seed, planted, is_printed),
        None => MeshRuns::Many(first, seeds),
    })
}

fn seed_options(options: &[&str]) -> Option<(u64, Planted, bool)> {
    let (mut seed, mut planted, mut is_printed) = (None, Planted::None, false);
    let mut options = options.iter();
    while let Some(option) = options.next() {
        match *option {
            "--seed" => seed = Some(options.next()?.parse().ok()?),
            "--trace" => is_printed = true,
            "--planted" => planted = Planted::parse(options.next()?)?,
            _ => return None,
        }
    }
    Some((seed?, planted, is_printed))
}
