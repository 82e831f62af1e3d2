//! What two nodes that have proved themselves tell each other before anything else: their runs.
//!
//! ```text
//! asker                answerer
//!   runs           →
//!                  ←   verdict u8 | runs      0: welcome, 1: your disk is older than one I met
//!   verdict u8     →                          the same of the answerer
//! ```
//!
//! Invariant: only a node that has proved the join secret is believed when it says that this node's
//! disk is the older one.

use bytes::{Buf, Bytes};
use futures::{AsyncRead, AsyncWrite};
use gem_types::NodeId;
use tokio::time::timeout;

use super::frame;
use super::handshake::{HELLO_WAIT, HelloError};
use super::hello::{MESSAGE_BYTES_MAX, Refusal};
use crate::runs::{RunBook, Runs, Stranger};

const WELCOME: u8 = 0;
const OLDER: u8 = 1;

/// Meets `them`, whom this node opened the stream to and said hello to.
pub(super) async fn ask<S>(stream: &mut S, them: NodeId, book: &RunBook) -> Result<(), HelloError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let asking = async {
        let mut said = Vec::new();
        book.own().encode(&mut said);
        frame::write(stream, &said).await?;
        let mut heard = hear(stream).await?;
        heed(&mut heard, them, book)?;
        let met = judge(&mut heard, them, book);
        frame::write(stream, &[verdict(&met)]).await?;
        met
    };
    timeout(HELLO_WAIT, asking).await.unwrap_or(Err(HelloError::TimedOut))
}

/// Meets `them`, who opened the stream and has said hello.
pub(super) async fn answer<S>(stream: &mut S, them: NodeId, book: &RunBook) -> Result<(), HelloError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let answering = async {
        let met = judge(&mut hear(stream).await?, them, book);
        let mut said = vec![verdict(&met)];
        book.own().encode(&mut said);
        frame::write(stream, &said).await?;
        met?;
        heed(&mut hear(stream).await?, them, book)
    };
    timeout(HELLO_WAIT, answering).await.unwrap_or(Err(HelloError::TimedOut))
}

async fn hear<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Bytes, HelloError> {
    let bytes = frame::read(stream, MESSAGE_BYTES_MAX).await?;
    Ok(bytes.ok_or(std::io::ErrorKind::UnexpectedEof).map_err(std::io::Error::from)?)
}

/// Takes what they say of this node.
fn heed(heard: &mut Bytes, them: NodeId, book: &RunBook) -> Result<(), HelloError> {
    match heard.try_get_u8() {
        Ok(WELCOME) => Ok(()),
        Ok(OLDER) => {
            book.is_outdated_says(them);
            Err(HelloError::Refused(Refusal::Older))
        }
        _ => Err(HelloError::Garbled),
    }
}

/// Says whether they are whom this node knows.
fn judge(heard: &mut Bytes, them: NodeId, book: &RunBook) -> Result<(), HelloError> {
    let runs = Runs::decode(heard).ok_or(HelloError::Garbled)?;
    book.meet(them, &runs).map_err(|why| match why {
        Stranger::Older { .. } => HelloError::Refuses(Refusal::Older),
        Stranger::Io(error) => HelloError::Io(error),
    })
}

fn verdict(met: &Result<(), HelloError>) -> u8 {
    let is_older = matches!(met, Err(HelloError::Refuses(Refusal::Older)));
    if is_older { OLDER } else { WELCOME }
}
