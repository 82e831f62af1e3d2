//! What a node counts, and how it shows that (Prometheus, OpenMetrics text).
//!
//! Counters are plain atomics, so that a batch costs a few additions; they are ranked and labelled
//! when somebody asks. The busiest topics stand by name, the rest as `_other`: a node with a
//! million topics shows a hundred.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use gem_types::TopicName;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// The most topics that are counted apart; what comes later counts as `_other`.
const TOPICS_MAX: usize = 20_000;
const OTHER: &str = "_other";
/// Upper bounds of the histograms' buckets, in seconds.
const BUCKETS: [f64; 18] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0];

/// A number that only rises.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The number so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of one topic.
#[derive(Debug, Default)]
pub struct TopicStats {
    /// Messages stored.
    pub published: Count,
    /// Their bytes: payloads, keys, headers, ids.
    pub published_bytes: Count,
    /// Messages handed to readers and members.
    pub delivered: Count,
    /// Their payload bytes.
    pub delivered_bytes: Count,
    /// Acks that counted.
    pub acked: Count,
    /// Messages handed to members a second time or more.
    pub redelivered: Count,
    /// Messages that became dead letters.
    pub dead_lettered: Count,
}

impl TopicStats {
    /// Counts messages handed out.
    pub fn delivered(&self, messages: usize, bytes: usize) {
        self.delivered.add(messages as u64);
        self.delivered_bytes.add(bytes as u64);
    }

    fn busy(&self) -> u64 {
        self.published.get() + self.delivered.get() + self.acked.get()
    }
}

/// A histogram of seconds that takes many equal observations at once.
#[derive(Debug, Default)]
pub struct Seconds {
    buckets: [AtomicU64; BUCKETS.len() + 1],
    micros: AtomicU64,
}

impl Seconds {
    /// `times` observations of `seconds`.
    pub fn observe(&self, seconds: f64, times: u64) {
        let bucket = BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS.len());
        if let Some(count) = self.buckets.get(bucket) {
            count.fetch_add(times, Ordering::Relaxed);
        }
        self.micros.fetch_add((seconds.max(0.0) * 1e6) as u64 * times, Ordering::Relaxed);
    }
}

impl EncodeMetric for Seconds {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let bounds = BUCKETS.iter().copied().chain([f64::MAX]);
        let buckets: Vec<(f64, u64)> =
            bounds.zip(&self.buckets).map(|(bound, count)| (bound, count.load(Ordering::Relaxed))).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(self.micros.load(Ordering::Relaxed) as f64 / 1e6, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// A histogram that somebody else keeps: the sum, and how many in each bucket with its bound.
pub type Histogram = Box<dyn Fn() -> (f64, Vec<(f64, u64)>) + Send + Sync>;
/// A gauge that is asked when it is shown.
pub type Probe = Box<dyn Fn() -> u64 + Send + Sync>;

/// A value that somebody else keeps, asked when it is shown.
enum Shown {
    Gauge(Probe),
    Counter(Probe),
    Ratio(Box<dyn Fn() -> f64 + Send + Sync>),
}

/// What a group lags behind, as last asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Its topic.
    pub topic: String,
    /// Its name.
    pub group: String,
    /// Messages.
    pub messages: u64,
}

/// All that is counted.
pub struct Metrics {
    topics: RwLock<BTreeMap<TopicName, Arc<TopicStats>>>,
    other: Arc<TopicStats>,
    topics_shown: usize,
    /// From a publish's arrival to its receipts.
    pub publish: Seconds,
    /// From a message's stamp to its delivery.
    pub end_to_end: Seconds,
    journal_flushes: OnceLock<Histogram>,
    /// Publishes refused with `throttled`.
    pub throttled: Count,
    lags: Mutex<Vec<Lag>>,
    gauges: Mutex<BTreeMap<&'static str, (&'static str, Shown)>>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Counters at zero. `topics_shown`: how many topics stand by name.
    pub fn new(topics_shown: usize) -> Self {
        Metrics {
            topics: RwLock::default(),
            other: Arc::default(),
            topics_shown,
            publish: Seconds::default(),
            end_to_end: Seconds::default(),
            journal_flushes: OnceLock::new(),
            throttled: Count::default(),
            lags: Mutex::default(),
            gauges: Mutex::default(),
        }
    }

    /// The counters of a topic.
    pub fn topic(&self, name: &TopicName) -> Arc<TopicStats> {
        if let Some(stats) = self.topics.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return stats.clone();
        }
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        if topics.len() >= TOPICS_MAX {
            return self.other.clone();
        }
        topics.entry(name.clone()).or_default().clone()
    }

    /// Forgets a deleted topic.
    pub fn forget(&self, name: &TopicName) {
        self.topics.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Shows `probe` as the gauge `name`.
    pub fn gauge(&self, name: &'static str, help: &'static str, probe: Probe) {
        self.gauges.lock().unwrap_or_else(PoisonError::into_inner).insert(name, (help, Shown::Gauge(probe)));
    }

    /// Shows `probe`, which never falls, as the counter `name`, without its `_total`.
    pub fn counter(&self, name: &'static str, help: &'static str, probe: Probe) {
        self.gauges.lock().unwrap_or_else(PoisonError::into_inner).insert(name, (help, Shown::Counter(probe)));
    }

    /// Shows `probe` as the gauge `name`: a share of one.
    pub fn ratio(&self, name: &'static str, help: &'static str, probe: Box<dyn Fn() -> f64 + Send + Sync>) {
        self.gauges.lock().unwrap_or_else(PoisonError::into_inner).insert(name, (help, Shown::Ratio(probe)));
    }

    /// Shows how long the journal's flushes took.
    pub fn journal_flushes(&self, flushes: Histogram) {
        // The first stays: there is one journal.
        let _ = self.journal_flushes.set(flushes);
    }

    /// The busiest topics, by name.
    pub fn busiest(&self) -> Vec<TopicName> {
        self.ranked().into_iter().take(self.topics_shown).map(|(name, _)| name).collect()
    }

    /// What the groups lag behind.
    pub fn set_lags(&self, lags: Vec<Lag>) {
        *self.lags.lock().unwrap_or_else(PoisonError::into_inner) = lags;
    }

    fn ranked(&self) -> Vec<(TopicName, Arc<TopicStats>)> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = topics.iter().map(|(name, stats)| (name.clone(), stats.clone())).collect();
        all.sort_by(|(a, x), (b, y)| y.busy().cmp(&x.busy()).then_with(|| a.cmp(b)));
        all
    }

    /// The page `/metrics`.
    pub fn render(self: &Arc<Self>) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Page(self.clone())));
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }
}

#[derive(Debug)]
struct Page(Arc<Metrics>);

type Column = (&'static str, &'static str, fn(&TopicStats) -> u64);

const BY_TOPIC: [Column; 7] = [
    ("gem_published_messages", "Messages stored", |s| s.published.get()),
    ("gem_published_bytes", "Bytes of the messages stored: payloads, keys, headers and ids", |s| {
        s.published_bytes.get()
    }),
    ("gem_delivered_messages", "Messages handed to readers and group members", |s| s.delivered.get()),
    ("gem_delivered_bytes", "Payload bytes handed to readers and group members", |s| s.delivered_bytes.get()),
    ("gem_acked_messages", "Messages acknowledged by group members", |s| s.acked.get()),
    ("gem_redelivered_messages", "Messages handed out a second time or more", |s| s.redelivered.get()),
    ("gem_dead_lettered_messages", "Messages moved to a dead-letter topic", |s| s.dead_lettered.get()),
];

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let metrics = &self.0;
        let ranked = metrics.ranked();
        let (named, rest) = ranked.split_at(ranked.len().min(metrics.topics_shown));
        for (name, help, value) in BY_TOPIC {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            let mut show = |topic: &str, total: u64| {
                let labels = [("topic", topic)];
                ConstCounter::new(total).encode(family.encode_family(&labels)?)
            };
            for (topic, stats) in named {
                show(topic.as_str(), value(stats))?;
            }
            show(OTHER, rest.iter().map(|(_, s)| value(s)).sum::<u64>() + value(&metrics.other))?;
        }
        self.encode_lags(&mut encoder)?;
        let seconds = Unit::Seconds;
        for (name, help, histogram) in [
            ("gem_publish", "From the arrival of a publish to its receipts", &metrics.publish),
            ("gem_end_to_end", "From a message's stamp to its delivery", &metrics.end_to_end),
        ] {
            let encoder = encoder.encode_descriptor(name, help, Some(&seconds), MetricType::Histogram)?;
            histogram.encode(encoder)?;
        }
        if let Some(flushes) = metrics.journal_flushes.get() {
            let help = "Writing and flushing one group of the journal";
            let mut encoder =
                encoder.encode_descriptor("gem_journal_flush", help, Some(&seconds), MetricType::Histogram)?;
            let (sum, mut buckets) = flushes();
            // The encoder's own name for what has no bound.
            buckets.iter_mut().filter(|(bound, _)| bound.is_infinite()).for_each(|(bound, _)| *bound = f64::MAX);
            let count = buckets.iter().map(|(_, count)| count).sum();
            encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        let throttled = encoder.encode_descriptor(
            "gem_throttled",
            "Publishes refused with throttled",
            None,
            MetricType::Counter,
        )?;
        ConstCounter::new(metrics.throttled.get()).encode(throttled)?;
        for (name, (help, probe)) in metrics.gauges.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            match probe {
                Shown::Gauge(probe) => {
                    let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
                    ConstGauge::new(probe().min(i64::MAX as u64) as i64).encode(gauge)?;
                }
                Shown::Counter(probe) => {
                    let counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
                    ConstCounter::new(probe()).encode(counter)?;
                }
                Shown::Ratio(probe) => {
                    let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
                    ConstGauge::new(probe()).encode(gauge)?;
                }
            }
        }
        let info = encoder.encode_descriptor("gem_build", "What is running", None, MetricType::Info)?;
        Info::new([("version", env!("CARGO_PKG_VERSION"))]).encode(info)
    }
}

impl Page {
    fn encode_lags(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Messages stored, neither acknowledged nor dead-lettered";
        let mut family = encoder.encode_descriptor("gem_group_lag_messages", help, None, MetricType::Gauge)?;
        for lag in self.0.lags.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let labels = [("topic", lag.topic.as_str()), ("group", lag.group.as_str())];
            ConstGauge::new(lag.messages.min(i64::MAX as u64) as i64).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_stand_by_name_and_the_rest_together() {
        let metrics = Arc::new(Metrics::new(1));
        for (name, count) in [("quiet", 1), ("busy", 10), ("calm", 2)] {
            metrics.topic(&TopicName::new(name).unwrap()).published.add(count);
        }
        metrics.publish.observe(0.003, 2);
        metrics.gauge("gem_memory_bytes", "Memory", Box::new(|| 7));
        let page = metrics.render();
        for line in [
            "gem_published_messages_total{topic=\"busy\"} 10",
            "gem_published_messages_total{topic=\"_other\"} 3",
            "gem_publish_seconds_count 2",
            "gem_publish_seconds_bucket{le=\"0.005\"} 2",
            "gem_memory_bytes 7",
            "gem_throttled_total 0",
        ] {
            assert!(page.contains(line), "{line} in\n{page}");
        }
        assert!(page.contains("gem_build_info{version="), "{page}");
    }
}
