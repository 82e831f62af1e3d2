//! The groups of consumer processes, and the ledgers that they write.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::child::{log_file, this_program};
use crate::exit::Outcome;

pub const TOPIC: &str = "github-events";

/// A consumer group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    pub name: &'static str,
    /// As `gem sub --mode` names it.
    pub mode: &'static str,
    /// Its consumer processes.
    pub members: usize,
}

/// Works in order by key.
pub const PROCESSORS: Group = Group { name: "processors", mode: "key", members: 3 };
/// Takes what comes, on a mesh of several nodes.
pub const ARCHIVE: Group = Group { name: "archive", mode: "shared", members: 2 };

/// One group's processes. Dropped, they are killed.
pub struct Consumers {
    dir: PathBuf,
    group: Group,
    children: Vec<Child>,
}

impl Consumers {
    /// `urls` gives each member, by its index, the nodes to talk to in the order to try them.
    pub fn start(dir: &Path, group: Group, urls: impl Fn(usize) -> String) -> Outcome<Consumers> {
        let mut consumers = Consumers { dir: dir.to_owned(), group, children: Vec::new() };
        for index in 0..group.members {
            let child = consumers.spawn(index, &urls(index))?;
            consumers.children.push(child);
        }
        Ok(consumers)
    }

    pub fn group(&self) -> Group {
        self.group
    }

    pub fn ledger(&self) -> PathBuf {
        self.dir.join(format!("ledger-{}", self.group.name))
    }

    /// What a member is called.
    pub fn name(&self, index: usize) -> String {
        format!("{}-{index}", self.group.name)
    }

    /// kill -9 for one of them.
    pub async fn kill(&mut self, index: usize) -> Outcome {
        if let Some(child) = self.children.get_mut(index) {
            child.kill().await?;
        }
        Ok(())
    }

    /// Starts those again that have ended, and answers how many.
    pub fn revive(&mut self, urls: &str) -> Outcome<usize> {
        let mut revived = 0;
        for index in 0..self.children.len() {
            // The index is within the vector's own length.
            if self.children[index].try_wait()?.is_some() {
                self.children[index] = self.spawn(index, urls)?;
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

    fn spawn(&self, index: usize, urls: &str) -> Outcome<Child> {
        let child = Command::new(this_program()?)
            .arg("demo-worker")
            .args(["--url", urls, "--topic", TOPIC])
            .args(["--group", self.group.name, "--mode", self.group.mode, "--name", &self.name(index)])
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
