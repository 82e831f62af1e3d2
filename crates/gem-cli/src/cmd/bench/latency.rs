//! `gem bench latency`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gem_client::Subscription;
use gem_types::seams::{OsRandom, Random as _};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::LoadArgs;
use super::deliver::{group_name, subscribe};
use super::load::{Budget, Load, STAMP_BYTES, Stamp};
use super::report::{Report, Tally, Watch};
use crate::exit::{Exit, Outcome};

const RATE: u64 = 1000;
const DURATION: Duration = Duration::from_secs(10);
/// How long the consumers may take to join.
const JOIN: Duration = Duration::from_secs(10);
/// How long what is still on its way is waited for.
const DRAIN: Duration = Duration::from_secs(10);

pub async fn run(args: &LoadArgs) -> Outcome<Report> {
    if (args.size as usize) < STAMP_BYTES {
        return Err(Exit::usage(format!(
            "bench latency: --size must be at least {STAMP_BYTES}: the payload holds the time"
        )));
    }
    let stamp = Stamp::new(OsRandom.u64());
    let group = group_name();
    let received = Arc::new(AtomicU64::new(0));
    let (end, ended) = watch::channel(false);
    let mut consumers = JoinSet::new();
    for _ in 0..args.consumers {
        let subscription = subscribe(args, &group, "latest")?;
        consumers.spawn(consume(subscription, stamp, received.clone(), ended.clone()));
    }
    joined(args, &group).await?;

    let watch = Watch::start(args.pid)?;
    let duration = args.duration.or_else(|| args.messages.is_none().then_some(DURATION));
    let budget = Arc::new(Budget::new(args.messages.unwrap_or(0), duration));
    let batch = u64::from(args.batch.unwrap_or(1));
    let mut producers =
        Load { args, batch, rate: Some(args.rate.unwrap_or(RATE)), budget, stamp: Some(stamp) }.start()?;
    let mut published = Tally::default();
    while let Some(one) = producers.join_next().await {
        published.add(one.map_err(|error| Exit::failed(format!("bench: a producer ended: {error}")))?);
    }
    let deadline = Instant::now() + DRAIN;
    while received.load(Ordering::Relaxed) < published.messages && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Consumers that have ended already need no telling.
    let _ = end.send(true);
    let mut tally = Tally::default();
    while let Some(one) = consumers.join_next().await {
        tally.add(one.map_err(|error| Exit::failed(format!("bench: a consumer ended: {error}")))?);
    }
    let missing = published.messages.saturating_sub(tally.messages);
    if missing > 0 {
        let detail = format!("{missing} published messages were not delivered within {} s", DRAIN.as_secs());
        tally.failed(missing, gem_client::Error::deadline(detail));
    }
    watch.stop(tally)
}

/// Waits until the group stands with all its members, so that it misses nothing that is published.
async fn joined(args: &LoadArgs, group: &str) -> Outcome {
    let client = args.client.client()?;
    let deadline = Instant::now() + JOIN;
    while Instant::now() < deadline {
        match client.group(&args.topic, group).await {
            Ok(group) if group.members.len() >= args.consumers as usize => return Ok(()),
            Ok(_) => {}
            Err(error) if error.code == gem_client::Code::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(Exit::failed(format!("bench latency: the consumers did not join group {group} within {} s", JOIN.as_secs())))
}

async fn consume(
    mut subscription: Subscription,
    stamp: Stamp,
    received: Arc<AtomicU64>,
    mut ended: watch::Receiver<bool>,
) -> Tally {
    let mut tally = Tally::default();
    let settler = subscription.settler();
    let mut acks = JoinSet::new();
    loop {
        let batch = tokio::select! {
            batch = subscription.next_batch() => batch,
            _ = ended.wait_for(|ended| *ended) => break,
        };
        match batch {
            None => break,
            Some(Err(error)) => {
                tally.failed(1, error);
                break;
            }
            Some(Ok(batch)) => {
                for delivery in &batch {
                    let Some(age) = stamp.age(&delivery.message.message.payload) else { continue };
                    tally.latency(age, 1);
                    tally.messages += 1;
                    tally.bytes += delivery.message.message.payload.len() as u64;
                    received.fetch_add(1, Ordering::Relaxed);
                }
                let settler = settler.clone();
                let tokens = batch.into_iter().map(|delivery| delivery.token).collect();
                // Bounded by the credit: what is not acked is not followed by more.
                acks.spawn(async move { settler.ack(tokens).await.map(drop) });
                while acks.try_join_next().is_some() {}
            }
        }
    }
    acks.join_all().await;
    tally
}
