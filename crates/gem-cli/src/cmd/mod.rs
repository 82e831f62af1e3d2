//! One module a command.

pub mod bench;
pub mod config;
pub mod demo;
pub mod dev;
pub mod group;
pub mod mesh;
pub mod publish;
pub mod start;
pub mod subscribe;
pub mod topic;
pub mod version;

use std::time::Duration;

use clap::Args;
use gem_client::{Client, ClientConfig};

use crate::exit::{Exit, Outcome};

/// How long a command tries before it reports a failure.
const TIMEOUT: Duration = Duration::from_secs(15);

/// What every client command takes.
#[derive(Args, Clone, Debug)]
pub struct ClientArgs {
    /// The node's URL; a comma-separated list is failed over.
    #[arg(long, env = "GEM_URL", default_value = "http://127.0.0.1:7400", value_name = "URL")]
    pub url: String,
    /// JSON instead of text.
    #[arg(long)]
    pub json: bool,
}

impl ClientArgs {
    /// A client of the nodes named.
    pub fn client(&self) -> Outcome<Client> {
        connect(&self.url)
    }
}

/// A client with a command's patience.
pub fn connect(urls: &str) -> Outcome<Client> {
    let config = ClientConfig::new(urls).map_err(|error| Exit::usage(error.detail))?;
    let config = ClientConfig { timeout: TIMEOUT, ..config };
    Client::with_config(config).map_err(|error| Exit::usage(error.detail))
}
