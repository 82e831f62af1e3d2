//! The nodes' processes: each with a task that owns it, and tells what becomes of it.

use std::ffi::OsString;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::places::Place;
use crate::child;
use crate::exit::{Exit, Outcome};

/// Variables that would give every node the same place, or lead it to another mesh.
const NOT_FOR_NODES: [&str; 7] =
    ["GEM_CONFIG", "GEM_JOIN", "GEM_SECRET", "GEM_SECRET_FILE", "GEM_NAME", "GEM_ZONE", "GEM_INSECURE"];

/// What has become of a node.
#[derive(Debug)]
pub enum Event {
    /// It takes traffic.
    Ready {
        number: u16,
        /// Where: `http=… mesh=… pid=…`.
        ready: String,
    },
    /// Its process has ended.
    Ended { number: u16, how: String },
}

/// What is the same for every start.
pub struct Start<'a> {
    /// Whom the others join.
    pub first: &'a Place,
    pub memory: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Run,
    Terminate,
    Kill,
}

/// All processes. Dropped, it kills them.
pub struct Nodes {
    tasks: JoinSet<()>,
    wish: watch::Sender<Wish>,
    tell: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
}

impl Nodes {
    pub fn new() -> Nodes {
        let (tell, events) = mpsc::channel(16);
        Nodes { tasks: JoinSet::new(), wish: watch::Sender::new(Wish::Run), tell, events }
    }

    /// Starts the node of `place`.
    pub fn start(&mut self, start: &Start<'_>, place: &Place) -> Outcome {
        let failed = |error| Exit::failed(format!("dev: {} can't be started: {error}", place.name()));
        let mut command = Command::new(child::this_program()?);
        command.args(arguments(start, place)).stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(child::log_file(&place.log)?).kill_on_drop(true);
        if let Some(dir) = place.data.parent() {
            command.current_dir(dir);
        }
        for variable in NOT_FOR_NODES {
            command.env_remove(variable);
        }
        let mut process = command.spawn().map_err(failed)?;
        let stdout = process.stdout.take().ok_or_else(|| Exit::failed("dev: a node has no standard output"))?;
        let lines = BufReader::new(stdout).lines();
        self.tasks.spawn(keep(place.number, process, lines, self.tell.clone(), self.wish.subscribe()));
        Ok(())
    }

    /// The next thing that happens; `None` once every process has ended and that was told.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if self.tasks.is_empty() {
                return self.events.try_recv().ok();
            }
            tokio::select! {
                biased;
                event = self.events.recv() => return event,
                _ = self.tasks.join_next() => {}
            }
        }
    }

    /// SIGTERM for all.
    pub fn terminate(&self) {
        self.wish.send_replace(Wish::Terminate);
    }

    /// SIGKILL for all.
    pub fn kill(&self) {
        self.wish.send_replace(Wish::Kill);
    }
}

fn arguments(start: &Start<'_>, place: &Place) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["start".into(), "--data".into(), place.data.clone().into()];
    let mut flag = |name: &str, value: OsString| arguments.extend([name.into(), value]);
    flag("--listen", place.listen.to_string().into());
    flag("--mesh", place.mesh.to_string().into());
    flag("--mesh-bulk", place.bulk.to_string().into());
    flag("--name", place.name().into());
    flag("--memory", start.memory.into());
    if place.number != start.first.number {
        flag("--join", start.first.mesh.to_string().into());
        flag("--secret-file", start.first.secret().into());
    }
    arguments
}

/// Owns a process until its end.
async fn keep(
    number: u16,
    mut process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    tell: mpsc::Sender<Event>,
    mut wish: watch::Receiver<Wish>,
) {
    let pid = process.id();
    let mut ready = Box::pin(ready_line(lines));
    let mut is_waiting = true;
    // A wish from before the start holds too.
    wish.mark_changed();
    let how = loop {
        tokio::select! {
            status = process.wait() => break status.map_or_else(|error| error.to_string(), |status| status.to_string()),
            line = &mut ready, if is_waiting => {
                is_waiting = false;
                if let Some(line) = line {
                    let pid = pid.map(|pid| format!(" pid={pid}")).unwrap_or_default();
                    // Whoever does not listen any more is ending.
                    let _ = tell.send(Event::Ready { number, ready: places_in(&line) + &pid }).await;
                }
            }
            changed = wish.changed() => {
                let now = *wish.borrow_and_update();
                match (changed, now) {
                    (Ok(()), Wish::Run) => {}
                    (Ok(()), Wish::Terminate) => drop(child::terminate(&process)),
                    // One that has ended already is seen above.
                    (Ok(()), Wish::Kill) | (Err(_), _) => drop(process.start_kill()),
                }
            }
        }
    };
    let _ = tell.send(Event::Ended { number, how }).await;
}

/// Waits for the line that says `ready`; `None` where the output ends without one. The rest of the
/// output has no meaning, and a node prints none.
async fn ready_line<R: AsyncRead + Unpin>(mut lines: Lines<BufReader<R>>) -> Option<String> {
    while let Ok(Some(line)) = lines.next_line().await {
        if line.starts_with("ready ") {
            return Some(line);
        }
    }
    None
}

/// The fields of a ready line that say where a node is reached.
fn places_in(line: &str) -> String {
    let is_place = |field: &&str| field.starts_with("http=") || field.starts_with("mesh=");
    line.split_whitespace().filter(is_place).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_line_tells_where() {
        let line = "ready node=12D3 http=http://127.0.0.1:7400 mesh=127.0.0.1:7401";
        assert_eq!(places_in(line), "http=http://127.0.0.1:7400 mesh=127.0.0.1:7401");
        assert_eq!(places_in("ready node=12D3 http=http://127.0.0.1:7400"), "http=http://127.0.0.1:7400");
    }

    #[test]
    fn only_the_first_node_founds() {
        let dir = tempfile::tempdir().unwrap();
        let places = super::super::places::all(dir.path(), 2, 7400).unwrap();
        let start = Start { first: &places[0], memory: "64MiB" };
        let text = |place| {
            let arguments = arguments(&start, place);
            arguments.iter().map(|a| a.to_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
        };
        assert!(!text(&places[0]).contains("--join"));
        let second = text(&places[1]);
        assert!(
            second.contains("--listen 127.0.0.1:7410 --mesh 127.0.0.1:7411 --mesh-bulk 127.0.0.1:7412"),
            "{second}"
        );
        assert!(second.contains("--join 127.0.0.1:7401 --secret-file /") && second.ends_with("node-1/join-secret"));
    }

    #[tokio::test]
    async fn output_without_a_ready_line_ends() {
        let lines = |text: &'static [u8]| BufReader::new(text).lines();
        assert_eq!(ready_line(lines(b"x\nready node=1\n")).await.unwrap(), "ready node=1");
        assert_eq!(ready_line(lines(b"x\n\xff\n")).await, None);
    }
}
