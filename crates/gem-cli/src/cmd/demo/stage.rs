//! What happens while events flow: who is killed when, and who comes instead.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::consumers::Consumers;
use super::events::Events;
use super::ledger::Ledger;
use super::mesh::{Led, Mesh};
use super::node::Node;
use super::record::{Record, now_us};
use super::show::Progress;
use crate::exit::{Exit, Outcome};

/// Nothing acked and nothing processed for so long: it won't come any more.
pub const STALLED: Duration = Duration::from_secs(90);
const TICK: Duration = Duration::from_millis(50);
/// Shares of the events, in percent: when a consumer, then a node is killed, when a node joins.
const CONSUMER_DIES: u64 = 25;
const NODE_DIES: u64 = 50;
const NODE_JOINS: u64 = 65;

/// What happened to the nodes.
#[derive(Clone, Debug, Default)]
pub struct Story {
    /// The node that was killed.
    pub killed: Option<String>,
    /// What it led then.
    pub led: Led,
    /// From the killed node's new start to its ready line, where it was started again.
    pub restart: Option<Duration>,
    /// The node that joined, how long that took, and the replicas that it holds in the end.
    pub joined: Option<(String, Duration, u32)>,
    /// From the kill until every shard had all its replicas again.
    pub healed: Option<Duration>,
}

/// All that is on stage.
pub struct Stage {
    pub events: Arc<Events>,
    pub record: Arc<Record>,
    pub mesh: Mesh,
    pub consumers: Vec<Consumers>,
    /// One for each of the consumers' groups.
    pub ledgers: Vec<Ledger>,
    pub publishers: JoinSet<Outcome>,
    pub joining: JoinSet<Outcome<(Node, Duration)>>,
    pub progress: Progress,
    pub consumer_killed: bool,
    pub story: Story,
}

impl Stage {
    /// Goes on until every event is acknowledged and processed and all has happened, or nothing
    /// moves any more.
    pub async fn play(&mut self) -> Outcome {
        let total = self.events.all.len() as u64;
        let mut moved = Instant::now();
        let mut last = (0, 0);
        let mut told_recovery = false;
        let mut invited = false;
        let is_alone = self.mesh.last() == 0;
        loop {
            sleep(TICK).await;
            let now = (self.record.acked_count(), self.processed()?);
            self.progress.at(now.0, now.1);
            if now != last {
                (last, moved) = (now, Instant::now());
            }
            self.reap_publishers()?;
            self.welcome().await?;
            let is_over = self.publishers.is_empty() && (is_alone || self.story.joined.is_some());
            if now == (total, total) && is_over {
                return Ok(());
            }
            if moved.elapsed() >= STALLED {
                self.progress.say(&format!("nothing has moved for {} s", STALLED.as_secs()));
                return Ok(());
            }
            if !self.consumer_killed && now.1 * 100 >= total * CONSUMER_DIES {
                self.kill_consumer(now.1).await?;
            }
            if self.story.killed.is_none() && now.0 * 100 >= total * NODE_DIES {
                self.kill_node().await?;
            }
            if let Some(recovery) = self.record.recovery().filter(|_| !told_recovery) {
                told_recovery = true;
                self.progress.say(&format!("acknowledgements again {} ms after the kill", recovery.as_millis()));
            }
            if !is_alone && !invited && told_recovery && now.0 * 100 >= total * NODE_JOINS {
                invited = true;
                self.mesh.invite(&mut self.joining);
            }
        }
    }

    /// Waits for the dead node's replicas to be replaced; not for ever, since the proof does not
    /// hang on it.
    pub async fn heal(&mut self, patience: Duration) -> Outcome {
        let whole = self.mesh.whole(patience).await?;
        let since_us = now_us().saturating_sub(self.record.killed_us().unwrap_or_else(now_us));
        let since = Duration::from_micros(since_us);
        if let Some((name, _, replicas)) = &mut self.story.joined {
            *replicas = self.mesh.replicas(self.mesh.last()).await?;
            let seconds = since.as_secs_f64();
            self.progress.say(&match whole {
                Some(shards) => format!(
                    "all {shards} shards have three replicas again {seconds:.1} s after the kill; {name} holds {replicas}"
                ),
                None => format!("not all replicas are replaced {seconds:.1} s after the kill; {name} holds {replicas}"),
            });
        }
        self.story.healed = whole.map(|_| since);
        Ok(())
    }

    /// Distinct events that every group has processed, by the group that has the fewest.
    fn processed(&mut self) -> Outcome<u64> {
        for ledger in &mut self.ledgers {
            ledger.follow(&self.events)?;
        }
        Ok(self.ledgers.iter().map(|ledger| ledger.distinct).min().unwrap_or(0))
    }

    /// A publisher that failed ends the demo; one that is through is done.
    fn reap_publishers(&mut self) -> Outcome {
        while let Some(ended) = self.publishers.try_join_next() {
            ended.map_err(|error| Exit::failed(format!("demo: a publisher ended: {error}")))??;
        }
        Ok(())
    }

    /// Takes in the newcomer once it is ready; the consumer that was killed comes back through it.
    async fn welcome(&mut self) -> Outcome {
        let Some(joined) = self.joining.try_join_next() else { return Ok(()) };
        let (node, took) = joined.map_err(|error| Exit::failed(format!("demo: a node's start ended: {error}")))??;
        self.progress.say(&format!("{} has joined in {} ms: {}", node.name(), took.as_millis(), node.url));
        self.story.joined = Some((node.name().to_owned(), took, 0));
        self.mesh.welcome(node);
        self.revive()
    }

    async fn kill_consumer(&mut self, processed: u64) -> Outcome {
        self.consumer_killed = true;
        if let Some(consumers) = self.consumers.first_mut() {
            consumers.kill(1).await?;
            self.progress.say(&format!("{} killed (SIGKILL) after {processed} events", consumers.name(1)));
        }
        Ok(())
    }

    fn revive(&mut self) -> Outcome {
        let urls = self.mesh.urls(self.mesh.last());
        let mut revived = 0;
        for consumers in &mut self.consumers {
            revived += consumers.revive(&urls)?;
        }
        self.progress.say(&format!("{revived} consumer started again"));
        Ok(())
    }

    async fn kill_node(&mut self) -> Outcome {
        let (victim, led) = self.mesh.leader().await?;
        let name = self.mesh.node(victim)?.name().to_owned();
        self.record.killed(now_us());
        self.mesh.kill(victim).await?;
        let acked = self.record.acked_count();
        self.progress.say(&format!("{name} killed (SIGKILL) after {acked} acknowledgements; it led {}", led.text()));
        self.story.killed = Some(name);
        self.story.led = led;
        if self.mesh.last() > 0 {
            return Ok(());
        }
        let restart = self.mesh.restart().await?;
        self.story.restart = Some(restart);
        self.progress.say(&format!("it is up again after {} ms", restart.as_millis()));
        self.revive()
    }
}
