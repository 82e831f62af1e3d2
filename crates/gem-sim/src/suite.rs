//! Many seeds: determinism first, then the invariants, then the planted bugs.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use gem_types::seams::{Clock, SystemClock};

use crate::invariants::Invariants;
use crate::run::{Report, run};
use crate::setup::Planted;
use crate::world::Totals;

/// Seeds of a usual suite.
pub const SEEDS: u64 = 50;
/// Seeds that are run twice.
const TWICE: u64 = 5;
/// Seeds within which a planted bug must be found.
const PLANTED_SEEDS: u64 = 40;

/// One seed, with all that is known of it.
pub fn one(seed: u64, planted: Planted, is_printed: bool) -> ExitCode {
    let report = run(seed, planted, is_printed);
    println!(
        "seed {seed}: {} events, trace {:016x}, {:.1} s of virtual time",
        report.trace.1,
        report.trace.0,
        report.virtual_ms as f64 / 1_000.0
    );
    println!("  {}", totals(&report.totals));
    end_of_one(&report)
}

/// The end of what is printed of one seed: its checks, and what it broke.
pub fn end_of_one(report: &Report) -> ExitCode {
    for (name, checks) in &report.checks {
        println!("  {name:<14} {checks} checks");
    }
    match &report.violation {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            println!("FAILED {} at {} ms: {}", violation.invariant, violation.at_ms, violation.what);
            ExitCode::FAILURE
        }
    }
}

/// What a suite counts, and prints as it does.
pub struct Tally {
    clock: SystemClock,
    passed: u64,
    failed: u64,
}

impl Tally {
    /// Nothing yet.
    pub fn new() -> Tally {
        Tally { clock: SystemClock::new(), passed: 0, failed: 0 }
    }

    /// One thing more that is as it should be, or is not.
    pub fn count(&mut self, is_good: bool) {
        if is_good { self.passed += 1 } else { self.failed += 1 }
    }

    /// Whether seeds that were run twice were the same run.
    pub fn determinism(&mut self, first: &[Report], again: &[Report]) {
        for (one, other) in first.iter().zip(again) {
            let is_same = one.trace == other.trace;
            if !is_same {
                println!("seed {} is not deterministic: {:x?} and {:x?}", one.seed, one.trace, other.trace);
            }
            self.count(is_same);
        }
        println!("determinism: {} seeds run twice", again.len());
    }

    /// What became of `reports`, whose seeds `again` repeats; `summary` is told the sum of what
    /// happened and the simulated milliseconds.
    pub fn seeds(&mut self, reports: &[Report], again: &str, summary: impl FnOnce(&Totals, u64)) {
        let (mut sum, mut virtual_ms) = (Totals::default(), 0);
        let (mut checks, mut broken) = (BTreeMap::new(), BTreeMap::new());
        for report in reports {
            sum.add(&report.totals);
            virtual_ms += report.virtual_ms;
            for (name, made) in &report.checks {
                *checks.entry(*name).or_insert(0) += made;
            }
            self.count(report.violation.is_none());
            if let Some(violation) = &report.violation {
                *broken.entry(violation.invariant).or_insert(0) += 1;
                println!(
                    "FAILED seed {}: {} at {} ms: {}",
                    report.seed, violation.invariant, violation.at_ms, violation.what
                );
                println!("       repeat it with: {again} --seed {}", report.seed);
            }
        }
        summary(&sum, virtual_ms);
        for (name, _) in Invariants::promises() {
            let (made, broken) = (checks.get(name).copied().unwrap_or(0), broken.get(name).copied().unwrap_or(0));
            println!("  {name:<14} {made:>10} checks, {broken} seeds failed");
        }
    }

    /// The last line: `N passed, M failed`.
    pub fn end(self) -> ExitCode {
        println!("wall time {:.1} s", self.clock.monotonic().as_secs_f64());
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// The suite. Its last line is `N passed, M failed`.
pub fn suite(first: u64, seeds: u64) -> ExitCode {
    let mut tally = Tally::new();
    let twice = first..first + TWICE.min(seeds);
    tally.determinism(&all(twice.clone(), Planted::None), &all(twice, Planted::None));
    let reports = all(first..first + seeds, Planted::None);
    tally.seeds(&reports, "./dev sim", |sum, ms| {
        println!("{} seeds, {:.0} s of simulated time; {}", reports.len(), ms as f64 / 1_000.0, totals(sum));
    });

    for planted in Planted::OF_NODES {
        let found = all(first..first + PLANTED_SEEDS, planted);
        let broken: Vec<_> = found.iter().filter_map(|report| Some((report.seed, report.violation.clone()?))).collect();
        tally.count(!broken.is_empty());
        let mut by: BTreeMap<&str, u64> = BTreeMap::new();
        broken.iter().for_each(|(_, violation)| *by.entry(violation.invariant).or_default() += 1);
        let first = broken.first().map_or_else(|| "NOT FOUND".into(), |(seed, _)| format!("first by seed {seed}"));
        println!("planted {}: {first}, by {} of {PLANTED_SEEDS} seeds: {by:?}", planted.name(), broken.len());
    }

    tally.end()
}

/// Runs seeds, each on a thread and runtime of its own, as many at once as there are cores; in
/// order of seed.
fn all(seeds: std::ops::Range<u64>, planted: Planted) -> Vec<Report> {
    each(seeds, |seed| run(seed, planted, false))
}

/// Runs seeds by `run`, as [`all`] does.
pub fn each(seeds: std::ops::Range<u64>, run: impl Fn(u64) -> Report + Sync) -> Vec<Report> {
    let next = AtomicU64::new(seeds.start);
    let reports = Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let report = run(seed);
                    reports.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(report);
                }
            });
        }
    });
    let mut reports = reports.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    reports.sort_by_key(|report| report.seed);
    reports
}

fn totals(totals: &Totals) -> String {
    format!(
        "{} messages stored, {} delivered; {} power cuts, {} kills, {} planned stops; {} batches gathered, {} entries carried, {} journal files recycled",
        totals.published,
        totals.delivered,
        totals.power_cuts,
        totals.kills,
        totals.stops,
        totals.gathered,
        totals.carried,
        totals.recycled
    )
}
