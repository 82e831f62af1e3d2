//! The demo's own node: a process, so that killing it is real.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

use crate::child;
use crate::exit::{Exit, Outcome};

const READY: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(20);

pub struct Node {
    data: PathBuf,
    log: PathBuf,
    pub url: String,
    address: String,
    child: Child,
}

impl Node {
    /// Starts a node on a free port of the loopback address.
    pub async fn start(dir: &Path) -> Outcome<Node> {
        let address = free_address()?;
        let data = dir.join("node");
        let log = dir.join("node.log");
        let child = launch(&data, &log, &address).await?;
        Ok(Node { data, log, url: format!("http://{address}"), address, child })
    }

    /// kill -9.
    pub async fn kill(&mut self) -> Outcome {
        Ok(self.child.kill().await?)
    }

    /// Starts it again on the same directory and port; answers how long that took.
    pub async fn restart(&mut self) -> Outcome<Duration> {
        let started = Instant::now();
        self.child = launch(&self.data, &self.log, &self.address).await?;
        Ok(started.elapsed())
    }

    /// SIGTERM; whether it ended in time with exit code 0.
    pub async fn stop(mut self) -> bool {
        if !child::terminate(&self.child) {
            return false;
        }
        matches!(timeout(STOP, self.child.wait()).await, Ok(Ok(status)) if status.success())
    }
}

#[expect(clippy::disallowed_methods, reason = "the system picks a free port, and the node takes it right after")]
fn free_address() -> Outcome<String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?.to_string())
}

async fn launch(data: &Path, log: &Path, address: &str) -> Outcome<Child> {
    let mut process = Command::new(child::this_program()?)
        .arg("start")
        .arg("--data")
        .arg(data)
        .args(["--listen", address])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(child::log_file(log)?)
        .kill_on_drop(true)
        .spawn()?;
    let stdout = process.stdout.take().ok_or_else(|| Exit::failed("demo: the node has no standard output"))?;
    let mut line = String::new();
    let ready = timeout(READY, BufReader::new(stdout).read_line(&mut line)).await;
    if matches!(ready, Ok(Ok(_))) && line.starts_with("ready ") {
        return Ok(process);
    }
    Err(Exit::failed(format!(
        "demo: the node did not come up within {} s; its log is {}",
        READY.as_secs(),
        log.display()
    )))
}
