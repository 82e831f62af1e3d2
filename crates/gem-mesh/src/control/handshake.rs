//! The course of a mutual hello on one stream.
//!
//! ```text
//! asker                answerer
//!   hello (nonce)  →
//!                  ←   hello (nonce)      or refused: version, mesh, busy
//!   proof          →
//!                  ←   proof              or refused: secret, joining
//! ```
//!
//! Invariants: the answerer proves nothing to an asker that has not proved itself; neither side
//! hands the stream on before it has seen the other's proof; whoever refuses says why.

use std::io;
use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use gem_types::{MeshId, NodeId};
use tokio::time::timeout;

use super::frame;
use super::hello::{MESSAGE_BYTES_MAX, Message, Nonce, Refusal, Side, Terms, VERSION};
use super::secret::Secret;

/// How long a hello may take in all.
pub(super) const HELLO_WAIT: Duration = Duration::from_secs(5);
/// How long a side that refused waits for the other to have read why.
const LINGER: Duration = Duration::from_secs(1);

/// What this side brings to a hello.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hello<'a> {
    pub(super) protocol: &'static str,
    pub(super) me: NodeId,
    /// Whom TLS has shown the other side to be.
    pub(super) them: NodeId,
    /// The mesh that both must be of; `None` where the asker has yet to learn it.
    pub(super) mesh: Option<MeshId>,
    pub(super) secret: &'a Secret,
    /// Drawn for this hello alone.
    pub(super) nonce: Nonce,
}

/// Why a hello failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum HelloError {
    #[error("it refused this node: {0}")]
    Refused(Refusal),
    #[error("this node refused it: {0}")]
    Refuses(Refusal),
    #[error("it did not finish its hello within {} s", HELLO_WAIT.as_secs())]
    TimedOut,
    #[error("it sent what is no hello")]
    Garbled,
    #[error("its stream ended during the hello: {0}")]
    Io(#[from] io::Error),
}

impl HelloError {
    /// The refusal, whichever side it came from.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        match self {
            HelloError::Refused(why) | HelloError::Refuses(why) => Some(*why),
            _ => None,
        }
    }
}

impl Hello<'_> {
    /// The side that opened the stream.
    pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: &mut S) -> Result<(), HelloError> {
        timeout(HELLO_WAIT, self.asking(stream)).await.unwrap_or(Err(HelloError::TimedOut))
    }

    /// The side that the stream was opened to. `ready`: what keeps it from taking in even a node
    /// that proves itself.
    pub(super) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        ready: Result<(), Refusal>,
    ) -> Result<(), HelloError> {
        timeout(HELLO_WAIT, self.answering(stream, ready)).await.unwrap_or(Err(HelloError::TimedOut))
    }

    async fn asking<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: &mut S) -> Result<(), HelloError> {
        send(stream, &self.hello()).await?;
        let answerer_nonce = match receive(stream).await? {
            Message::Hello { mesh, nonce } if self.is_of(mesh) => nonce,
            Message::Hello { mesh, .. } => return self.refuse(stream, Refusal::Mesh(mesh)).await,
            Message::OtherVersion(version) => return self.refuse(stream, Refusal::Version(version)).await,
            Message::Refused(why) => return Err(HelloError::Refused(why)),
            Message::Proof(_) => return Err(HelloError::Garbled),
        };
        let terms = self.terms(self.me, self.them, self.nonce, answerer_nonce);
        send(stream, &Message::Proof(terms.prove(Side::Asker, self.secret))).await?;
        match receive(stream).await? {
            Message::Proof(proof) if terms.is_proved(Side::Answerer, self.secret, &proof) => Ok(()),
            Message::Proof(_) => self.refuse(stream, Refusal::Secret).await,
            Message::Refused(why) => Err(HelloError::Refused(why)),
            _ => Err(HelloError::Garbled),
        }
    }

    async fn answering<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        ready: Result<(), Refusal>,
    ) -> Result<(), HelloError> {
        let asker_nonce = match receive(stream).await? {
            Message::Hello { mesh, nonce } if self.is_of(mesh) => nonce,
            Message::Hello { mesh, .. } => return self.refuse(stream, Refusal::Mesh(mesh)).await,
            Message::OtherVersion(version) => return self.refuse(stream, Refusal::Version(version)).await,
            Message::Refused(why) => return Err(HelloError::Refused(why)),
            Message::Proof(_) => return Err(HelloError::Garbled),
        };
        send(stream, &self.hello()).await?;
        let terms = self.terms(self.them, self.me, asker_nonce, self.nonce);
        match receive(stream).await? {
            Message::Proof(proof) if terms.is_proved(Side::Asker, self.secret, &proof) => {}
            Message::Proof(_) => return self.refuse(stream, Refusal::Secret).await,
            Message::Refused(why) => return Err(HelloError::Refused(why)),
            _ => return Err(HelloError::Garbled),
        }
        if let Err(why) = ready {
            return self.refuse(stream, why).await;
        }
        Ok(send(stream, &Message::Proof(terms.prove(Side::Answerer, self.secret))).await?)
    }

    fn hello(&self) -> Message {
        Message::Hello { mesh: self.mesh.unwrap_or_default(), nonce: self.nonce }
    }

    fn is_of(&self, mesh: MeshId) -> bool {
        self.mesh.unwrap_or_default() == mesh
    }

    fn terms(&self, asker: NodeId, answerer: NodeId, asker_nonce: Nonce, answerer_nonce: Nonce) -> Terms {
        let (protocol, mesh) = (self.protocol, self.mesh.unwrap_or_default());
        Terms { protocol, mesh, asker, answerer, asker_nonce, answerer_nonce }
    }

    /// Tells the other side, and gives it a moment to read. What it is told is about *this* side;
    /// what is returned is about the other.
    async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: &mut S, why: Refusal) -> Result<(), HelloError> {
        let told = match why {
            Refusal::Version(_) => Refusal::Version(VERSION),
            Refusal::Mesh(_) => Refusal::Mesh(self.mesh.unwrap_or_default()),
            other => other,
        };
        let tell = async {
            send(stream, &Message::Refused(told)).await?;
            stream.close().await?;
            while stream.read(&mut [0; 64]).await? > 0 {}
            io::Result::Ok(())
        };
        // It is refused whether or not it hears why.
        let _ = timeout(LINGER, tell).await;
        Err(HelloError::Refuses(why))
    }
}

/// Turns a stream away that there is no room for.
pub(super) async fn refuse_busy<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    let told = async {
        send(stream, &Message::Refused(Refusal::Busy)).await?;
        stream.close().await
    };
    let _ = timeout(LINGER, told).await;
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, message: &Message) -> io::Result<()> {
    frame::write(stream, &message.encode()).await
}

async fn receive<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Message, HelloError> {
    let bytes = frame::read(stream, MESSAGE_BYTES_MAX).await?.ok_or(io::ErrorKind::UnexpectedEof);
    Message::decode(bytes.map_err(io::Error::from)?).ok_or(HelloError::Garbled)
}
