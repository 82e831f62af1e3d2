//! The port: takes connections, and serves those that prove who they are.
//!
//! Invariants: a connection that has not said hello costs one of a bounded number of handshakes for
//! a bounded time; links are bounded in number, for each node and in all.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gem_types::NodeId;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsStream};
use tracing::{debug, error, info, warn};

use super::answering;
use super::counters::add;
use super::error::LinkError;
use super::hello::{self, Terms};
use super::shared::Shared;
use super::stream::{self, Tls, lock};
use crate::seams::Answers;

/// After a failed accept (too many open files, mostly) the listener rests.
const REST: Duration = Duration::from_millis(50);

/// How many links each node holds.
type Held = Arc<Mutex<HashMap<NodeId, usize>>>;

/// Takes links until the node stops.
pub(super) async fn listen(shared: Arc<Shared>, answers: Arc<dyn Answers>, listener: TcpListener, tls: TlsAcceptor) {
    let handshakes = Arc::new(Semaphore::new(shared.limits.handshakes));
    let held = Held::default();
    let mut links: JoinSet<()> = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shared.stopping.cancelled() => break,
            Some(ended) = links.join_next(), if !links.is_empty() => {
                if let Err(panic) = ended {
                    error!("a bulk link's task failed: {panic}");
                }
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let (socket, address) = match accepted {
            Ok(accepted) => accepted,
            Err(failed) => {
                warn!("bulk links can't be taken: {failed}");
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        let room = Arc::clone(&handshakes).try_acquire_owned();
        let Ok(handshake) = room else {
            add(&shared.counting.refused, 1);
            continue;
        };
        let (shared, answers, tls, held) = (Arc::clone(&shared), Arc::clone(&answers), tls.clone(), Arc::clone(&held));
        links.spawn(async move {
            let welcomed = welcome(&shared, &held, tls, socket).await;
            drop(handshake);
            match welcomed {
                Ok((stream, terms, holding)) => serve(&shared, &answers, stream, terms, holding).await,
                Err(why) => {
                    add(&shared.counting.refused, 1);
                    report(address, &why);
                }
            }
        });
    }
    drop(listener);
    // They watch the same token.
    while links.join_next().await.is_some() {}
}

/// A stranger's noise is not worth a warning each time; a node that means this mesh is.
fn report(address: SocketAddr, why: &LinkError) {
    match why {
        LinkError::Version(_)
        | LinkError::OtherMesh
        | LinkError::OtherSecret
        | LinkError::Older(_)
        | LinkError::Outdated
        | LinkError::TooManyLinks
        | LinkError::Refused(_) => {
            warn!(%address, "bulk link refused: {why}");
        }
        _ => debug!(%address, "bulk link not made: {why}"),
    }
}

async fn welcome<'a>(
    shared: &Shared,
    held: &'a Held,
    tls: TlsAcceptor,
    socket: TcpStream,
) -> Result<(Tls, Terms, Holding<'a>), LinkError> {
    let wait = shared.limits.hello_wait;
    let handshake = async {
        let mut stream: Tls = TlsStream::Server(tls.accept(stream::buffered(socket)?).await?);
        let from = hello::peer_of(&stream)?;
        let admit = || Holding::new(held, from, shared).ok_or(LinkError::TooManyLinks);
        match hello::as_listener(&mut stream, &shared.own, from, admit).await {
            Ok((terms, holding)) => Ok((stream, terms, holding)),
            Err(why) => {
                hello::refuse(&mut stream, &why).await;
                Err(why)
            }
        }
    };
    tokio::select! {
        () = shared.stopping.cancelled() => Err(LinkError::Stopping),
        ended = tokio::time::timeout(wait, handshake) => ended.map_err(|_| LinkError::Slow(wait))?,
    }
}

async fn serve(shared: &Shared, answers: &Arc<dyn Answers>, stream: Tls, terms: Terms, holding: Holding<'_>) {
    let from = holding.from;
    debug!(%from, "bulk link taken");
    match answering::serve(shared, answers, from, stream, terms).await {
        why @ (LinkError::Stopping | LinkError::Closed) => debug!(%from, "bulk link ended: {why}"),
        why => info!(%from, "bulk link ended: {why}"),
    }
}

/// One of a node's links, while it lives.
struct Holding<'a> {
    held: &'a Held,
    from: NodeId,
}

impl<'a> Holding<'a> {
    fn new(held: &'a Held, from: NodeId, shared: &Shared) -> Option<Self> {
        let mut all = lock(held);
        if all.values().sum::<usize>() >= shared.limits.accepted {
            return None;
        }
        let count = all.entry(from).or_default();
        if *count >= shared.limits.accepted_each {
            return None;
        }
        *count += 1;
        Some(Holding { held, from })
    }
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        let mut all = lock(self.held);
        if let Some(count) = all.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.from);
            }
        }
    }
}
