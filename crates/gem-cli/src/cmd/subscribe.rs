//! `gem sub`.

use std::io::{BufWriter, Write as _};
use std::time::Duration;

use clap::{Args, ValueEnum};
use gem_client::{Delivery, Mode, SubscribeOptions};
use tokio::time::Instant;

use crate::cmd::ClientArgs;
use crate::exit::{Exit, Outcome};
use crate::{message_json, units};

const CREDIT: u32 = 1000;

#[derive(Args)]
pub struct SubArgs {
    /// What to read.
    topic: String,
    /// Shares the messages with the group's other members, and acks each after printing it.
    #[arg(long, value_name = "G")]
    group: Option<String>,
    /// How a new group shares: any message to any member, or a key's messages one after another.
    #[arg(long, requires = "group")]
    mode: Option<ModeArg>,
    /// `earliest`, `latest`, an RFC 3339 time or `partition:offset`. Default: latest; for a new group earliest.
    #[arg(long, value_name = "P")]
    from: Option<String>,
    /// Ends after so many messages.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Ends after this time, as 10s; with --count, fails if they have not come by then.
    #[arg(long, value_parser = units::duration, value_name = "TIME")]
    timeout: Option<Duration>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum ModeArg {
    Shared,
    Key,
}

pub async fn run(args: SubArgs) -> Outcome {
    let client = args.client.client()?;
    // No more credit than will be printed: what a member holds, nobody else gets.
    let credit = args.count.map_or(CREDIT, |count| count.min(u64::from(CREDIT)) as u32);
    let mode = args.mode.map(|mode| match mode {
        ModeArg::Shared => Mode::Shared,
        ModeArg::Key => Mode::Key,
    });
    let options =
        SubscribeOptions { group: args.group.clone(), mode, from: args.from.clone(), credit, ..Default::default() };
    let mut subscription = client.subscribe(&args.topic, options).map_err(|error| Exit::usage(error.detail))?;
    let deadline = args.timeout.map(|timeout| Instant::now() + timeout);
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let mut batch = tokio::select! {
            batch = subscription.next_batch() => match batch {
                Some(batch) => batch?,
                None => break,
            },
            () = at(deadline) => return timed_out(&args, left),
            _ = tokio::signal::ctrl_c() => break,
        };
        batch.truncate(left.min(batch.len() as u64) as usize);
        left -= batch.len() as u64;
        print(&batch, args.client.json)?;
        if args.group.is_some() {
            let tokens = batch.into_iter().map(|delivery| delivery.token).collect();
            subscription.settler().ack(tokens).await?;
        }
    }
    Ok(())
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn timed_out(args: &SubArgs, left: u64) -> Outcome {
    let Some(count) = args.count else { return Ok(()) };
    let timeout = units::show_ms(args.timeout.unwrap_or_default().as_millis() as u64);
    let line = format!("sub {}: {} of {count} messages came within {timeout}", args.topic, count - left);
    Err(Exit::failed(line + "; is anybody publishing, and does --from start early enough?"))
}

fn print(batch: &[Delivery], json: bool) -> Outcome {
    let mut out = BufWriter::new(std::io::stdout().lock());
    for delivery in batch {
        if json {
            let text = message_json::write(delivery).map_err(std::io::Error::from)?;
            out.write_all(text.as_bytes())?;
        } else {
            out.write_all(&delivery.message.message.payload)?;
        }
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(())
}
