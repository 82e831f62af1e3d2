//! A consumer process of the demo. To *process* an event is to write a line to the ledger, a file
//! that all consumers append to; only then is it acked. Appends to one file are ordered by the
//! kernel, so the ledger's order is the order of processing across all consumers, and what a killed
//! consumer wrote stays.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use gem_client::{Client, ClientConfig, Delivery, Mode, SubscribeOptions};
use tokio::task::JoinSet;

use super::record::now_us;
use crate::exit::{Exit, Outcome};

/// Longer than the node is away.
const PATIENCE: Duration = Duration::from_secs(90);
/// Events a consumer holds at once.
const CREDIT: u32 = 64;
const ACKS_MAX: usize = 8;

#[derive(Args)]
pub struct WorkerArgs {
    #[arg(long)]
    url: String,
    #[arg(long)]
    topic: String,
    #[arg(long)]
    group: String,
    #[arg(long, value_parser = mode)]
    mode: Mode,
    #[arg(long)]
    name: String,
    #[arg(long)]
    ledger: PathBuf,
}

#[expect(clippy::disallowed_methods, reason = "the ledger is the demo's own file")]
pub async fn run(args: WorkerArgs) -> Outcome {
    let mut ledger = std::fs::OpenOptions::new().create(true).append(true).open(&args.ledger)?;
    let client = Client::with_config(ClientConfig { timeout: PATIENCE, ..ClientConfig::new(&args.url)? })?;
    let options = SubscribeOptions {
        consumer: Some(args.name.clone()),
        mode: Some(args.mode),
        credit: CREDIT,
        ..SubscribeOptions::group(&args.group)
    };
    let mut subscription = client.subscribe(&args.topic, options)?;
    let settler = subscription.settler();
    let mut acks = JoinSet::new();
    while let Some(batch) = subscription.next_batch().await {
        let batch = batch?;
        let lines: String = batch.iter().map(|delivery| line(&args.name, delivery)).collect();
        // One write for the batch: a kill leaves no torn line of it.
        ledger.write_all(lines.as_bytes())?;
        let tokens = batch.into_iter().map(|delivery| delivery.token).collect();
        let settler = settler.clone();
        acks.spawn(async move { settler.ack(tokens).await });
        while acks.len() >= ACKS_MAX {
            // An ack that came too late shows as a redelivery.
            acks.join_next().await;
        }
    }
    Err(Exit::failed("demo-worker: the subscription ended"))
}

fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "key" => Ok(Mode::Key),
        "shared" => Ok(Mode::Shared),
        _ => Err("a mode is `key` or `shared`".to_owned()),
    }
}

fn line(name: &str, delivery: &Delivery) -> String {
    let message = &delivery.message.message;
    let id = message.id.as_deref().unwrap_or_default();
    format!("{id}\t{}\t{}\t{name}\n", delivery.delivery, now_us())
}
