//! What a bench measured.

use std::time::Duration;

use gem_client::{Error, Receipt, Result};
use hdrhistogram::Histogram;
use serde_json::json;
use tokio::time::Instant;

use crate::exit::{Exit, Outcome};
use crate::output::{self, Table};

/// The kernel's clock ticks a second in /proc: 100 on every Linux platform.
const TICKS_PER_S: f64 = 100.0;

/// What one task saw.
#[derive(Debug)]
pub struct Tally {
    pub messages: u64,
    pub bytes: u64,
    pub errors: u64,
    first_error: Option<Error>,
    micros: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        // Two constants and a legal precision: this can't fail.
        let micros = Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are legal");
        Tally { messages: 0, bytes: 0, errors: 0, first_error: None, micros }
    }
}

impl Tally {
    /// Notes a latency that `count` messages share.
    pub fn latency(&mut self, latency: Duration, count: u64) {
        let micros = latency.as_micros().clamp(1, 3_600_000_000) as u64;
        // Clamped to the histogram's bounds: this can't fail.
        let _ = self.micros.record_n(micros, count);
    }

    /// Notes `count` messages that failed.
    pub fn failed(&mut self, count: u64, error: Error) {
        self.errors += count;
        self.first_error.get_or_insert(error);
    }

    /// Notes a batch's receipts.
    pub fn receipts(&mut self, intended: Instant, receipts: Result<Vec<Result<Receipt>>>) {
        let latency = intended.elapsed();
        match receipts {
            Err(error) => self.failed(1, error),
            Ok(receipts) => {
                let mut stored = 0;
                for receipt in receipts {
                    match receipt {
                        Ok(_) => stored += 1,
                        Err(error) => self.failed(1, error),
                    }
                }
                self.messages += stored;
                self.latency(latency, stored);
            }
        }
    }

    /// Takes in what another task saw.
    pub fn add(&mut self, other: Tally) {
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
        // The bounds are the same: this can't fail.
        let _ = self.micros.add(&other.micros);
    }
}

/// CPU time and writes of a process on this machine.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    cpu_seconds: f64,
    write_bytes: u64,
}

impl Usage {
    /// Of the process now.
    pub fn of(pid: u32) -> Outcome<Usage> {
        let read = |name: &str| {
            std::fs::read_to_string(format!("/proc/{pid}/{name}")).map_err(|error| {
                Exit::failed(format!("bench: /proc/{pid}/{name} can't be read ({error}): is --pid right?"))
            })
        };
        // The second field is the name in parentheses and may hold anything: count from its end.
        let stat = read("stat")?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        let io = read("io")?;
        let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok());
        Ok(Usage { cpu_seconds: (ticks(11) + ticks(12)) / TICKS_PER_S, write_bytes: written.unwrap_or(0) })
    }
}

/// Measures a stretch of time.
#[derive(Debug)]
pub struct Watch {
    started: Instant,
    server: Option<(u32, Usage)>,
    own: Option<Usage>,
}

impl Watch {
    /// Starts now.
    pub fn start(pid: Option<u32>) -> Outcome<Watch> {
        let server = pid.map(|pid| Usage::of(pid).map(|usage| (pid, usage))).transpose()?;
        Ok(Watch { started: Instant::now(), server, own: Usage::of(std::process::id()).ok() })
    }

    /// Ends now.
    pub fn stop(self, tally: Tally) -> Outcome<Report> {
        let seconds = self.started.elapsed().as_secs_f64();
        let between = |before: Usage, after: Usage| Usage {
            cpu_seconds: after.cpu_seconds - before.cpu_seconds,
            write_bytes: after.write_bytes.saturating_sub(before.write_bytes),
        };
        let server = self.server.map(|(pid, before)| Usage::of(pid).map(|after| between(before, after))).transpose()?;
        let own = self.own.and_then(|before| Some(between(before, Usage::of(std::process::id()).ok()?)));
        Ok(Report { tally, seconds, server, own })
    }
}

/// What is shown.
#[derive(Debug)]
pub struct Report {
    tally: Tally,
    seconds: f64,
    server: Option<Usage>,
    own: Option<Usage>,
}

impl Report {
    /// Prints it; errors make the command fail.
    pub fn print(self, json: bool) -> Outcome {
        let messages_per_s = self.tally.messages as f64 / self.seconds.max(1e-9);
        let mib_per_s = self.tally.bytes as f64 / f64::from(1 << 20) / self.seconds.max(1e-9);
        let per_million = |usage: Usage| usage.cpu_seconds * 1e6 / self.tally.messages.max(1) as f64;
        let ms = |quantile: f64| rounded(self.tally.micros.value_at_quantile(quantile) as f64 / 1000.0);
        let (p50, p90, p99, p999) = (ms(0.5), ms(0.9), ms(0.99), ms(0.999));
        let max = rounded(self.tally.micros.max() as f64 / 1000.0);
        if json {
            let mut object = json!({
                "messages": self.tally.messages,
                "bytes": self.tally.bytes,
                "seconds": rounded(self.seconds),
                "messages_per_s": messages_per_s.round(),
                "mib_per_s": rounded(mib_per_s),
                "latency_ms": { "p50": p50, "p90": p90, "p99": p99, "p999": p999, "max": max },
                "errors": self.tally.errors,
            });
            if let Some(usage) = self.server {
                object["server_cpu_s_per_million"] = json!(rounded(per_million(usage)));
                object["server_write_bytes"] = json!(usage.write_bytes);
            }
            if let Some(usage) = self.own {
                object["client_cpu_s_per_million"] = json!(rounded(per_million(usage)));
            }
            output::json(&object)?;
        } else {
            let mut table = Table::new(&["figure", "value"]);
            let mut row = |name: &str, value: String| table.row(vec![name.to_owned(), value]);
            row("messages", self.tally.messages.to_string());
            row("seconds", format!("{:.3}", self.seconds));
            row("messages/s", format!("{messages_per_s:.0}"));
            row("MiB/s", format!("{mib_per_s:.1}"));
            row("latency ms p50", p50.to_string());
            row("latency ms p90", p90.to_string());
            row("latency ms p99", p99.to_string());
            row("latency ms p99.9", p999.to_string());
            row("latency ms max", max.to_string());
            row("errors", self.tally.errors.to_string());
            if let Some(usage) = self.server {
                row("server CPU s per million", format!("{:.3}", per_million(usage)));
                row("server wrote bytes", usage.write_bytes.to_string());
            }
            if let Some(usage) = self.own {
                row("client CPU s per million", format!("{:.3}", per_million(usage)));
            }
            table.print()?;
        }
        match self.tally.first_error {
            None => Ok(()),
            Some(error) => {
                let errors = self.tally.errors;
                Err(Exit::failed(format!(
                    "bench: {errors} messages failed; the first: {} [{}]",
                    error.detail, error.code
                )))
            }
        }
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
