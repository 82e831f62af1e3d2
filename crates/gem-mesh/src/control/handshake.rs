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

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::Pin;
    use std::task::{Context, Poll, ready};
    use tokio::io::{AsyncRead as _, AsyncWrite as _, DuplexStream, ReadBuf};

    /// A pipe of tokio's, as the futures crate's traits have it.
    struct Pipe(DuplexStream);

    impl AsyncRead for Pipe {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
            let mut out = ReadBuf::new(out);
            ready!(Pin::new(&mut self.0).poll_read(cx, &mut out))?;
            Poll::Ready(Ok(out.filled().len()))
        }
    }

    impl AsyncWrite for Pipe {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    fn pipes() -> (Pipe, Pipe) {
        let (one, other) = tokio::io::duplex(4096);
        (Pipe(one), Pipe(other))
    }

    fn hello(me: u8, them: u8, secret: &Secret) -> Hello<'_> {
        let mesh = Some(MeshId([9; 16]));
        Hello { protocol: "/test", me: NodeId([me; 32]), them: NodeId([them; 32]), mesh, secret, nonce: [me; 32] }
    }

    /// What each side of a hello between these two finds.
    async fn meet(asker: &Hello<'_>, answerer: &Hello<'_>, ready: Result<(), Refusal>) -> [Option<(Refusal, bool)>; 2] {
        let (mut left, mut right) = pipes();
        let (asked, answered) = tokio::join!(
            async {
                let asked = asker.ask(&mut left).await;
                drop(left);
                asked
            },
            answerer.answer(&mut right, ready)
        );
        [asked, answered].map(|result| match result {
            Ok(()) => None,
            Err(HelloError::Refused(why)) => Some((why, true)),
            Err(HelloError::Refuses(why)) => Some((why, false)),
            Err(other) => panic!("{other}"),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn two_of_a_mesh_prove_themselves() {
        let secret = Secret::new("s");
        assert_eq!(meet(&hello(1, 2, &secret), &hello(2, 1, &secret), Ok(())).await, [None, None]);
    }

    #[tokio::test(start_paused = true)]
    async fn both_sides_learn_why_not() {
        let (secret, wrong) = (Secret::new("s"), Secret::new("t"));
        let (one, two) = (hello(1, 2, &secret), hello(2, 1, &secret));
        let (here, there) = (MeshId([9; 16]), MeshId([8; 16]));

        let met = meet(&one, &Hello { secret: &wrong, ..two }, Ok(())).await;
        assert_eq!(met, [Some((Refusal::Secret, true)), Some((Refusal::Secret, false))]);
        let met = meet(&one, &Hello { mesh: Some(there), ..two }, Ok(())).await;
        assert_eq!(met, [Some((Refusal::Mesh(there), true)), Some((Refusal::Mesh(here), false))]);
        let met = meet(&one, &two, Err(Refusal::Joining)).await;
        assert_eq!(met, [Some((Refusal::Joining, true)), Some((Refusal::Joining, false))]);
        // Who can't prove the secret is not told that there is no mesh yet.
        let met = meet(&Hello { secret: &wrong, ..one }, &two, Err(Refusal::Joining)).await;
        assert_eq!(met[0], Some((Refusal::Secret, true)));
        // A proof for one pair of nodes, or one protocol, is none for another.
        let met = meet(&one, &Hello { them: NodeId([3; 32]), ..two }, Ok(())).await;
        assert_eq!(met[1], Some((Refusal::Secret, false)));
        let met = meet(&Hello { protocol: "/other", ..one }, &two, Ok(())).await;
        assert_eq!(met[1], Some((Refusal::Secret, false)));
    }

    #[tokio::test(start_paused = true)]
    async fn other_versions_are_told_ours() {
        let secret = Secret::new("s");
        for asks in [true, false] {
            let (mut ours, mut theirs) = pipes();
            let me = hello(1, 2, &secret);
            let (result, told) = tokio::join!(
                async {
                    match asks {
                        true => me.ask(&mut ours).await,
                        false => me.answer(&mut ours, Ok(())).await,
                    }
                },
                async {
                    if asks {
                        receive(&mut theirs).await.unwrap();
                    }
                    send(&mut theirs, &Message::OtherVersion(7)).await.unwrap();
                    let told = receive(&mut theirs).await.unwrap();
                    drop(theirs);
                    told
                }
            );
            assert!(matches!(result, Err(HelloError::Refuses(Refusal::Version(7)))), "{result:?}");
            assert_eq!(told, Message::Refused(Refusal::Version(VERSION)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answerer_proves_nothing_first_and_takes_no_old_proof() {
        let secret = Secret::new("s");
        let (me, them) = (hello(1, 2, &secret), hello(2, 1, &secret));
        // Recorded: what a true node once said to the answerer.
        let old = Terms {
            protocol: "/test",
            mesh: MeshId([9; 16]),
            asker: them.me,
            answerer: me.me,
            asker_nonce: them.nonce,
            answerer_nonce: [77; 32],
        };
        let (mut ours, mut theirs) = pipes();
        let (result, told) = tokio::join!(me.answer(&mut ours, Ok(())), async {
            send(&mut theirs, &them.hello()).await.unwrap();
            let first = receive(&mut theirs).await.unwrap();
            assert!(matches!(first, Message::Hello { .. }), "{first:?}");
            send(&mut theirs, &Message::Proof(old.prove(Side::Asker, &secret))).await.unwrap();
            let told = receive(&mut theirs).await.unwrap();
            drop(theirs);
            told
        });
        assert!(matches!(result, Err(HelloError::Refuses(Refusal::Secret))), "{result:?}");
        assert_eq!(told, Message::Refused(Refusal::Secret));
    }

    #[tokio::test(start_paused = true)]
    async fn a_mirror_proves_nothing() {
        let secret = Secret::new("s");
        let (me, (mut ours, mut mirror)) = (hello(1, 2, &secret), pipes());
        let (result, ()) = tokio::join!(me.ask(&mut ours), async {
            for _ in 0..2 {
                let said = receive(&mut mirror).await.unwrap();
                send(&mut mirror, &said).await.unwrap();
            }
        });
        assert!(matches!(result, Err(HelloError::Refuses(Refusal::Secret))), "{result:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_noise_end_a_hello() {
        let secret = Secret::new("s");
        let me = hello(1, 2, &secret);
        let (mut ours, _silent) = pipes();
        let begun = tokio::time::Instant::now();
        assert!(matches!(me.answer(&mut ours, Ok(())).await, Err(HelloError::TimedOut)));
        assert!(matches!(me.ask(&mut ours).await, Err(HelloError::TimedOut)));
        assert_eq!(begun.elapsed(), HELLO_WAIT * 2);

        let (mut ours, mut noisy) = pipes();
        frame::write(&mut noisy, b"GET / HTTP/1.1").await.unwrap();
        assert!(matches!(me.answer(&mut ours, Ok(())).await, Err(HelloError::Garbled)));
        frame::write(&mut noisy, &[0; MESSAGE_BYTES_MAX + 1]).await.unwrap();
        assert!(matches!(me.answer(&mut ours, Ok(())).await, Err(HelloError::Io(_))));
    }
}
