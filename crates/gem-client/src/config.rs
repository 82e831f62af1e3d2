//! How a client behaves.

use std::time::Duration;

use gem_types::{Error, Result};

/// Where the mesh is and how long to try. Defaults suit most programs.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The nodes' URLs, tried in this order; at least one.
    pub urls: Vec<String>,
    /// How long a call, its retries included, may take; also how long a subscription goes on
    /// trying to come back before it reports the failure. 30 s.
    pub timeout: Duration,
    /// How long one attempt may take before another node is tried. 10 s.
    pub attempt_timeout: Duration,
    /// How long one connection attempt may take. 2 s.
    pub connect_timeout: Duration,
}

impl ClientConfig {
    /// The defaults for a comma-separated list of URLs. A URL without a scheme is taken as `http://`.
    pub fn new(urls: &str) -> Result<Self> {
        let urls: Vec<String> = urls
            .split(',')
            .map(str::trim)
            .filter(|url| !url.is_empty())
            .map(|url| if url.contains("://") { url.to_owned() } else { format!("http://{url}") })
            .collect();
        if urls.is_empty() {
            return Err(Error::invalid("no URL is given: name at least one node, as http://127.0.0.1:7400"));
        }
        Ok(ClientConfig {
            urls,
            timeout: Duration::from_secs(30),
            attempt_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(2),
        })
    }
}
