//! The two halves of a TLS connection, and the loops that move bytes through them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Buf;
use tokio::io::{AsyncBufRead, AsyncWrite, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_rustls::TlsStream;

use super::counters::{Counting, add};
use super::error::LinkError;
use super::frame::Frame;
use super::incoming::{Arrived, Incoming};
use super::outgoing::Output;

/// rustls reads some 4 KiB at a time: the buffer beneath it makes few system calls of them.
pub(super) type Tls = TlsStream<BufReader<TcpStream>>;

/// Of the buffer beneath TLS, in bytes.
const READ_BYTES: usize = 128 << 10;
/// What is gathered for one round of writing, in bytes.
pub(super) const WRITE_BYTES: usize = 256 << 10;
/// Slices that one write takes.
const SLICES_MAX: usize = 64;
/// Bytes after which a loop that always finds something to do lets the other one run.
const TURN_BYTES: usize = 512 << 10;
/// Records that one turn of the reading loop decrypts before it hands them on.
const RECORDS_MAX: usize = 16;

/// A connection before TLS.
pub(super) fn buffered(socket: TcpStream) -> io::Result<BufReader<TcpStream>> {
    socket.set_nodelay(true)?;
    Ok(BufReader::with_capacity(READ_BYTES, socket))
}

/// A mutex whose holder panicked is taken all the same: what it guards is consistent between calls.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An established connection. Reading and writing take turns under a mutex that is held for one
/// poll, never across an await; both run in one task, so it is not contended.
pub(super) struct Connection(Mutex<Tls>);

impl Connection {
    pub(super) fn new(mut stream: Tls) -> Self {
        match &mut stream {
            Tls::Client(stream) => stream.get_mut().1.set_buffer_limit(Some(2 * WRITE_BYTES)),
            Tls::Server(stream) => stream.get_mut().1.set_buffer_limit(Some(2 * WRITE_BYTES)),
        }
        Connection(Mutex::new(stream))
    }

    /// Waits for bytes, hands them to `take`; how many there were, 0 at the end.
    async fn read(&self, mut take: impl FnMut(&[u8]) -> Result<(), LinkError>) -> Result<usize, LinkError> {
        std::future::poll_fn(|context| {
            let mut stream = lock(&self.0);
            let mut all = 0;
            for _ in 0..RECORDS_MAX {
                let bytes = match Pin::new(&mut *stream).poll_fill_buf(context) {
                    Poll::Ready(bytes) => bytes?,
                    Poll::Pending if all == 0 => return Poll::Pending,
                    Poll::Pending => break,
                };
                let length = bytes.len();
                take(bytes)?;
                Pin::new(&mut *stream).consume(length);
                all += length;
                if length == 0 {
                    break;
                }
            }
            Poll::Ready(Ok(all))
        })
        .await
    }

    /// Writes all of `output`.
    async fn write(&self, output: &mut Output) -> io::Result<()> {
        std::future::poll_fn(|context| {
            let mut stream = lock(&self.0);
            while !output.slices.is_empty() {
                let written = ready!(write_some(&mut stream, output, context))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                advance(output, written);
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    async fn flush(&self) -> io::Result<()> {
        std::future::poll_fn(|context| Pin::new(&mut *lock(&self.0)).poll_flush(context)).await
    }

    /// Ends the connection; says why where that is still possible.
    pub(super) async fn end(&self, output: &mut Output, why: &LinkError) {
        // Between two frames only: in the middle of one nothing would be understood.
        if output.slices.is_empty()
            && let Some(reason) = why.farewell()
        {
            output.frame(&Frame::Refused(reason));
            output.cut();
            let _ = self.write(output).await;
        }
        let _ = std::future::poll_fn(|context| Pin::new(&mut *lock(&self.0)).poll_shutdown(context)).await;
    }
}

fn write_some(stream: &mut Tls, output: &Output, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let count = slices.iter_mut().zip(&output.slices).map(|(slot, slice)| *slot = IoSlice::new(slice)).count();
    Pin::new(stream).poll_write_vectored(context, slices.get(..count).unwrap_or_default())
}

fn advance(output: &mut Output, mut written: usize) {
    while let Some(first) = output.slices.front_mut() {
        if written < first.len() {
            first.advance(written);
            return;
        }
        written -= first.len();
        output.slices.pop_front();
    }
}

/// Reads until the connection ends, is silent for `silence`, or `handle` refuses something.
pub(super) async fn read_loop(
    connection: &Connection,
    incoming: &mut Incoming,
    silence: Duration,
    counting: &Counting,
    mut handle: impl FnMut(Arrived) -> Result<(), LinkError>,
) -> LinkError {
    let mut arrived = Vec::new();
    let alarm = tokio::time::sleep(silence);
    tokio::pin!(alarm);
    let mut heard = Instant::now();
    let mut turn = 0;
    loop {
        // The alarm is set anew only when it rings: reading costs no timer.
        let read = tokio::select! {
            biased;
            read = connection.read(|bytes| Ok(incoming.take(bytes, &mut |what| arrived.push(what))?)) => read,
            () = &mut alarm => {
                if heard + silence <= Instant::now() {
                    return LinkError::Silent(silence);
                }
                alarm.as_mut().reset(heard + silence);
                continue;
            }
        };
        heard = Instant::now();
        // What came before an end is handed on first: it may say why.
        for what in arrived.drain(..) {
            if let Err(error) = handle(what) {
                return error;
            }
        }
        match read {
            Ok(0) => return LinkError::Closed,
            Ok(bytes) => {
                add(&counting.bytes_in, bytes as u64);
                rest(&mut turn, bytes).await;
            }
            Err(error) => return error,
        }
    }
}

/// Writes what `fill` gives, whenever `wake` says that there may be something.
pub(super) async fn write_loop(
    connection: &Connection,
    output: &mut Output,
    wake: &Notify,
    counting: &Counting,
    mut fill: impl FnMut(&mut Output),
) -> LinkError {
    let mut turn = 0;
    loop {
        fill(output);
        if output.slices.is_empty() {
            // Everything that was queued has been written: one flush for all of it.
            if let Err(error) = connection.flush().await {
                return error.into();
            }
            wake.notified().await;
            continue;
        }
        add(&counting.bytes_out, output.len() as u64);
        if let Err(error) = connection.write(output).await {
            return error.into();
        }
        rest(&mut turn, output.len()).await;
        output.written();
    }
}

/// Yields when `turn` is over.
async fn rest(turn: &mut usize, bytes: usize) {
    *turn += bytes;
    if *turn >= TURN_BYTES {
        *turn = 0;
        tokio::task::yield_now().await;
    }
}
