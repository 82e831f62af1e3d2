//! The group of consumer processes, and the ledger that they write.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::{Child, Command};

use super::events::Events;
use crate::child::{log_file, this_program};
use crate::exit::Outcome;

pub const TOPIC: &str = "github-events";
pub const GROUP: &str = "processors";
pub const COUNT: usize = 3;

pub struct Consumers {
    dir: PathBuf,
    url: String,
    children: Vec<Child>,
}

impl Consumers {
    pub fn start(dir: &Path, url: &str) -> Outcome<Consumers> {
        let mut consumers = Consumers { dir: dir.to_owned(), url: url.to_owned(), children: Vec::new() };
        for index in 0..COUNT {
            let child = consumers.spawn(index)?;
            consumers.children.push(child);
        }
        Ok(consumers)
    }

    pub fn ledger(&self) -> PathBuf {
        self.dir.join("ledger")
    }

    /// kill -9 for one of them.
    pub async fn kill(&mut self, index: usize) -> Outcome {
        if let Some(child) = self.children.get_mut(index) {
            child.kill().await?;
        }
        Ok(())
    }

    /// Starts those again that have ended, and answers how many.
    pub fn revive(&mut self) -> Outcome<usize> {
        let mut revived = 0;
        for index in 0..self.children.len() {
            // The index is within the vector's own length.
            if self.children[index].try_wait()?.is_some() {
                self.children[index] = self.spawn(index)?;
                revived += 1;
            }
        }
        Ok(revived)
    }

    pub async fn stop(mut self) {
        for child in &mut self.children {
            // One that has ended by itself needs no ending.
            let _ = child.kill().await;
        }
    }

    fn spawn(&self, index: usize) -> Outcome<Child> {
        let child = Command::new(this_program()?)
            .arg("demo-worker")
            .args(["--url", &self.url, "--topic", TOPIC, "--group", GROUP])
            .args(["--name", &format!("consumer-{index}")])
            .arg("--ledger")
            .arg(self.ledger())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log_file(&self.dir.join("consumers.log"))?)
            .kill_on_drop(true)
            .spawn()?;
        Ok(child)
    }
}

/// A line of the ledger: one processing of one event.
#[derive(Clone, Copy, Debug)]
pub struct Processing {
    /// The event's index.
    pub event: u32,
    pub at_us: u64,
}

/// Follows the ledger as it grows.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    read: u64,
    partial: String,
    /// In the order of processing.
    pub lines: Vec<Processing>,
    /// Lines that are no event of this run.
    pub strange: u64,
    seen: Vec<bool>,
    /// Distinct events processed.
    pub distinct: u64,
}

impl Ledger {
    pub fn new(path: PathBuf, events: &Events) -> Ledger {
        let seen = vec![false; events.all.len()];
        Ledger { path, read: 0, partial: String::new(), lines: Vec::new(), strange: 0, seen, distinct: 0 }
    }

    /// Reads what was written since the last call.
    #[expect(clippy::disallowed_methods, reason = "the ledger is the demo's own file")]
    pub fn follow(&mut self, events: &Events) -> Outcome {
        let mut file = match std::fs::File::open(&self.path) {
            Ok(file) => file,
            // No consumer has started yet.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        file.seek(SeekFrom::Start(self.read))?;
        let mut text = std::mem::take(&mut self.partial);
        self.read += file.read_to_string(&mut text)? as u64;
        let complete = text.rfind('\n').map_or(0, |end| end + 1);
        self.partial = text.split_off(complete);
        for line in text.lines() {
            self.take(line, events);
        }
        Ok(())
    }

    fn take(&mut self, line: &str, events: &Events) {
        let mut fields = line.split('\t');
        let event = fields.next().and_then(|id| events.find(id));
        let at_us = fields.nth(1).and_then(|time| time.parse().ok());
        let (Some(event), Some(at_us)) = (event, at_us) else {
            self.strange += 1;
            return;
        };
        self.lines.push(Processing { event: event.index, at_us });
        if let Some(seen) = self.seen.get_mut(event.index as usize)
            && !std::mem::replace(seen, true)
        {
            self.distinct += 1;
        }
    }
}
