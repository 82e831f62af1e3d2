//! Many seeds of meshes: determinism, the invariants, a planted bug.

use std::process::ExitCode;

use super::run::run;
use crate::setup::Planted;
use crate::suite::{Tally, each, end_of_one};

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
    end_of_one(&report)
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
    let mut tally = Tally::new();
    let reports = each(first..first + seeds, |seed| run(seed, Planted::None, false));
    let again = each(first..first + TWICE.min(seeds), |seed| run(seed, Planted::None, false));
    tally.determinism(&reports, &again);
    tally.seeds(&reports, "./dev sim mesh", |sum, ms| {
        println!(
            "{} seeds, {:.2} h of simulated time; {} calls, {} messages stored, {} delivered",
            reports.len(),
            ms as f64 / 3_600_000.0,
            sum.calls,
            sum.published,
            sum.delivered
        );
        for (kind, count) in &sum.faults {
            println!("  {kind:<30} {count:>10} times");
        }
    });
    for planted in Planted::OF_MESHES {
        let found = first_found(first, planted);
        tally.count(found.is_some());
        match found {
            Some((tried, by)) => println!("planted {}: found within {tried} seeds, by {by}", planted.name()),
            None => println!("planted {}: NOT FOUND by {PLANTED_SEEDS} seeds", planted.name()),
        }
    }
    tally.end()
}
