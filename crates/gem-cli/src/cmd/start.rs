//! `gem start`.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::PathBuf;

use clap::Args;
use gem_node::node::Node;
use gem_types::config::{Config, Given, LogFormat};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::exit::{Exit, Outcome};
use crate::output;

/// The flags of a node. Their values stay text here: the configuration reads and checks them, so
/// that a flag, a variable and a line of `gem.toml` mean the same.
#[derive(Args)]
pub struct NodeArgs {
    /// The directory that holds everything the node keeps.
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// The address for clients; one off loopback needs --insecure.
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Allows an address off loopback although there is no encryption and no login yet.
    #[arg(long)]
    insecure: bool,
    /// The address for the mesh's other nodes; bulk links take the next port.
    #[arg(long, value_name = "ADDR")]
    mesh: Option<String>,
    /// The address for bulk links [default: the port after --mesh].
    #[arg(long, value_name = "ADDR")]
    mesh_bulk: Option<String>,
    /// The mesh address of a node to join through; may be repeated.
    #[arg(long, value_name = "ADDR")]
    join: Vec<String>,
    /// The file that holds the join secret; without it $GEM_SECRET holds the secret itself.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<String>,
    /// What fails together with this node: a rack, a room, an availability zone.
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// A name for people, in logs and tables.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// All the memory that the node plans with, as 2GiB or 80%.
    #[arg(long, value_name = "SIZE|PERCENT")]
    memory: Option<String>,
    /// The configuration file [default: gem.toml in the working directory, where there is one].
    #[arg(long, value_name = "FILE", env = "GEM_CONFIG")]
    config: Option<PathBuf>,
    /// The form of log lines on standard error: text or json.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

const FILE: &str = "gem.toml";
/// Consensus says much that only its authors want to read.
const LOG_FILTER: &str = "info,openraft=error";

impl NodeArgs {
    /// The effective configuration: flags, then variables, then the file, then defaults.
    pub fn resolve(&self) -> Outcome<Config> {
        let file = match &self.config {
            Some(path) => Some(std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?),
            None => match std::fs::read_to_string(FILE) {
                Ok(text) => Some(text),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => return Err(unreadable(FILE.as_ref(), &error)),
            },
        };
        let given = Given { flags: self.flags(), variables: std::env::vars_os().filter_map(unicode).collect(), file };
        Config::resolve(&given).map_err(|error| Exit::usage(error.to_string()))
    }

    fn flags(&self) -> BTreeMap<String, String> {
        let insecure = self.insecure.then(|| "true".to_owned());
        let join = (!self.join.is_empty()).then(|| self.join.join(","));
        let given = [
            ("data", &self.data),
            ("listen", &self.listen),
            ("mesh", &self.mesh),
            ("mesh-bulk", &self.mesh_bulk),
            ("join", &join),
            ("secret-file", &self.secret_file),
            ("zone", &self.zone),
            ("insecure", &insecure),
            ("name", &self.name),
            ("memory", &self.memory),
            ("log-format", &self.log_format),
        ];
        given.into_iter().filter_map(|(flag, value)| Some((flag.to_owned(), value.clone()?))).collect()
    }
}

/// A variable that is not Unicode can't be one of ours.
fn unicode((name, value): (std::ffi::OsString, std::ffi::OsString)) -> Option<(String, String)> {
    Some((name.into_string().ok()?, value.into_string().ok()?))
}

fn unreadable(path: &std::path::Path, error: &std::io::Error) -> Exit {
    Exit::usage(format!("the configuration file {} can't be read: {error}", path.display()))
}

#[derive(Args)]
pub struct StartArgs {
    #[command(flatten)]
    node: NodeArgs,
}

/// Runs a node until SIGTERM or Ctrl-C.
pub async fn run(args: StartArgs) -> Outcome {
    let config = args.node.resolve()?;
    log(config.log_format);
    for variable in config.unknown_variables() {
        tracing::warn!(%variable, "begins with GEM_ and is no key: is it misspelt?");
    }
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let node = tokio::select! {
        node = Node::start(&config) => node.map_err(|error| Exit::failed(format!("start: {error}")))?,
        // Nothing has been acknowledged yet: a start can be broken off anywhere.
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    output::line(format_args!("ready node={} http={} mesh={}", node.id(), node.url(), node.mesh_address()))?;
    let failed = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        why = node.failed() => Some(why.to_string()),
    };
    tracing::info!("stopping");
    node.shutdown().await;
    failed.map_or(Ok(()), |why| Err(Exit::failed(why)))
}

/// Log lines on standard error; `RUST_LOG` chooses what is shown.
fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG_FILTER));
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    match format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
}
