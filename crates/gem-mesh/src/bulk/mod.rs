//! Links for what is large: TCP under TLS, with the node's own key.
//!
//! What it is: [`Bulk`], a node's links to others. A node dials a few to each node that it calls,
//! when it first calls it; calls go out on those, and come in on those that others dialled. So each
//! direction of a connection carries parcels of one sort, and neither waits for the other.
//!
//! What it is not: it knows no member list (it asks [`Addresses`]) and no meaning of a call (it
//! asks [`Answers`]); it repeats no call.
//!
//! Invariants:
//! - Nothing of a peer is believed before TLS has proved its key and the hello its mesh and secret,
//!   and nothing of one whose disk is older than one that was met.
//! - Calls of one lane to one node go over the same link, and are handed over there in the order in
//!   which they were made.
//! - A peer bounds what it is sent: by window in bytes, by calls in number. A peer that does not
//!   keep to it is cut off.
//! - Payload is copied once on its way in, and not at all on its way out.
//! - Every call ends by its deadline, every task with [`Bulk`].

mod answering;
mod backoff;
mod calling;
mod config;
mod counters;
mod dialling;
mod error;
pub mod frame;
mod hello;
mod incoming;
mod listening;
mod outgoing;
mod pool;
mod shared;
mod stream;
mod tls;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use gem_types::NodeId;
use gem_types::seams::Random;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

pub use config::{BulkConfig, BulkLimits};
pub use counters::BulkCounters;
pub use error::LinkError;

use crate::seams::{Answers, CallError, Calls, Parcel};
use counters::Counting;
use hello::Introduction;
use pool::Pool;
use shared::Shared;
use stream::lock;
use tls::Credentials;

/// Where nodes are.
pub trait Addresses: Send + Sync + 'static {
    /// Where `node` takes bulk links, as far as it is known. Must not wait.
    fn bulk_address(&self, node: NodeId) -> Option<SocketAddr>;
}

/// A node's bulk links. Cheap to clone; the last clone ends all links and tasks.
#[derive(Clone)]
pub struct Bulk {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    pool: Arc<Pool>,
    listener: Mutex<JoinSet<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.stopping.cancel();
    }
}

impl Bulk {
    /// Listens, and is ready to call. Must run in a tokio runtime, which all its tasks run in.
    /// Tells the address that it listens on.
    ///
    /// # Errors
    /// The address can't be bound, no certificate be made, or the join secret is empty: everybody
    /// would know it.
    #[expect(clippy::disallowed_methods, reason = "bulk links own sockets: the simulator replaces the whole plane")]
    pub async fn bind(
        config: BulkConfig,
        addresses: Arc<dyn Addresses>,
        answers: Arc<dyn Answers>,
        random: Arc<dyn Random>,
    ) -> io::Result<(Bulk, SocketAddr)> {
        if config.secret.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the join secret is empty: give the mesh one"));
        }
        let limits = config.limits.clone().usable();
        let credentials = Credentials::new(&config.key).map_err(io::Error::other)?;
        let tls = TlsAcceptor::from(credentials.listen().map_err(io::Error::other)?);
        let listener = TcpListener::bind(config.listen).await?;
        let address = listener.local_addr()?;
        let own = Introduction {
            node: config.node(),
            mesh: config.mesh,
            secret: config.secret,
            window: limits.window_bytes,
            calls: limits.calls as u32,
            runs: config.runs,
        };
        let shared = Arc::new(Shared {
            own,
            limits,
            credentials,
            addresses,
            random,
            counting: Counting::default(),
            stopping: CancellationToken::new(),
        });
        let mut listening = JoinSet::new();
        listening.spawn(listening::listen(Arc::clone(&shared), answers, listener, tls));
        let pool = Arc::new(Pool::new(tokio::runtime::Handle::current()));
        Ok((Bulk { inner: Arc::new(Inner { shared, pool, listener: Mutex::new(listening) }) }, address))
    }

    /// What the links have done.
    pub fn counters(&self) -> BulkCounters {
        self.inner.shared.counting.snapshot()
    }

    /// Ends all links and tasks: calls that were sent end as lost, those that wait as unreachable,
    /// and later ones are refused. After `wait`, what has not ended by itself is cut off.
    pub async fn stop(&self, wait: Duration) {
        self.inner.shared.stopping.cancel();
        let mut listener = std::mem::take(&mut *lock(&self.inner.listener));
        let mut links = self.inner.pool.close();
        let all = async {
            while listener.join_next().await.is_some() {}
            while links.join_next().await.is_some() {}
        };
        // Dropping the sets aborts what is left.
        let _ = tokio::time::timeout(wait, all).await;
    }
}

impl Calls for Bulk {
    fn call(
        &self,
        to: NodeId,
        lane: u64,
        request: Parcel,
        wait: Duration,
    ) -> BoxFuture<'static, Result<Parcel, CallError>> {
        // Added here and not when the future is polled: that is what keeps a lane in order.
        let shared = Arc::clone(&self.inner.shared);
        counters::add(&shared.counting.calls, 1);
        let added = self.inner.pool.add(&shared, to, lane, request, wait);
        Box::pin(async move {
            let outcome = match added {
                Ok(waiting) => waiting.answer().await,
                Err(refused) => Err(refused),
            };
            if outcome.is_err() {
                counters::add(&shared.counting.calls_failed, 1);
            }
            outcome
        })
    }
}
