//! `gem bench journal`: the journal alone, without a node: what a publish can be held against.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use futures::StreamExt as _;
use futures::stream::FuturesOrdered;
use gem_store::disk::OsDisk;
use gem_store::journal::spawn_writer_thread;
use gem_store::{Journal, JournalConfig, JournalOp, LogPos};
use gem_types::seams::SystemClock;
use gem_types::{GroupId, ReplicaId};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::load::payload;
use super::report::{Report, Tally, Watch};
use crate::exit::{Exit, Outcome};
use crate::units;

/// Room in a journal file beside an entry.
const ENTRY_ROOM: u64 = 64 << 10;

#[derive(Args, Clone, Debug)]
pub struct JournalArgs {
    /// A directory for the journal; must not exist yet, and is removed again.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The payload of a message.
    #[arg(long, default_value = "1KiB", value_parser = units::size, value_name = "SIZE")]
    size: u64,
    /// Messages a batch: one entry of the journal.
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    batch: u64,
    /// How many messages in all.
    #[arg(long, default_value_t = 200_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
    /// Batches that are on their way at once.
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    inflight: u32,
    /// JSON instead of text.
    #[arg(long)]
    pub json: bool,
}

pub async fn run(args: &JournalArgs) -> Outcome<Report> {
    if args.data.exists() {
        return Err(Exit::usage(format!(
            "bench journal: {} exists already: name a new directory",
            args.data.display()
        )));
    }
    let report = measure(args, &args.data).await;
    remove(&args.data)?;
    report
}

async fn measure(args: &JournalArgs, dir: &Path) -> Outcome<Report> {
    let wrong = |error: gem_store::StoreError| Exit::failed(format!("bench journal: {}: {error}", dir.display()));
    let entry_bytes = args.size * args.batch;
    let default = JournalConfig::default();
    let config = JournalConfig { segment_bytes: default.segment_bytes.max(2 * entry_bytes + ENTRY_ROOM), ..default };
    let (journal, writer) =
        Journal::open(Arc::new(OsDisk), dir, config, Arc::new(SystemClock::new())).map_err(wrong)?;
    let thread = spawn_writer_thread(writer).map_err(wrong)?;
    let entry = payload(entry_bytes as usize);
    let watch = Watch::start(None)?;
    let mut tally = Tally::default();
    let mut pending = FuturesOrdered::new();
    let batches = args.messages.div_ceil(args.batch);
    for index in 1..=batches {
        if pending.len() >= args.inflight as usize {
            note(pending.next().await, args, &mut tally).map_err(wrong)?;
        }
        let (done, flushed) = oneshot::channel();
        let id = LogPos { term: 1, leader: ReplicaId::default(), index };
        let append = JournalOp::Append { group: GroupId([1; 16]), id, parts: vec![entry.clone()] };
        // Whoever stopped waiting has failed already.
        journal.submit(vec![append], Box::new(move |result| drop(done.send(result))));
        let since = Instant::now();
        pending.push_back(async move { (since, flushed.await) });
    }
    while !pending.is_empty() {
        note(pending.next().await, args, &mut tally).map_err(wrong)?;
    }
    let report = watch.stop(tally);
    thread.stop();
    report
}

type Flushed = (Instant, Result<Result<(), gem_store::StoreError>, oneshot::error::RecvError>);

fn note(flushed: Option<Flushed>, args: &JournalArgs, tally: &mut Tally) -> Result<(), gem_store::StoreError> {
    // A writer that is gone has answered everything before.
    let Some((since, Ok(result))) = flushed else { return Ok(()) };
    result?;
    tally.messages += args.batch;
    tally.bytes += args.batch * args.size;
    tally.latency(since.elapsed(), args.batch);
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the directory was made by this very run")]
fn remove(dir: &Path) -> Outcome {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
