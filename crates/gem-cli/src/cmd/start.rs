//! `gem start`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use gem_types::config::{Config, Given};

use crate::exit::{Exit, Outcome};

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

impl NodeArgs {
    /// The effective configuration: flags, then variables, then the file, then defaults.
    #[expect(clippy::disallowed_methods, reason = "the command line is where a node's configuration comes in")]
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
        let given = [
            ("data", &self.data),
            ("listen", &self.listen),
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
    let _config = args.node.resolve()?;
    Ok(())
}
