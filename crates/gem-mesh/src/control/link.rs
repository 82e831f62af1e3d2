//! The two ends of a proved stream: messages go out on one, and come in on the other.
//!
//! Invariants: a link writes only what it took from its node's queue, and no write takes longer
//! than [`SEND_WAIT`]; a message is handed up whole or not at all.

use std::io;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use bytes::BytesMut;
use futures::io::BufReader;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, FutureExt};
use gem_types::NodeId;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::frame;
use super::outbox::Outboxes;
use crate::seams::{CONTROL_BYTES_MAX, Hears};

/// How long a write may wait for a node that doesn't read.
pub(super) const SEND_WAIT: Duration = Duration::from_secs(10);
/// How long the rest of a message may take, once its length is there.
const BODY_WAIT: Duration = Duration::from_secs(30);
/// How long the other side is waited for as a stream closes.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// About how many bytes are written between two flushes.
const BATCH_BYTES: usize = 64 << 10;

/// How a link ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendEnd {
    /// All that waited is sent, and this node stops.
    #[error("this node stops")]
    Stopped,
    /// The stream is gone.
    #[error("the stream is gone: {0}")]
    Lost(io::Error),
    /// The other side has not read for [`SEND_WAIT`].
    #[error("nothing was read for {} s", SEND_WAIT.as_secs())]
    Stuck,
}

/// Sends what waits for `node` until the stream ends or `stop` is called and nothing waits.
pub(super) async fn send<S>(
    mut stream: S,
    node: NodeId,
    outboxes: &Outboxes,
    pushed: &Notify,
    stop: &CancellationToken,
) -> SendEnd
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let batch = outboxes.pop(node, BATCH_BYTES);
        if batch.is_empty() {
            if stop.is_cancelled() {
                // Whether or not the other side says so: what was written is flushed.
                let _ = timeout(CLOSE_WAIT, stream.close()).await;
                return SendEnd::Stopped;
            }
            let mut byte = [0];
            tokio::select! {
                () = pushed.notified() => {}
                () = stop.cancelled() => {}
                // Nothing is ever said in this direction: whatever comes is the end.
                read = stream.read(&mut byte) => {
                    return SendEnd::Lost(read.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()));
                }
            }
            continue;
        }
        let write = async {
            let mut out = BytesMut::with_capacity(batch.iter().map(|message| 4 + message.len()).sum());
            for message in &batch {
                frame::put(&mut out, message)?;
            }
            stream.write_all(&out).await?;
            stream.flush().await
        };
        let end = match timeout(SEND_WAIT, write).await {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => SendEnd::Lost(error),
            Err(_) => SendEnd::Stuck,
        };
        outboxes.count_dropped(batch.len() as u64);
        return end;
    }
}

/// Hands up what `node` sends until the stream ends: `Ok` where the other side closed it.
pub(super) async fn hear<S: AsyncRead + Unpin>(stream: S, node: NodeId, hears: &dyn Hears) -> io::Result<()> {
    let hearing = async {
        let mut stream = BufReader::with_capacity(16 << 10, stream);
        while let Some(length) = frame::read_length(&mut stream, CONTROL_BYTES_MAX).await? {
            let body = timeout(BODY_WAIT, frame::read_body(&mut stream, length)).await;
            let message = body.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            hears.hear(node, message);
        }
        Ok(())
    };
    // A panic above ends this stream, not the swarm.
    let panicked = |_| Err(io::Error::other("what took the message panicked"));
    AssertUnwindSafe(hearing).catch_unwind().await.unwrap_or_else(panicked)
}
