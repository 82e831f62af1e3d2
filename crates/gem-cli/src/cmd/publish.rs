//! `gem pub`.

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use futures::StreamExt as _;
use futures::stream::FuturesOrdered;
use gem_client::{Message, PendingReceipts, Producer, ProducerConfig, Receipt};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::time::Instant;

use crate::cmd::{ClientArgs, TIMEOUT};
use crate::exit::{Exit, Outcome};
use crate::{message_json, output};

/// Batches whose receipts are awaited while input is read on.
const PENDING_MAX: usize = 64;
const INPUT_BUFFER_BYTES: usize = 1 << 20;

#[derive(Args)]
pub struct PubArgs {
    /// Where to publish.
    topic: String,
    /// The message; without it, each line of standard input is one.
    message: Option<String>,
    /// The most messages sent together.
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: u32,
    /// The key of every message: messages with the same key keep their order.
    #[arg(long, value_name = "K")]
    key: Option<String>,
    /// A header of every message; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// The message's own id: within the topic's dedup window it is stored once.
    #[arg(long, requires = "message")]
    id: Option<String>,
    /// Each line is a message object: payload or payload_base64, and optional id, key, headers.
    #[arg(long, conflicts_with_all = ["message", "key", "id"])]
    ndjson: bool,
    /// Shows progress on standard error.
    #[arg(long)]
    progress: bool,
    #[command(flatten)]
    client: ClientArgs,
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

pub async fn run(args: PubArgs) -> Outcome {
    match &args.message {
        Some(text) => {
            let mut message = dressed(&args, Message::new(text.clone()));
            if let Some(id) = &args.id {
                message = message.id(id.clone());
            }
            let receipt = args.client.client()?.publish(&args.topic, message).await?;
            print_receipt(&args, &receipt)
        }
        None => lines(&args).await,
    }
}

fn print_receipt(args: &PubArgs, receipt: &Receipt) -> Outcome {
    if args.client.json {
        return output::json(&json!({
            "id": receipt.id,
            "topic": args.topic,
            "partition": receipt.partition,
            "offset": receipt.offset,
            "duplicate": receipt.duplicate,
        }));
    }
    let again = if receipt.duplicate { ", stored before" } else { "" };
    output::line(format_args!("{} {}:{} {}{again}", args.topic, receipt.partition, receipt.offset, receipt.id))
}

fn dressed(args: &PubArgs, mut message: Message) -> Message {
    if let Some(key) = &args.key {
        message = message.key(key.clone());
    }
    args.header.iter().fold(message, |message, (name, value)| message.header(name, value.clone()))
}

/// Publishes standard input: a batch goes off when it is full, or when the input pauses.
async fn lines(args: &PubArgs) -> Outcome {
    let client = args.client.client()?;
    let batch = args.batch as usize;
    let config = ProducerConfig { batch_messages: batch, timeout: 2 * TIMEOUT, ..Default::default() };
    let mut upload = Upload {
        args,
        producer: client.producer(&args.topic, config),
        pending: FuturesOrdered::new(),
        progress: progress(args),
        stored: 0,
    };
    let mut input = BufReader::with_capacity(INPUT_BUFFER_BYTES, tokio::io::stdin());
    let mut messages = Vec::new();
    let started = Instant::now();
    let mut number = 0u64;
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.read_until(b'\n', &mut line).await? == 0 {
            break;
        }
        number += 1;
        messages.push(parsed(args, number, &line)?);
        if messages.len() >= batch || input.buffer().is_empty() {
            upload.send(std::mem::take(&mut messages)).await?;
        }
    }
    upload.send(messages).await?;
    while upload.settle().await? {}
    upload.progress.finish_and_clear();
    if !args.client.json {
        let seconds = started.elapsed().as_secs_f64();
        output::line(format_args!("published {} messages to {} in {seconds:.2} s", upload.stored, args.topic))?;
    }
    Ok(())
}

struct Upload<'a> {
    args: &'a PubArgs,
    producer: Producer,
    pending: FuturesOrdered<PendingReceipts>,
    progress: ProgressBar,
    stored: u64,
}

impl Upload<'_> {
    async fn send(&mut self, messages: Vec<Message>) -> Outcome {
        if messages.is_empty() {
            return Ok(());
        }
        while self.pending.len() >= PENDING_MAX {
            self.settle().await?;
        }
        self.pending.push_back(self.producer.send_all(messages).await?);
        Ok(())
    }

    /// Takes the receipts of the oldest batch; false where none is pending.
    async fn settle(&mut self) -> Outcome<bool> {
        let Some(receipts) = self.pending.next().await else { return Ok(false) };
        for receipt in receipts? {
            let receipt = receipt.map_err(|error| {
                let done = self.stored;
                Exit::failed(format!(
                    "message {}: {} [{}]; {done} before it are stored",
                    done + 1,
                    error.detail,
                    error.code
                ))
            })?;
            self.stored += 1;
            self.progress.set_position(self.stored);
            if self.args.client.json {
                print_receipt(self.args, &receipt)?;
            }
        }
        Ok(true)
    }
}

fn parsed(args: &PubArgs, number: u64, line: &[u8]) -> Outcome<Message> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if !args.ndjson {
        return Ok(dressed(args, Message::new(Bytes::copy_from_slice(line))));
    }
    let wrong = |why: String| Exit::failed(format!("standard input, line {number}: not a message object: {why}"));
    let text = std::str::from_utf8(line).map_err(|error| wrong(error.to_string()))?;
    Ok(dressed(args, message_json::read(text).map_err(wrong)?))
}

fn progress(args: &PubArgs) -> ProgressBar {
    if !args.progress {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    // The template is a constant; where it were wrong the default style stays.
    if let Ok(style) = ProgressStyle::with_template("{spinner} {human_pos} messages  {per_sec}  {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
