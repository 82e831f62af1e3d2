//! The nodes a client knows, and which of them it talks to now.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gem_types::{Error, Result};
use tonic::transport::{Channel, Endpoint};

use crate::config::ClientConfig;

// Wide windows and frames: with the defaults, flow control and framing take a third of the throughput.
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
const FRAME_BYTES: u32 = 1 << 20;
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// All nodes' channels. A channel connects when it is first used and again when it broke.
#[derive(Debug)]
pub(crate) struct Endpoints {
    nodes: Vec<Node>,
    current: AtomicUsize,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) index: usize,
    pub(crate) url: String,
    pub(crate) channel: Channel,
}

impl Endpoints {
    pub(crate) fn new(config: &ClientConfig) -> Result<Self> {
        let node = |(index, url): (usize, &String)| {
            let endpoint = Endpoint::from_shared(url.clone())
                .map_err(|error| Error::invalid(format!("{url:?} is not a URL ({error}): write http://host:port")))?
                .connect_timeout(config.connect_timeout)
                .tcp_nodelay(true)
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .max_frame_size(FRAME_BYTES)
                .http2_keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
            Ok(Node { index, url: url.clone(), channel: endpoint.connect_lazy() })
        };
        let nodes = config.urls.iter().enumerate().map(node).collect::<Result<Vec<_>>>()?;
        if nodes.is_empty() {
            return Err(Error::invalid("no URL is given: name at least one node, as http://127.0.0.1:7400"));
        }
        Ok(Endpoints { nodes, current: AtomicUsize::new(0) })
    }

    /// How many nodes there are; at least one.
    pub(crate) fn count(&self) -> usize {
        self.nodes.len()
    }

    /// The node to talk to now.
    pub(crate) fn pick(&self) -> Node {
        let index = self.current.load(Ordering::Relaxed) % self.nodes.len();
        // The remainder is below the length, and there is at least one node.
        self.nodes[index].clone()
    }

    /// `node` failed: whoever saw it first moves everybody on to the next one.
    pub(crate) fn moved(&self, node: &Node) {
        let next = (node.index + 1) % self.nodes.len();
        // A lost race means that another call has moved on already.
        let _ = self.current.compare_exchange(node.index, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}
