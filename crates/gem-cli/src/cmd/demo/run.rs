//! The demo from its first process to its verdict.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gem_client::{Client, ClientConfig, TopicConfig};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::consumers::{ARCHIVE, Consumers, PROCESSORS, TOPIC};
use super::events::{Events, Way};
use super::ledger::{Ledger, Processing};
use super::mesh::Mesh;
use super::pauses::Pauses;
use super::proof::{self, Stored};
use super::record::{Place, Record, Sent};
use super::show::{Latency, Progress};
use super::stage::{STALLED, Stage};
use super::verdict::Verdict;
use super::{DemoArgs, publishers};
use crate::exit::Outcome;

/// Leases of a lost leader end within this.
const ACK_TIMEOUT_MS: u64 = 5_000;
/// Kills cost deliveries; the demo wants no dead letters.
const MAX_DELIVERIES: u32 = 1_000;
const READ_PAGE: u32 = 1_000;
/// How long the last acks may take to settle.
const SETTLE: Duration = Duration::from_secs(20);
/// How long the mesh may take to replace the dead node's replicas before the demo goes on without.
const HEAL: Duration = Duration::from_secs(30);

pub async fn run(args: &DemoArgs, events: Events) -> Outcome<Verdict> {
    if !args.without_python {
        publishers::check_python(&args.python).await?;
    }
    let scratch = tempfile::tempdir()?;
    let dir = args.keep.clone().unwrap_or_else(|| scratch.path().to_owned());
    #[expect(clippy::disallowed_methods, reason = "the demo's own directory")]
    std::fs::create_dir_all(&dir)?;
    // The nodes run in it, so that their paths must not be relative to where this began.
    let dir = std::path::absolute(dir)?;
    let progress = Progress::new(events.all.len() as u64);
    progress.say(&format!(
        "{} events of {} real webhook payloads, {} keys; data in {}",
        events.all.len(),
        events.templates,
        events.keys,
        dir.display()
    ));
    let mesh = Mesh::start(&dir, args.nodes).await?;
    progress.say(&format!("{} up: {}", nodes(args.nodes), mesh.urls(0).replace(',', " ")));
    let shards = mesh.founded().await?;
    if args.nodes > 1 {
        progress.say(&format!("the mesh is whole: {shards} shards, each with three replicas"));
    }
    let topic = TopicConfig {
        ack_timeout_ms: Some(ACK_TIMEOUT_MS),
        max_deliveries: Some(MAX_DELIVERIES),
        ..TopicConfig::default()
    };
    patient(&mesh.urls(0))?.create_topic(TOPIC, topic).await?;
    let groups = if args.nodes > 1 { vec![PROCESSORS, ARCHIVE] } else { vec![PROCESSORS] };
    let mut consumers = Vec::new();
    for group in &groups {
        consumers.push(Consumers::start(&dir, *group, |member| mesh.urls(member))?);
        progress.say(&format!("group {}: {} consumer processes in mode {}", group.name, group.members, group.mode));
    }

    let events = Arc::new(events);
    let record = Arc::new(Record::new(&events));
    let started = Instant::now();
    let publishers = publish(args, &dir, &mesh, &events, &record);
    let ledgers = consumers.iter().map(|consumers| Ledger::new(consumers.ledger(), &events)).collect();
    let mut stage = Stage {
        ledgers,
        mesh,
        consumers,
        publishers,
        progress,
        joining: JoinSet::new(),
        consumer_killed: false,
        story: Default::default(),
        events: events.clone(),
        record: record.clone(),
    };
    stage.play().await?;
    let seconds = started.elapsed().as_secs_f64();
    finale(args, stage, seconds).await
}

/// What comes after the last event: healing, reading back, the proof.
async fn finale(args: &DemoArgs, mut stage: Stage, seconds: f64) -> Outcome<Verdict> {
    let (events, record) = (stage.events.clone(), stage.record.clone());
    if args.nodes > 1 {
        stage.progress.say("everything is processed; waiting for the dead node's replicas to be replaced");
        stage.heal(HEAL).await?;
    }
    let reader = stage.mesh.node(stage.mesh.last())?;
    let (read_through, reading) = (reader.name().to_owned(), patient(&reader.url)?);
    stage.progress.say(&format!("reading the whole topic back through {read_through}"));
    let mut redelivered = 0;
    let mut unsettled = 0;
    for consumers in &stage.consumers {
        let group = settled(&reading, consumers.group().name).await?;
        redelivered += group.redelivered;
        unsettled += group.lag;
    }
    let stored = read_back(&reading).await?;
    for consumers in stage.consumers.drain(..) {
        consumers.stop().await;
    }
    for ledger in &mut stage.ledgers {
        ledger.follow(&events)?;
    }
    let sent = record.snapshot();
    let groups = if args.nodes > 1 { vec![PROCESSORS, ARCHIVE] } else { vec![PROCESSORS] };
    let ledgers: Vec<_> = groups.iter().copied().zip(&stage.ledgers).collect();
    let named: Vec<_> = ledgers.iter().map(|(group, ledger)| (group.name, *ledger)).collect();
    let proof = proof::check(&events, &sent, &stored, &ledgers);
    let pauses = record.killed_us().map(|killed_us| Pauses::after(killed_us, &events, &sent, &named));
    let stopped_cleanly = stage.mesh.stop().await;
    stage.progress.finish();
    let span_us = record.last_ack_us().saturating_sub(sent.iter().filter_map(|sent| sent.sent_us).min().unwrap_or(0));
    Ok(Verdict {
        keys: events.keys as u64,
        templates: events.templates as u64,
        ways: ways(args).iter().map(|way| (way.name(), events.of(*way).len() as u64)).collect(),
        duplicates: sent.iter().filter(|sent| sent.duplicate).count() as u64,
        rest_retries: record.retry_count(),
        group_redelivered: redelivered,
        unsettled,
        events_per_s: proof.acknowledged as f64 / (span_us.max(1) as f64 / 1e6),
        publish: Latency::of(sent.iter().filter_map(|sent| Some(sent.acked_us?.saturating_sub(sent.sent_us?)))),
        end_to_end: Latency::of(stage.ledgers.iter().flat_map(|ledger| first_processings(ledger, &sent))),
        recovery: record.recovery(),
        pauses: pauses.unwrap_or_default(),
        nodes: args.nodes,
        story: stage.story,
        read_through,
        seconds,
        stopped_cleanly,
        proof,
    })
}

fn nodes(count: usize) -> String {
    if count == 1 { "a node is".to_owned() } else { format!("{count} nodes are") }
}

/// A client that waits as long as the demo does.
fn patient(urls: &str) -> Outcome<Client> {
    Ok(Client::with_config(ClientConfig { timeout: STALLED, ..ClientConfig::new(urls)? })?)
}

fn ways(args: &DemoArgs) -> &'static [Way] {
    if args.without_python { &[Way::Grpc, Way::Rest] } else { &[Way::Grpc, Way::Rest, Way::Python] }
}

/// Each way begins with another node, and knows all.
fn publish(args: &DemoArgs, dir: &Path, mesh: &Mesh, events: &Arc<Events>, record: &Arc<Record>) -> JoinSet<Outcome> {
    let rate = f64::from(args.rate) / ways(args).len() as f64;
    let mut tasks = JoinSet::new();
    for (number, way) in ways(args).iter().enumerate() {
        let (urls, record) = (mesh.urls(number), record.clone());
        match way {
            Way::Grpc => drop(tasks.spawn(publishers::grpc(urls, events.of(*way), rate, record))),
            Way::Rest => drop(tasks.spawn(publishers::rest(urls, events.of(*way), rate, record))),
            Way::Python => {
                let (python, dir): (PathBuf, PathBuf) = (args.python.clone(), dir.to_owned());
                tasks.spawn(publishers::python(python, dir, urls, events.clone(), rate, record));
            }
        }
    }
    tasks
}

/// How long each event took from its first sending to its first processing.
fn first_processings(ledger: &Ledger, sent: &[Sent]) -> Vec<u64> {
    let mut seen = vec![false; sent.len()];
    let age = |line: &Processing| {
        let first = seen.get_mut(line.event as usize).is_some_and(|seen| !std::mem::replace(seen, true));
        let sent_us = sent.get(line.event as usize)?.sent_us?;
        first.then(|| line.at_us.saturating_sub(sent_us))
    };
    ledger.lines.iter().filter_map(age).collect()
}

/// The group once nothing of it is open, or as it is when patience ends.
async fn settled(client: &Client, group: &str) -> Outcome<gem_client::Group> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let state = client.group(TOPIC, group).await?;
        if state.lag == 0 || Instant::now() >= deadline {
            return Ok(state);
        }
        sleep(Duration::from_millis(100)).await;
    }
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
