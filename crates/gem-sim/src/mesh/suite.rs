//! Many seeds of meshes: determinism, the invariants, a planted bug.

use std::collections::BTreeMap;
use std::process::ExitCode;

use gem_types::seams::{Clock, SystemClock};

use super::run::run;
use crate::invariants::Invariants;
use crate::setup::Planted;
use crate::suite::each;
use crate::world::Totals;

/// Seeds of a usual suite.
pub const SEEDS: u64 = 150;
/// Seeds that are run twice.
const TWICE: u64 = 5;
/// Seeds within which a planted bug must be found.
const PLANTED_SEEDS: u64 = 100;
/// Seeds of these that are run before it is looked whether one has.
const PLANTED_AT_ONCE: u64 = 4;

/// One seed, with all that is known of it.
pub fn one(seed: u64, planted: Planted, is_printed: bool) -> ExitCode {
    let report = run(seed, planted, is_printed);
    println!(
        "seed {seed}: {} events, trace {:016x}, {:.1} s of virtual time; {} messages stored, {} delivered",
        report.trace.1,
        report.trace.0,
        report.virtual_ms as f64 / 1_000.0,
        report.totals.published,
        report.totals.delivered
    );
    println!("  {} calls; {:?}", report.totals.calls, report.totals.faults);
    for (name, checks) in &report.checks {
        println!("  {name:<14} {checks} checks");
    }
    match report.violation {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            println!("FAILED {} at {} ms: {}", violation.invariant, violation.at_ms, violation.what);
            ExitCode::FAILURE
        }
    }
}

/// Within how many seeds from `first` on a planted bug was found, and by which invariant.
fn first_found(first: u64, planted: Planted) -> Option<(u64, &'static str)> {
    (first..first + PLANTED_SEEDS).step_by(PLANTED_AT_ONCE as usize).find_map(|begin| {
        let reports = each(begin..begin + PLANTED_AT_ONCE, |seed| run(seed, planted, false));
        let found = reports.iter().find(|report| report.violation.is_some())?;
        Some((found.seed - first + 1, found.violation.as_ref()?.invariant))
    })
}

/// The suite. Its last line is `N passed, M failed`.
pub fn suite(first: u64, seeds: u64) -> ExitCode {
    let clock = SystemClock::new();
    let (mut passed, mut failed) = (0u64, 0u64);
    let mut count = |is_good: bool| if is_good { passed += 1 } else { failed += 1 };

    let reports = each(first..first + seeds, |seed| run(seed, Planted::None, false));
    let again = each(first..first + TWICE.min(seeds), |seed| run(seed, Planted::None, false));
    for (one, other) in reports.iter().zip(&again) {
        let is_same = one.trace == other.trace;
        if !is_same {
            println!("seed {} is not deterministic: {:x?} and {:x?}", one.seed, one.trace, other.trace);
        }
        count(is_same);
    }
    println!("determinism: {} seeds run twice", again.len());
    let (mut checks, mut broken) = (BTreeMap::new(), BTreeMap::new());
    let (mut virtual_ms, mut sum) = (0, Totals::default());
    for report in &reports {
        virtual_ms += report.virtual_ms;
        sum.add(&report.totals);
        for (name, made) in &report.checks {
            *checks.entry(*name).or_insert(0) += made;
        }
        count(report.violation.is_none());
        if let Some(violation) = &report.violation {
            *broken.entry(violation.invariant).or_insert(0) += 1;
            println!(
                "FAILED seed {}: {} at {} ms: {}",
                report.seed, violation.invariant, violation.at_ms, violation.what
            );
            println!("       repeat it with: ./dev sim mesh --seed {}", report.seed);
        }
    }
    println!(
        "{} seeds, {:.2} h of simulated time; {} calls, {} messages stored, {} delivered",
        reports.len(),
        virtual_ms as f64 / 3_600_000.0,
        sum.calls,
        sum.published,
        sum.delivered
    );
    for (kind, count) in &sum.faults {
        println!("  {kind:<30} {count:>10} times");
    }
    for (name, _) in Invariants::promises() {
        let (made, broken) = (checks.get(name).copied().unwrap_or(0), broken.get(name).copied().unwrap_or(0));
        println!("  {name:<14} {made:>10} checks, {broken} seeds failed");
    }
    for planted in Planted::OF_MESHES {
        let found = first_found(first, planted);
        count(found.is_some());
        match found {
            Some((tried, by)) => println!("planted {}: found within {tried} seeds, by {by}", planted.name()),
            None => println!("planted {}: NOT FOUND by {PLANTED_SEEDS} seeds", planted.name()),
        }
    }
    println!("wall time {:.1} s", clock.monotonic().as_secs_f64());
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
