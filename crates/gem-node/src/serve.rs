//! The socket: one port for REST, gRPC, metrics and health.
//!
//! Owns the listener and every connection's task. Each connection speaks HTTP/1.1 or HTTP/2,
//! whichever its client begins with; gRPC is told from REST by its content type. The port is open
//! from the first moment: while the node recovers it answers that it lives and is starting.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Response, header};
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::tasks::Tasks;

/// A stream's receive window: a batch of 8 MiB in flight while the one before is decoded.
const STREAM_WINDOW: u32 = 16 << 20;
/// A connection's receive window: what one client may have in flight, all its streams together.
const CONNECTION_WINDOW: u32 = 32 << 20;
/// What a stream may have written that its client has not taken.
const SEND_BUFFER: usize = 512 << 10;
/// The largest HTTP/2 frame.
const FRAME_MAX: u32 = 1 << 20;
/// Streams of one connection at a time.
const STREAMS_MAX: u32 = 1024;
/// Connections at a time: the next ones wait to be accepted.
const CONNECTIONS_MAX: usize = 16_384;
/// How long a request's head may take, and an HTTP/1.1 connection idle.
const HEAD_WAIT: Duration = Duration::from_secs(75);
/// A silent HTTP/2 peer is asked for a sign of life this often, and dropped without one.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_WAIT: Duration = Duration::from_secs(20);
/// A pause after an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A server that is listening.
#[derive(Debug)]
pub struct Server {
    /// The address that was bound.
    pub address: SocketAddr,
    serving: Arc<OnceLock<Routers>>,
    stop: CancellationToken,
    tasks: Arc<Tasks>,
}

/// The two routers behind the port.
#[derive(Clone, Debug)]
pub struct Routers {
    /// For what is not gRPC.
    pub rest: Router,
    /// For gRPC.
    pub grpc: Router,
}

/// The routers while the node starts, and those afterwards.
#[derive(Clone, Debug)]
struct Routes {
    starting: Routers,
    serving: Arc<OnceLock<Routers>>,
}

impl Service<Request<Incoming>> for Routes {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let kind = request.headers().get(header::CONTENT_TYPE);
        let is_grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        let routers = self.serving.get().unwrap_or(&self.starting);
        let router = if is_grpc { &routers.grpc } else { &routers.rest };
        Box::pin(router.clone().oneshot(request.map(Body::new)))
    }
}

impl Server {
    /// Binds `address`, and answers by `starting` until there is something to [`serve`](Self::serve).
    #[expect(clippy::disallowed_methods, reason = "this is the module that owns the sockets")]
    pub async fn bind(address: SocketAddr, starting: Routers) -> std::io::Result<Server> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (stop, tasks) = (CancellationToken::new(), Arc::new(Tasks::new()));
        let serving = Arc::new(OnceLock::new());
        let routes = Routes { starting, serving: serving.clone() };
        tasks.spawn(accept(listener, routes, stop.clone(), tasks.clone()));
        Ok(Server { address, serving, stop, tasks })
    }

    /// Answers by `routers` from now on.
    pub fn serve(&self, routers: Routers) {
        // A second call finds the first one's at work, and changes nothing.
        let _ = self.serving.set(routers);
    }

    /// Takes no more connections, lets what runs end, and cuts off what has not after `patience`.
    pub async fn stop(&self, patience: Duration) {
        self.stop.cancel();
        self.tasks.finish(patience).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(listener: TcpListener, routes: Routes, stop: CancellationToken, tasks: Arc<Tasks>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let next = async {
            // The semaphore is never closed.
            let permit = room.clone().acquire_owned().await.ok();
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let (routes, stop) = (routes.clone(), stop.clone());
                tasks.spawn(async move {
                    let _permit = permit;
                    serve(stream, routes, stop).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, routes: Routes, stop: CancellationToken) {
    // Small answers must not wait for more; where it fails, they wait a little.
    let _ = stream.set_nodelay(true);
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_WAIT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(Some(PING_EVERY))
        .keep_alive_timeout(PING_WAIT);
    let connection = builder.serve_connection(TokioIo::new(stream), routes);
    tokio::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        // Clients break off; that is theirs to know.
        tracing::debug!(%error, "a connection ended");
    }
}
