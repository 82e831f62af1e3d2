//! A link that this node dials: when it is wanted, and again when it ended and is wanted.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::{TlsConnector, TlsStream};
use tracing::{debug, info, warn};

use super::backoff::Backoff;
use super::calling::Calling;
use super::counters::{Gauge, add};
use super::error::LinkError;
use super::hello::{self, Terms};
use super::incoming::{Incoming, Side};
use super::outgoing::Output;
use super::shared::Shared;
use super::stream::{self, Connection, Tls};

/// Closes what nobody serves any more, however its task ended.
struct Closing<'a>(&'a Calling);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close(&LinkError::Stopping);
    }
}

/// Keeps `calling` served until the node stops, or nobody has wanted it for long.
pub(super) async fn keep(shared: Arc<Shared>, calling: Arc<Calling>) {
    let _closing = Closing(&calling);
    let mut backoff = Backoff::new(shared.limits.backoff);
    let mut not_before = Instant::now();
    loop {
        let next = tokio::select! {
            () = shared.stopping.cancelled() => Next::Stop,
            next = wanted(&calling, not_before, shared.limits.forget_after) => next,
        };
        match next {
            Next::Dial => {}
            Next::Forget if calling.close_if_idle() => return,
            Next::Forget => continue,
            Next::Stop => return,
        }
        let dialled = tokio::select! {
            () = shared.stopping.cancelled() => Err(LinkError::Stopping),
            dialled = dial(&shared, &calling) => dialled,
        };
        match dialled {
            Ok((stream, terms)) => {
                backoff.succeeded();
                debug!(to = %calling.to, "bulk link stands");
                let why = serve(&shared, &calling, stream, terms).await;
                match why {
                    LinkError::Stopping => debug!(to = %calling.to, "bulk link ended: {why}"),
                    _ => info!(to = %calling.to, "bulk link ended: {why}"),
                }
                calling.disconnected(&why);
            }
            Err(why) => {
                add(&shared.counting.dials_failed, 1);
                match why {
                    // These don't mend by themselves.
                    LinkError::Version(_)
                    | LinkError::OtherMesh
                    | LinkError::OtherSecret
                    | LinkError::Older(_)
                    | LinkError::Outdated
                    | LinkError::Refused(_) => {
                        warn!(to = %calling.to, "bulk link refused: {why}");
                    }
                    _ => debug!(to = %calling.to, "bulk link not made: {why}"),
                }
                calling.not_connected(&why);
            }
        }
        not_before = Instant::now() + backoff.failed(&*shared.random);
    }
}

enum Next {
    Dial,
    Forget,
    Stop,
}

/// Waits until a call wants the link, and the backoff is over.
async fn wanted(calling: &Calling, not_before: Instant, forget_after: Duration) -> Next {
    let wish = async {
        while !calling.is_wanted() {
            calling.wake.notified().await;
        }
    };
    match tokio::time::timeout(forget_after, wish).await {
        Ok(()) => {
            tokio::time::sleep_until(not_before).await;
            Next::Dial
        }
        Err(_) => Next::Forget,
    }
}

/// Makes the connection and says hello.
async fn dial(shared: &Shared, calling: &Calling) -> Result<(Tls, Terms), LinkError> {
    let wait = shared.limits.hello_wait;
    tokio::time::timeout(wait, connect(shared, calling)).await.map_err(|_| LinkError::Slow(wait))?
}

#[expect(clippy::disallowed_methods, reason = "bulk links own sockets: the simulator replaces the whole plane")]
async fn connect(shared: &Shared, calling: &Calling) -> Result<(Tls, Terms), LinkError> {
    let address = shared.addresses.bulk_address(calling.to).ok_or(LinkError::NoAddress)?;
    let config = shared.credentials.dial(calling.to).map_err(std::io::Error::other)?;
    let socket: BufReader<TcpStream> = stream::buffered(TcpStream::connect(address).await?)?;
    let name = ServerName::from(address.ip());
    let mut stream: Tls = TlsStream::Client(TlsConnector::from(config).connect(name, socket).await?);
    // The verifier let only this node pass; what TLS negotiated is checked too.
    let peer = hello::peer_of(&stream)?;
    match hello::as_dialler(&mut stream, &shared.own, peer).await {
        Ok(terms) => Ok((stream, terms)),
        Err(why) => {
            hello::refuse(&mut stream, &why).await;
            Err(why)
        }
    }
}

/// Moves bytes both ways until the link ends.
async fn serve(shared: &Shared, calling: &Arc<Calling>, stream: Tls, terms: Terms) -> LinkError {
    let limits = &shared.limits;
    let counting = &shared.counting;
    let _standing = Gauge::new(&counting.links_dialled);
    let granted = calling.connected(terms, limits.calls);
    // Answers to calls that were given up may be under way beside those to open ones.
    let mut incoming = Incoming::new(Side::Calling, limits.window_bytes, 2 * limits.calls, granted);
    let connection = Connection::new(stream);
    let mut output = Output::default();
    let why = tokio::select! {
        () = shared.stopping.cancelled() => LinkError::Stopping,
        why = stream::read_loop(&connection, &mut incoming, limits.silence_max, counting, |what| {
            calling.arrived(what)
        }) => why,
        why = stream::write_loop(&connection, &mut output, &calling.wake, counting, |output| calling.fill(output)) => why,
        why = pings(calling, limits.ping_every) => why,
    };
    let _ = tokio::time::timeout(Duration::from_millis(200), connection.end(&mut output, &why)).await;
    why
}

async fn pings(calling: &Calling, every: Duration) -> LinkError {
    let mut number = 0;
    loop {
        tokio::time::sleep(every).await;
        number += 1;
        calling.ping(number);
    }
}
