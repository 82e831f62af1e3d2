//! `gem bench publish`.

use std::sync::Arc;

use super::LoadArgs;
use super::load::{Budget, Load};
use super::report::{Report, Tally, Watch};
use crate::exit::Outcome;

const MESSAGES: u64 = 1_000_000;
pub const BATCH: u32 = 1000;

pub async fn run(args: &LoadArgs) -> Outcome<Report> {
    let budget = Arc::new(Budget::new(args.messages.unwrap_or(MESSAGES), args.duration));
    let watch = Watch::start(args.pid)?;
    let tally = publish(args, budget).await?;
    watch.stop(tally)
}

/// Publishes until the budget is used up.
pub async fn publish(args: &LoadArgs, budget: Arc<Budget>) -> Outcome<Tally> {
    let batch = u64::from(args.batch.unwrap_or(BATCH));
    let mut producers = Load { args, batch, rate: args.rate, budget, stamp: None }.start()?;
    let mut tally = Tally::default();
    while let Some(one) = producers.join_next().await {
        // A producer that panicked has printed why; the figures without it would be wrong.
        tally.add(one.map_err(|error| crate::exit::Exit::failed(format!("bench: a producer ended: {error}")))?);
    }
    Ok(tally)
}
