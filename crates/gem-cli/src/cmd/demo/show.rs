//! What the demo shows while it runs, and how it sums up times.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::Duration;

use hdrhistogram::Histogram;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::time::Instant;

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

    pub fn json(self) -> Value {
        json!({ "p50": self.p50, "p99": self.p99, "max": self.max })
    }

    pub fn text(self) -> String {
        format!("p50 {} ms, p99 {} ms, max {} ms", self.p50, self.p99, self.max)
    }
}
