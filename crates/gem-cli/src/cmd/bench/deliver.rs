//! `gem bench deliver`.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use gem_client::{Code, SubscribeOptions, Subscription};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::LoadArgs;
use super::load::Budget;
use super::publish::{BATCH, publish};
use super::report::{Report, Tally, Watch};
use crate::cmd::connect;
use crate::exit::{Exit, Outcome};

const MESSAGES: u64 = 500_000;
/// A consumer that gets nothing for so long is done.
const QUIET: Duration = Duration::from_secs(5);

pub async fn run(args: &LoadArgs) -> Outcome<Report> {
    let wanted = args.messages.unwrap_or(MESSAGES);
    fill(args, wanted).await?;
    let budget = Arc::new(Budget::new(wanted, args.duration));
    let group = group_name();
    let clock = Watch::start(args.pid)?;
    let over = watch::Sender::new(false);
    let mut consumers = JoinSet::new();
    for _ in 0..args.consumers {
        let subscription = subscribe(args, &group, "earliest")?;
        consumers.spawn(consume(subscription, budget.clone(), over.clone(), args.inflight as usize));
    }
    let mut tally = Tally::default();
    while let Some(one) = consumers.join_next().await {
        tally.add(one.map_err(|error| Exit::failed(format!("bench: a consumer ended: {error}")))?);
    }
    clock.stop(tally)
}

async fn fill(args: &LoadArgs, wanted: u64) -> Outcome {
    let stored = match args.client.client()?.topic(&args.topic).await {
        Ok(topic) => topic.messages,
        Err(error) if error.code == Code::NotFound => 0,
        Err(error) => return Err(error.into()),
    };
    if stored < wanted {
        publish(args, Arc::new(Budget::new(wanted - stored, None))).await?;
    }
    Ok(())
}

/// A name that no earlier run has used.
pub fn group_name() -> String {
    use gem_types::seams::{OsRandom, Random as _};
    format!("bench-{:016x}", OsRandom.u64())
}

/// A member with a connection of its own.
pub fn subscribe(args: &LoadArgs, group: &str, from: &str) -> Outcome<Subscription> {
    let credit = args.inflight.saturating_mul(args.batch.unwrap_or(BATCH));
    let options = SubscribeOptions { from: Some(from.to_owned()), credit, ..SubscribeOptions::group(group) };
    Ok(connect(&args.client.url)?.subscribe(&args.topic, options)?)
}

/// Takes and acks; several acks are on their way at once. Whoever takes the last message tells the
/// others that it is over.
async fn consume(
    mut subscription: Subscription,
    budget: Arc<Budget>,
    all_over: watch::Sender<bool>,
    acks_max: usize,
) -> Tally {
    let mut tally = Tally::default();
    let settler = subscription.settler();
    let mut acks = FuturesUnordered::new();
    let mut ended = all_over.subscribe();
    let mut over = false;
    while !over || !acks.is_empty() {
        tokio::select! {
            biased;
            Some((since, count, settled)) = acks.next(), if !acks.is_empty() => match settled {
                Ok(()) => tally.latency(Instant::elapsed(&since), count),
                Err(error) => tally.failed(count, error),
            },
            _ = ended.wait_for(|over| *over), if !over => over = true,
            batch = timeout(QUIET, subscription.next_batch()), if !over && acks.len() < acks_max => match batch {
                Err(_) | Ok(None) => over = true,
                Ok(Some(Err(error))) => {
                    tally.failed(1, error);
                    over = true;
                }
                Ok(Some(Ok(batch))) => {
                    let count = batch.len() as u64;
                    over = budget.take(count) < count || budget.is_used_up();
                    all_over.send_if_modified(|all_over| !*all_over && std::mem::replace(all_over, over) != over);
                    tally.messages += count;
                    tally.bytes += batch.iter().map(|delivery| delivery.message.message.payload.len() as u64).sum::<u64>();
                    let tokens = batch.into_iter().map(|delivery| delivery.token).collect();
                    let settler = settler.clone();
                    acks.push(async move {
                        let since = Instant::now();
                        (since, count, settler.ack(tokens).await.map(drop))
                    });
                }
            },
        }
    }
    tally
}
