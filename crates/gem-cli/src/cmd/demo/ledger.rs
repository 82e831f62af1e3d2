//! The ledger that a group's consumers write: a line for each processing, in the order of processing.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

use super::events::Events;
use crate::exit::Outcome;

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
