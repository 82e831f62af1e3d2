//! A node of the demo: a process of its own, so that killing it is real.

use std::net::{SocketAddr, TcpListener};
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
/// Small, since several nodes share one machine.
const MEMORY: &str = "512MiB";
/// A person's patience with a demo is shorter than a mesh's with a machine that restarts.
const REPLACE_AFTER: &str = "5s";
/// Between the choice of a free port and the node's use of it another program may take it.
const STARTS_MAX: u32 = 3;

/// How a newcomer gets into the mesh.
#[derive(Clone, Debug)]
pub struct Invitation {
    /// A member's mesh address.
    through: String,
    secret: PathBuf,
}

/// Where a node is.
#[derive(Clone, Debug)]
struct Place {
    name: String,
    data: PathBuf,
    log: PathBuf,
    listen: SocketAddr,
    mesh: SocketAddr,
    bulk: SocketAddr,
    invitation: Option<Invitation>,
}

/// A node that was started; dropped, it is killed.
pub struct Node {
    place: Place,
    /// Its id in the mesh.
    pub id: String,
    pub url: String,
    child: Child,
}

impl Node {
    /// Starts node `number` on free ports of the loopback address: without an invitation it founds a
    /// mesh, with one it joins.
    pub async fn start(dir: PathBuf, number: usize, invitation: Option<Invitation>) -> Outcome<Node> {
        let name = format!("n{number}");
        let (data, log) = (dir.join(&name), dir.join(format!("{name}.log")));
        let mut starts = 1;
        loop {
            let [listen, mesh, bulk] = free_addresses()?;
            let (name, data, log, invitation) = (name.clone(), data.clone(), log.clone(), invitation.clone());
            let place = Place { name, data, log, listen, mesh, bulk, invitation };
            match launch(&place).await {
                Ok((child, id)) => return Ok(Node { url: format!("http://{listen}"), id, child, place }),
                Err(error) if starts == STARTS_MAX => return Err(error),
                Err(_) => starts += 1,
            }
        }
    }

    pub fn name(&self) -> &str {
        &self.place.name
    }

    /// Lets others in through this node; `secret` is what the founder wrote.
    pub fn invitation(&self, secret: &Path) -> Invitation {
        Invitation { through: self.place.mesh.to_string(), secret: secret.to_owned() }
    }

    /// Where this node, as the founder, keeps the secret that others join with.
    pub fn secret(&self) -> PathBuf {
        self.place.data.join("join-secret")
    }

    /// kill -9.
    pub async fn kill(&mut self) -> Outcome {
        Ok(self.child.kill().await?)
    }

    /// Starts it again on the same directory and ports; answers how long that took.
    pub async fn restart(&mut self) -> Outcome<Duration> {
        let started = Instant::now();
        (self.child, self.id) = launch(&self.place).await?;
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

/// Three at once, so that they differ.
#[expect(clippy::disallowed_methods, reason = "the system picks free ports, and the node takes them right after")]
fn free_addresses() -> Outcome<[SocketAddr; 3]> {
    let listeners =
        [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
    let [listen, mesh, bulk] = &listeners;
    Ok([listen.local_addr()?, mesh.local_addr()?, bulk.local_addr()?])
}

/// The process and the node's id, once it takes traffic.
async fn launch(place: &Place) -> Outcome<(Child, String)> {
    let mut command = Command::new(child::this_program()?);
    command.arg("start").arg("--data").arg(&place.data);
    command.args(["--listen", &place.listen.to_string(), "--mesh", &place.mesh.to_string()]);
    command.args(["--mesh-bulk", &place.bulk.to_string(), "--name", &place.name, "--memory", MEMORY]);
    if let Some(invitation) = &place.invitation {
        command.args(["--join", &invitation.through, "--secret-file"]).arg(&invitation.secret);
    }
    for variable in child::NOT_FOR_NODES {
        command.env_remove(variable);
    }
    command.env("GEM_REPLACE_AFTER", REPLACE_AFTER);
    // A gem.toml where the demo was called is for that node, not for these.
    if let Some(dir) = place.log.parent() {
        command.current_dir(dir);
    }
    let output = child::log_file(&place.log)?;
    let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(output).kill_on_drop(true).spawn()?;
    let stdout = process.stdout.take().ok_or_else(|| Exit::failed("demo: the node has no standard output"))?;
    let mut line = String::new();
    let read = timeout(READY, BufReader::new(stdout).read_line(&mut line)).await;
    if matches!(read, Ok(Ok(_)))
        && let Some(id) = line.strip_prefix("ready node=").and_then(|rest| rest.split_whitespace().next())
    {
        return Ok((process, id.to_owned()));
    }
    Err(Exit::failed(format!(
        "demo: node {} did not come up within {} s; its log is {}",
        place.name,
        READY.as_secs(),
        place.log.display()
    )))
}
