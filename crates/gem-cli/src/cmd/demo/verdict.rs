//! All that the demo found, as text and as JSON.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::pauses::Pauses;
use super::proof::{Proof, Share};
use super::show::Latency;
use super::stage::Story;
use crate::exit::Outcome;
use crate::output;

/// All that the demo found.
pub struct Verdict {
    pub keys: u64,
    pub templates: u64,
    /// Events by the way they were published.
    pub ways: Vec<(&'static str, u64)>,
    /// Acknowledged as stored before: by an attempt whose answer was lost.
    pub duplicates: u64,
    pub rest_retries: u64,
    pub group_redelivered: u64,
    /// Stored, and acked by no group member in the end.
    pub unsettled: u64,
    pub events_per_s: f64,
    pub publish: Latency,
    pub end_to_end: Latency,
    /// From the kill to the first acknowledgement of something sent after it.
    pub recovery: Option<Duration>,
    pub pauses: Pauses,
    /// Nodes to begin with.
    pub nodes: usize,
    pub story: Story,
    /// The node through which the topic was read back.
    pub read_through: String,
    pub seconds: f64,
    pub stopped_cleanly: bool,
    pub proof: Proof,
}

impl Verdict {
    pub fn failures(&self) -> Vec<String> {
        let mut failures = self.proof.failures();
        if self.recovery.is_none() {
            failures.push("no node was killed under load, or nothing was acknowledged after it".to_owned());
        }
        if self.nodes > 1 && self.story.joined.is_none() {
            failures.push("no fresh node joined".to_owned());
        }
        if self.unsettled > 0 {
            failures.push(format!("{} deliveries are not settled in the groups", self.unsettled));
        }
        if !self.stopped_cleanly {
            failures.push("a node did not stop cleanly on SIGTERM".to_owned());
        }
        failures
    }

    pub fn holds(&self) -> bool {
        self.failures().is_empty()
    }

    pub fn json(&self) -> Value {
        let proof = &self.proof;
        let processors = proof.groups.first();
        let of = |count: fn(&Share) -> u64| processors.map_or(0, count);
        let ways: Map<String, Value> = self.ways.iter().map(|(way, count)| ((*way).to_owned(), json!(count))).collect();
        let groups: Map<String, Value> =
            proof.groups.iter().map(|share| (share.group.name.to_owned(), share_json(share))).collect();
        json!({
            "holds": self.holds(),
            "failures": self.failures(),
            "events": proof.events,
            "payloads": self.templates,
            "keys": self.keys,
            "published": ways,
            "acknowledged": proof.acknowledged,
            "stored": proof.stored,
            "processed": of(|share| share.processed),
            "redelivered": of(Share::redelivered),
            "group_redelivered": self.group_redelivered,
            "unsettled": self.unsettled,
            "duplicates_recognised": self.duplicates,
            "rest_retries": self.rest_retries,
            "unacknowledged": proof.unacknowledged,
            "lost": proof.lost,
            "stored_twice": proof.stored_twice,
            "misplaced": proof.misplaced,
            "strange": proof.strange,
            "skipped": proof.groups.iter().map(|share| share.skipped).sum::<u64>(),
            "stored_out_of_order": proof.stored_out_of_order,
            "processed_out_of_order": of(|share| share.out_of_order),
            "groups": groups,
            "seconds": (self.seconds * 1000.0).round() / 1000.0,
            "events_per_s": self.events_per_s.round(),
            "publish_ms": self.publish.json(),
            "end_to_end_ms": self.end_to_end.json(),
            "recovery_ms": self.recovery.map(millis),
            "restart_ms": self.story.restart.map(millis),
            "pause_ms": pauses_json(self.pauses.acknowledged.iter().chain(&self.pauses.processed)),
            "nodes": self.nodes,
            "killed": self.story.killed,
            "killed_led": self.story.led.shards,
            "joined": self.story.joined.as_ref().map(|(name, took, replicas)| {
                json!({ "node": name, "ms": millis(*took), "replicas": replicas })
            }),
            "healed_ms": self.story.healed.map(millis),
            "read_through": self.read_through,
        })
    }

    pub fn print(&self) -> Outcome {
        for (name, text) in self.lines() {
            output::line(format_args!("{name:<13} {text}"))?;
        }
        let verdict = if self.holds() { "THE PROOF HOLDS" } else { "THE PROOF DOES NOT HOLD" };
        let colour = if self.holds() { "32" } else { "31" };
        if output::in_colour() {
            output::line(format_args!("\x1b[1;{colour}m{verdict}\x1b[0m"))
        } else {
            output::line(verdict)
        }
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let proof = &self.proof;
        let ways: Vec<String> = self.ways.iter().map(|(way, count)| format!("{way} {count}")).collect();
        let mut lines = vec![
            ("events", format!("{} of {} real payloads, {} keys", proof.events, self.templates, self.keys)),
            ("published", ways.join(", ")),
            ("acknowledged", format!("{} ({} recognised as stored before)", proof.acknowledged, self.duplicates)),
            (
                "stored",
                format!(
                    "{}, of them twice {}, lost {}, misplaced {}, out of order {}; read through {}",
                    proof.stored,
                    proof.stored_twice,
                    proof.lost,
                    proof.misplaced,
                    proof.stored_out_of_order,
                    self.read_through
                ),
            ),
        ];
        lines.extend(proof.groups.iter().map(|share| ("processed", share_text(share))));
        lines.push(("redelivered", format!("{} counted by the groups", self.group_redelivered)));
        lines.push(("rate", format!("{:.0} events/s over {:.1} s", self.events_per_s, self.seconds)));
        lines.push(("publish", self.publish.text()));
        lines.push(("end to end", self.end_to_end.text()));
        let ms =
            |time: Option<Duration>| time.map_or_else(|| "-".to_owned(), |time| format!("{} ms", time.as_millis()));
        let restart = self.story.restart.map(|_| format!(", {} of it the start", ms(self.story.restart)));
        lines.push((
            "recovery",
            format!(
                "{} from kill -9 to an acknowledgement of what was sent after it{}",
                ms(self.recovery),
                restart.unwrap_or_default()
            ),
        ));
        lines
            .push(("pause", format!("longest without an acknowledgement: {}", pauses_text(&self.pauses.acknowledged))));
        lines.push((
            "",
            format!(
                "longest without a delivery: {}; slowest delivery {:.0} ms after its publish",
                pauses_text(&self.pauses.processed),
                self.end_to_end.max
            ),
        ));
        if let Some(killed) = self.story.killed.as_ref().filter(|_| self.nodes > 1) {
            lines.push(("killed", format!("{killed}, which led {}", self.story.led.text())));
        }
        if let Some((name, took, replicas)) = &self.story.joined {
            let healed = match self.story.healed {
                Some(healed) => format!("every shard whole again {:.1} s after the kill", healed.as_secs_f64()),
                None => "not every shard is whole again yet".to_owned(),
            };
            lines.push(("joined", format!("{name} in {} ms, holds {replicas} replicas; {healed}", took.as_millis())));
        }
        lines
    }
}

fn millis(time: Duration) -> u64 {
    time.as_millis() as u64
}

fn share_json(share: &Share) -> Value {
    json!({
        "mode": share.group.mode,
        "processed": share.processed,
        "redelivered": share.redelivered(),
        "skipped": share.skipped,
        "out_of_order": share.out_of_order,
    })
}

fn share_text(share: &Share) -> String {
    let order =
        if share.group.mode == "key" { format!(", out of order {}", share.out_of_order) } else { String::new() };
    format!(
        "{} by {}, skipped {}{order}, again {}",
        share.processed,
        share.group.name,
        share.skipped,
        share.redelivered()
    )
}

fn pauses_json<'a>(pauses: impl Iterator<Item = &'a (&'static str, u64)>) -> Value {
    let pauses: Map<String, Value> =
        pauses.map(|(name, micros)| ((*name).to_owned(), json!(*micros as f64 / 1000.0))).collect();
    Value::Object(pauses)
}

fn pauses_text(pauses: &[(&'static str, u64)]) -> String {
    let each: Vec<String> = pauses.iter().map(|(name, micros)| format!("{name} {} ms", micros / 1000)).collect();
    each.join(", ")
}
