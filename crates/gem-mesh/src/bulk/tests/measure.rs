//! What a pair of nodes carries, both on this machine. Run with `--ignored --nocapture`.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio::time::Instant;

use super::world::*;
use crate::seams::{Calls, Parcel};

/// Seconds of CPU that this process has used; Linux counts them in hundredths.
fn cpu_seconds() -> f64 {
    let path = format!("/proc/{}/stat", std::process::id());
    let text = std::process::Command::new("cat").arg(path).output().unwrap().stdout;
    let text = String::from_utf8(text).unwrap();
    let fields: Vec<u64> = text.rsplit(") ").next().unwrap().split(' ').skip(11).take(2).flat_map(str::parse).collect();
    fields.iter().sum::<u64>() as f64 / 100.0
}

async fn run(name: &str, size: usize, at_once: usize, kind: u16, seconds: u64) {
    let (a, b) = pair().await;
    let content = Bytes::from(vec![5; size]);
    let cpu = cpu_seconds();
    let started = Instant::now();
    let end = started + Duration::from_secs(seconds);
    let calls = futures::stream::iter(0u64..)
        .take_while(|_| std::future::ready(Instant::now() < end))
        .map(|n| a.bulk.call(b.id, n % 8, Parcel::new(kind, content.clone()), WAIT))
        .buffer_unordered(at_once);
    let count = calls.fold(0u64, |count, answer| std::future::ready(count + u64::from(answer.is_ok()))).await;
    let took = started.elapsed().as_secs_f64();
    let cpu = cpu_seconds() - cpu;
    let gigabytes = count as f64 * size as f64 / 1e9;
    println!(
        "{name}: {:.0} calls/s, {:.2} GB/s, {:.1} us a call, {:.2} CPU s/GB, {:.1} us CPU a call",
        count as f64 / took,
        gigabytes / took,
        took / count as f64 * 1e6,
        cpu / gigabytes,
        cpu / count as f64 * 1e6,
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure() {
    run("1 KiB echo, one at a time", 1 << 10, 1, ECHO, 3).await;
    run("1 KiB echo, 256 at once", 1 << 10, 256, ECHO, 3).await;
    run("64 KiB one way, 64 at once", 64 << 10, 64, SILENT, 3).await;
    run("1 MiB one way, 16 at once", 1 << 20, 16, SILENT, 3).await;
    run("16 MiB one way, 4 at once", 16 << 20, 4, SILENT, 3).await;
    run("1 MiB echo, 16 at once", 1 << 20, 16, ECHO, 3).await;
}
