//! The publishers: gRPC and REST from here, the Python SDK as a process. All of them repeat what was
//! not answered, with the same ids.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesOrdered;
use gem_client::{Client, ClientConfig, ProducerConfig};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::consumers::TOPIC;
use super::events::{Event, Events, Way};
use super::record::{Place, Record, now_us};
use crate::child::log_file;
use crate::exit::{Exit, Outcome};

/// Longer than the node is away.
const PATIENCE: Duration = Duration::from_secs(120);
const REST_BATCH: usize = 20;
const REST_PAUSE: Duration = Duration::from_millis(50);

/// When the event with this place in its publisher's line is due.
fn due(start: Instant, index: usize, rate: f64) -> Instant {
    start + Duration::from_secs_f64(index as f64 / rate)
}

/// Publishes over gRPC, through a producer.
pub async fn grpc(url: String, events: Vec<Event>, rate: f64, record: Arc<Record>) -> Outcome {
    let client = Client::with_config(ClientConfig { timeout: PATIENCE, ..ClientConfig::new(&url)? })?;
    let producer = client.producer(TOPIC, ProducerConfig { timeout: PATIENCE, ..Default::default() });
    let start = Instant::now();
    let mut pending = FuturesOrdered::new();
    let mut next = events.iter().enumerate();
    let mut coming = next.next();
    while coming.is_some() || !pending.is_empty() {
        tokio::select! {
            biased;
            Some((event, receipt)) = pending.next(), if !pending.is_empty() => {
                acknowledge(event, receipt, &record)?;
            }
            () = sleep_until(coming.map_or(start, |(index, _)| due(start, index, rate))), if coming.is_some() => {
                if let Some((_, event)) = coming {
                    record.sent(event, now_us());
                    let receipt = producer.send(event.message()).await?;
                    pending.push_back(async move { (event, receipt.await) });
                    coming = next.next();
                }
            }
        }
    }
    Ok(())
}

fn acknowledge(event: &Event, receipt: gem_client::Result<gem_client::Receipt>, record: &Record) -> Outcome {
    let receipt = receipt.map_err(|error| Exit::failed(format!("demo: event {}: {}", event.id, error.detail)))?;
    let place = Place { partition: receipt.partition, offset: receipt.offset };
    record.acked(event, place, receipt.duplicate, now_us());
    Ok(())
}

#[derive(Deserialize)]
struct Answer {
    results: Vec<RestResult>,
}

#[derive(Deserialize)]
struct RestResult {
    partition: Option<u32>,
    offset: Option<u64>,
    #[serde(default)]
    duplicate: bool,
}

/// Publishes over REST: one request after another, so that order by key holds.
pub async fn rest(url: String, events: Vec<Event>, rate: f64, record: Arc<Record>) -> Outcome {
    let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).no_proxy().build().map_err(no_http)?;
    let target = format!("{url}/v1/topics/{TOPIC}/messages");
    let start = Instant::now();
    for (number, batch) in events.chunks(REST_BATCH).enumerate() {
        sleep_until(due(start, number * REST_BATCH, rate)).await;
        let body = body(batch)?;
        batch.iter().for_each(|event| record.sent(event, now_us()));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let why = match post(&http, &target, body.clone()).await {
                Ok(results) if results.len() == batch.len() && results.iter().all(|result| result.offset.is_some()) => {
                    for (event, result) in batch.iter().zip(results) {
                        let (Some(partition), Some(offset)) = (result.partition, result.offset) else { continue };
                        record.acked(event, Place { partition, offset }, result.duplicate, now_us());
                    }
                    break;
                }
                Ok(_) => "not every event of a batch was stored".to_owned(),
                Err(why) => why,
            };
            if Instant::now() >= deadline {
                let seconds = PATIENCE.as_secs();
                return Err(Exit::failed(format!("demo: REST did not get a batch stored within {seconds} s: {why}")));
            }
            // Not stored in whole, or not known: again, with the same ids.
            record.retried();
            sleep(REST_PAUSE).await;
        }
    }
    Ok(())
}

fn no_http(error: reqwest::Error) -> Exit {
    Exit::failed(format!("demo: no HTTP client can be made: {error}"))
}

async fn post(http: &reqwest::Client, target: &str, body: String) -> Result<Vec<RestResult>, String> {
    let request = http.post(target).header("content-type", "application/vnd.gem.batch+json").body(body);
    let answer = request.send().await.map_err(|error| error.to_string())?;
    let status = answer.status();
    let text = answer.text().await.map_err(|error| error.to_string())?;
    if !status.is_success() {
        return Err(format!("{status}: {text}"));
    }
    serde_json::from_str::<Answer>(&text).map(|answer| answer.results).map_err(|error| error.to_string())
}

/// A batch of message objects; the payloads are JSON already and go in as they stand.
fn body(batch: &[Event]) -> Outcome<String> {
    let mut body = String::from("{\"messages\":[");
    for (index, event) in batch.iter().enumerate() {
        if index > 0 {
            body.push(',');
        }
        body.push_str(&object(event)?);
    }
    body.push_str("]}");
    Ok(body)
}

fn object(event: &Event) -> Outcome<String> {
    let head = serde_json::json!({
        "id": event.id,
        "key": &*event.key,
        "headers": event.headers().into_iter().collect::<std::collections::BTreeMap<_, _>>(),
    });
    let mut text = head.to_string();
    // The object's closing brace makes room for the payload.
    text.pop();
    text.push_str(",\"payload\":");
    // The payloads were text when they were read.
    text.push_str(std::str::from_utf8(&event.payload).map_err(|error| Exit::failed(format!("demo: {error}")))?);
    text.push('}');
    Ok(text)
}

/// Whether this Python can publish.
pub async fn check_python(python: &Path) -> Outcome {
    let check = Command::new(python).args(["-c", "import gem; gem.Client"]).stdin(Stdio::null()).output();
    let why = match timeout(Duration::from_secs(30), check).await {
        Ok(Ok(output)) if output.status.success() => return Ok(()),
        Ok(Ok(output)) => {
            String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or("it ended with a failure").to_owned()
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it did not answer within 30 s".to_owned(),
    };
    Err(Exit::failed(format!(
        "demo: {} can't import gem ({why}): give --python a Python with GEM's SDK (./dev demo makes one), or leave the SDK out with --without-python",
        python.display()
    )))
}

const SCRIPT: &str = include_str!("publisher.py");

#[derive(Deserialize)]
struct Ack {
    id: String,
    partition: u32,
    offset: u64,
    duplicate: bool,
    sent_us: u64,
    acked_us: u64,
}

/// Publishes through the Python SDK, in a process of its own.
#[expect(clippy::disallowed_methods, reason = "the script and its events go through the demo's own directory")]
pub async fn python(
    python: PathBuf,
    dir: PathBuf,
    url: String,
    events: Arc<Events>,
    rate: f64,
    record: Arc<Record>,
) -> Outcome {
    let script = dir.join("publisher.py");
    let input = dir.join("python-events.ndjson");
    let mut lines = String::new();
    for event in events.of(Way::Python) {
        lines.push_str(&object(&event)?);
        lines.push('\n');
    }
    std::fs::write(&script, SCRIPT)?;
    std::fs::write(&input, lines)?;
    let mut child = Command::new(python)
        .arg(&script)
        .args([&url, TOPIC])
        .arg(&input)
        .arg(rate.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log_file(&dir.join("python.log"))?)
        .kill_on_drop(true)
        .spawn()?;
    let stdout =
        child.stdout.take().ok_or_else(|| Exit::failed("demo: the Python publisher has no standard output"))?;
    let mut acks = BufReader::new(stdout).lines();
    while let Some(line) = acks.next_line().await? {
        let ack: Ack = serde_json::from_str(&line)
            .map_err(|error| Exit::failed(format!("demo: the Python publisher wrote {line:?}: {error}")))?;
        let Some(event) = events.find(&ack.id) else { continue };
        record.sent(event, ack.sent_us);
        record.acked(event, Place { partition: ack.partition, offset: ack.offset }, ack.duplicate, ack.acked_us);
    }
    let status = child.wait().await?;
    if status.success() {
        return Ok(());
    }
    let log = dir.join("python.log");
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let last = text.lines().last().unwrap_or("nothing in its log");
    Err(Exit::failed(format!("demo: the Python publisher failed ({status}): {last}")))
}
