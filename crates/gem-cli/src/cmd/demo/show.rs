//! What the demo shows: progress while it runs, the verdict at its end.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::Duration;

use hdrhistogram::Histogram;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::proof::Proof;
use crate::exit::Outcome;
use crate::output;

const PLAIN_EVERY: Duration = Duration::from_secs(1);

/// Bars on a terminal, a line a second elsewhere; always on standard error.
pub struct Progress {
    bars: Option<(MultiProgress, ProgressBar, ProgressBar)>,
    total: u64,
    started: Instant,
    last_line: Mutex<Instant>,
}

impl Progress {
    pub fn new(total: u64) -> Progress {
        let now = Instant::now();
        let bars = std::io::stderr().is_terminal().then(|| {
            let all = MultiProgress::new();
            let bar = |name: &'static str| {
                let bar = all.add(ProgressBar::new(total).with_prefix(name));
                // The template is a constant; where it were wrong the default style stays.
                if let Ok(style) = ProgressStyle::with_template("{prefix:>12} {wide_bar} {pos:>6}/{len}  {per_sec:>12}")
                {
                    bar.set_style(style);
                }
                bar
            };
            let (acknowledged, processed) = (bar("acknowledged"), bar("processed"));
            (all, acknowledged, processed)
        });
        Progress { bars, total, started: now, last_line: Mutex::new(now) }
    }

    /// Something worth a line has happened.
    pub fn say(&self, text: &str) {
        let line = format!("[{:6.2} s] {text}", self.started.elapsed().as_secs_f64());
        match &self.bars {
            // Where standard error is gone, nobody misses the line.
            Some((all, ..)) => drop(all.println(line)),
            None => drop(writeln!(std::io::stderr(), "{line}")),
        }
    }

    /// So many are acknowledged and processed.
    pub fn at(&self, acknowledged: u64, processed: u64) {
        if let Some((_, first, second)) = &self.bars {
            first.set_position(acknowledged);
            second.set_position(processed);
            return;
        }
        let mut last = self.last_line.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if last.elapsed() >= PLAIN_EVERY {
            *last = Instant::now();
            let total = self.total;
            self.say(&format!("acknowledged {acknowledged}/{total}, processed {processed}/{total}"));
        }
    }

    pub fn finish(&self) {
        if let Some((_, first, second)) = &self.bars {
            first.finish();
            second.finish();
        }
    }
}

/// Percentiles in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Latency {
    pub fn of(micros: impl IntoIterator<Item = u64>) -> Latency {
        // Two constants and a legal precision: this can't fail.
        let mut histogram = Histogram::<u64>::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are legal");
        for value in micros {
            histogram.saturating_record(value.max(1));
        }
        let ms = |micros: u64| (micros as f64 / 10.0).round() / 100.0;
        Latency {
            p50: ms(histogram.value_at_quantile(0.5)),
            p99: ms(histogram.value_at_quantile(0.99)),
            max: ms(histogram.max()),
        }
    }

    fn json(self) -> Value {
        json!({ "p50": self.p50, "p99": self.p99, "max": self.max })
    }

    fn text(self) -> String {
        format!("p50 {} ms, p99 {} ms, max {} ms", self.p50, self.p99, self.max)
    }
}

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
    pub events_per_s: f64,
    pub publish: Latency,
    pub end_to_end: Latency,
    pub recovery: Option<Duration>,
    pub restart: Option<Duration>,
    pub seconds: f64,
    pub stopped_cleanly: bool,
    pub proof: Proof,
}

impl Verdict {
    pub fn failures(&self) -> Vec<String> {
        let mut failures = self.proof.failures();
        if self.recovery.is_none() {
            failures.push("the node was not killed under load, or did not come back".to_owned());
        }
        if !self.stopped_cleanly {
            failures.push("the node did not stop cleanly on SIGTERM".to_owned());
        }
        failures
    }

    pub fn holds(&self) -> bool {
        self.failures().is_empty()
    }

    pub fn json(&self) -> Value {
        let proof = &self.proof;
        let ways: Map<String, Value> = self.ways.iter().map(|(way, count)| ((*way).to_owned(), json!(count))).collect();
        json!({
            "holds": self.holds(),
            "failures": self.failures(),
            "events": proof.events,
            "payloads": self.templates,
            "keys": self.keys,
            "published": ways,
            "acknowledged": proof.acknowledged,
            "stored": proof.stored,
            "processed": proof.processed,
            "redelivered": proof.redelivered(),
            "group_redelivered": self.group_redelivered,
            "duplicates_recognised": self.duplicates,
            "rest_retries": self.rest_retries,
            "unacknowledged": proof.unacknowledged,
            "lost": proof.lost,
            "stored_twice": proof.stored_twice,
            "misplaced": proof.misplaced,
            "strange": proof.strange,
            "skipped": proof.skipped,
            "stored_out_of_order": proof.stored_out_of_order,
            "processed_out_of_order": proof.processed_out_of_order,
            "seconds": (self.seconds * 1000.0).round() / 1000.0,
            "events_per_s": self.events_per_s.round(),
            "publish_ms": self.publish.json(),
            "end_to_end_ms": self.end_to_end.json(),
            "recovery_ms": self.recovery.map(|time| time.as_millis() as u64),
            "restart_ms": self.restart.map(|time| time.as_millis() as u64),
        })
    }

    pub fn print(&self) -> Outcome {
        let proof = &self.proof;
        let ways: Vec<String> = self.ways.iter().map(|(way, count)| format!("{way} {count}")).collect();
        let ms =
            |time: Option<Duration>| time.map_or_else(|| "-".to_owned(), |time| format!("{} ms", time.as_millis()));
        let lines = [
            ("events", format!("{} of {} real payloads, {} keys", proof.events, self.templates, self.keys)),
            ("published", ways.join(", ")),
            ("acknowledged", format!("{} ({} recognised as stored before)", proof.acknowledged, self.duplicates)),
            (
                "stored",
                format!(
                    "{}, of them twice {}, lost {}, misplaced {}",
                    proof.stored, proof.stored_twice, proof.lost, proof.misplaced
                ),
            ),
            ("processed", format!("{}, skipped {}", proof.processed, proof.skipped)),
            (
                "out of order",
                format!("stored {}, processed {}", proof.stored_out_of_order, proof.processed_out_of_order),
            ),
            (
                "redelivered",
                format!("{} processed again, {} counted by the group", proof.redelivered(), self.group_redelivered),
            ),
            ("rate", format!("{:.0} events/s over {:.1} s", self.events_per_s, self.seconds)),
            ("publish", self.publish.text()),
            ("end to end", self.end_to_end.text()),
            (
                "recovery",
                format!(
                    "{} from kill -9 to the next acknowledgement, {} of it the start",
                    ms(self.recovery),
                    ms(self.restart)
                ),
            ),
        ];
        for (name, text) in lines {
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
}
