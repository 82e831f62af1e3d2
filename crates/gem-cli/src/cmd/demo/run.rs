//! The demo's course of events.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gem_client::{Client, ClientConfig, TopicConfig};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::consumers::{COUNT, Consumers, GROUP, Ledger, TOPIC};
use super::events::{Events, Way};
use super::node::Node;
use super::proof::{self, Stored};
use super::record::{Place, Record, now_us};
use super::show::{Latency, Progress, Verdict};
use super::{DemoArgs, publishers};
use crate::exit::{Exit, Outcome};

/// Nothing acked and nothing processed for so long: it won't come any more.
const STALLED: Duration = Duration::from_secs(90);
const TICK: Duration = Duration::from_millis(50);
/// Leases of a lost leader end within this.
const ACK_TIMEOUT_MS: u64 = 5_000;
/// Kills cost deliveries; the demo wants no dead letters.
const MAX_DELIVERIES: u32 = 1_000;
const READ_PAGE: u32 = 1_000;

pub async fn run(args: &DemoArgs, events: Events) -> Outcome<Verdict> {
    if !args.without_python {
        publishers::check_python(&args.python).await?;
    }
    let scratch = tempfile::tempdir()?;
    let dir = args.keep.clone().unwrap_or_else(|| scratch.path().to_owned());
    #[expect(clippy::disallowed_methods, reason = "the demo's own directory")]
    std::fs::create_dir_all(&dir)?;
    let progress = Progress::new(events.all.len() as u64);
    progress.say(&format!(
        "{} events of {} real webhook payloads, {} keys; data in {}",
        events.all.len(),
        events.templates,
        events.keys,
        dir.display()
    ));
    let node = Node::start(&dir).await?;
    progress.say(&format!("a node is up at {}", node.url));
    let config = ClientConfig { timeout: STALLED, ..ClientConfig::new(&node.url)? };
    let client = Client::with_config(config)?;
    let topic = TopicConfig {
        ack_timeout_ms: Some(ACK_TIMEOUT_MS),
        max_deliveries: Some(MAX_DELIVERIES),
        ..TopicConfig::default()
    };
    client.create_topic(TOPIC, topic).await?;
    let consumers = Consumers::start(&dir, &node.url)?;
    progress.say(&format!("group {GROUP}: {COUNT} consumer processes in mode key"));

    let events = Arc::new(events);
    let record = Arc::new(Record::new(&events));
    let started = Instant::now();
    let publishers = publish(args, &dir, &node.url, &events, &record);
    let mut stage = Stage {
        ledger: Ledger::new(consumers.ledger(), &events),
        node,
        consumers,
        publishers,
        progress,
        started,
        consumer_killed: false,
        node_killed_us: None,
        recovery: None,
        restart: None,
        events: events.clone(),
        record: record.clone(),
    };
    stage.play().await?;
    let seconds = stage.started.elapsed().as_secs_f64();

    stage.progress.say("everything is processed; reading the whole topic back");
    let redelivered = client.group(TOPIC, GROUP).await?.redelivered;
    let stored = read_back(&client).await?;
    stage.consumers.stop().await;
    stage.ledger.follow(&events)?;
    let sent = record.snapshot();
    let proof = proof::check(&events, &sent, &stored, &stage.ledger);
    let stopped_cleanly = stage.node.stop().await;
    stage.progress.finish();
    let span_us = record.last_ack_us().saturating_sub(sent.iter().filter_map(|sent| sent.sent_us).min().unwrap_or(0));
    Ok(Verdict {
        keys: events.keys as u64,
        templates: events.templates as u64,
        ways: ways(args).iter().map(|way| (way.name(), events.of(*way).len() as u64)).collect(),
        duplicates: sent.iter().filter(|sent| sent.duplicate).count() as u64,
        rest_retries: record.retry_count(),
        group_redelivered: redelivered,
        events_per_s: proof.acknowledged as f64 / (span_us.max(1) as f64 / 1e6),
        publish: Latency::of(sent.iter().filter_map(|sent| Some(sent.acked_us?.saturating_sub(sent.sent_us?)))),
        end_to_end: Latency::of(first_processings(&stage.ledger, &sent)),
        recovery: stage.recovery,
        restart: stage.restart,
        seconds,
        stopped_cleanly,
        proof,
    })
}

fn ways(args: &DemoArgs) -> &'static [Way] {
    if args.without_python { &[Way::Grpc, Way::Rest] } else { &[Way::Grpc, Way::Rest, Way::Python] }
}

fn publish(
    args: &DemoArgs,
    dir: &std::path::Path,
    url: &str,
    events: &Arc<Events>,
    record: &Arc<Record>,
) -> JoinSet<Outcome> {
    let rate = f64::from(args.rate) / ways(args).len() as f64;
    let mut tasks = JoinSet::new();
    for way in ways(args) {
        let (url, record) = (url.to_owned(), record.clone());
        match way {
            Way::Grpc => drop(tasks.spawn(publishers::grpc(url, events.of(*way), rate, record))),
            Way::Rest => drop(tasks.spawn(publishers::rest(url, events.of(*way), rate, record))),
            Way::Python => {
                let (python, dir): (PathBuf, PathBuf) = (args.python.clone(), dir.to_owned());
                tasks.spawn(publishers::python(python, dir, url, events.clone(), rate, record));
            }
        }
    }
    tasks
}

/// How long each event took from its first sending to its first processing.
fn first_processings(ledger: &Ledger, sent: &[super::record::Sent]) -> Vec<u64> {
    let mut seen = vec![false; sent.len()];
    let age = |line: &super::consumers::Processing| {
        let first = seen.get_mut(line.event as usize).is_some_and(|seen| !std::mem::replace(seen, true));
        let sent_us = sent.get(line.event as usize)?.sent_us?;
        first.then(|| line.at_us.saturating_sub(sent_us))
    };
    ledger.lines.iter().filter_map(age).collect()
}

async fn read_back(client: &Client) -> Outcome<Vec<Stored>> {
    let mut stored = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let page = client.read(TOPIC, "earliest", cursor.as_deref(), READ_PAGE, Duration::ZERO).await?;
        if page.messages.is_empty() {
            break;
        }
        stored.extend(page.messages.into_iter().map(|message| Stored {
            id: message.message.id.unwrap_or_default(),
            place: Place { partition: message.partition, offset: message.offset },
        }));
        cursor = Some(page.cursor);
    }
    stored.sort_by_key(|message| (message.place.partition, message.place.offset));
    Ok(stored)
}

/// All that is on stage while events flow.
struct Stage {
    events: Arc<Events>,
    record: Arc<Record>,
    node: Node,
    consumers: Consumers,
    publishers: JoinSet<Outcome>,
    ledger: Ledger,
    progress: Progress,
    started: Instant,
    consumer_killed: bool,
    node_killed_us: Option<u64>,
    /// From the node's death to the first acknowledgement after it.
    recovery: Option<Duration>,
    /// From the node's new start to its ready line.
    restart: Option<Duration>,
}

impl Stage {
    /// Goes on until every event is acknowledged and processed, or nothing moves any more.
    async fn play(&mut self) -> Outcome {
        let total = self.events.all.len() as u64;
        let mut moved = Instant::now();
        let mut last = (0, 0);
        loop {
            sleep(TICK).await;
            self.ledger.follow(&self.events)?;
            let now = (self.record.acked_count(), self.ledger.distinct);
            self.progress.at(now.0, now.1);
            if now != last {
                (last, moved) = (now, Instant::now());
            }
            self.reap_publishers()?;
            if now == (total, total) && self.publishers.is_empty() {
                return Ok(());
            }
            if moved.elapsed() >= STALLED {
                self.progress.say(&format!("nothing has moved for {} s", STALLED.as_secs()));
                return Ok(());
            }
            if !self.consumer_killed && now.1 >= total / 4 {
                self.kill_consumer().await?;
            }
            if self.node_killed_us.is_none() && now.0 >= total / 2 {
                self.kill_node().await?;
            }
            self.note_recovery();
        }
    }

    /// A publisher that failed ends the demo; one that is through is done.
    fn reap_publishers(&mut self) -> Outcome {
        while let Some(ended) = self.publishers.try_join_next() {
            ended.map_err(|error| Exit::failed(format!("demo: a publisher ended: {error}")))??;
        }
        Ok(())
    }

    async fn kill_consumer(&mut self) -> Outcome {
        self.consumer_killed = true;
        self.consumers.kill(1).await?;
        self.progress.say(&format!("consumer-1 killed (SIGKILL) after {} events", self.ledger.distinct));
        Ok(())
    }

    async fn kill_node(&mut self) -> Outcome {
        self.node_killed_us = Some(now_us());
        self.node.kill().await?;
        self.progress.say(&format!("the node killed (SIGKILL) after {} acknowledgements", self.record.acked_count()));
        let restart = self.node.restart().await?;
        self.restart = Some(restart);
        self.progress.say(&format!("the node is up again after {} ms", restart.as_millis()));
        let revived = self.consumers.revive()?;
        self.progress.say(&format!("{revived} consumer started again"));
        Ok(())
    }

    fn note_recovery(&mut self) {
        let (Some(killed_us), Some(restart), None) = (self.node_killed_us, self.restart, self.recovery) else { return };
        let last_ack_us = self.record.last_ack_us();
        // Answers that were under way when the node died come in right after; the new node's can't
        // come before its process was there.
        if last_ack_us > killed_us + restart.as_micros() as u64 / 2 {
            self.recovery = Some(Duration::from_micros(last_ack_us - killed_us));
            self.progress
                .say(&format!("acknowledgements again {} ms after the kill", (last_ack_us - killed_us) / 1000));
        }
    }
}
