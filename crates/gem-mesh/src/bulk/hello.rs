//! The hello: what both sides say before anything else.
//!
//! TLS has proved the nodes' keys; the hello proves that both belong to the same mesh and know its
//! join secret. The proof is HMAC-SHA256 (RFC 2104) under the secret over a label, the mesh, both
//! node ids and keying material exported from this very TLS connection (RFC 8446, section 7.5), so
//! it is worth nothing on another. Who dialled proves first: a stranger who connects learns nothing
//! that a secret could be guessed from. With it each tells its runs, so that a node whose disk was
//! set back is turned away ([`crate::runs`]).

use std::sync::Arc;

use gem_types::{MeshId, NodeId};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use bytes::BytesMut;

use super::error::LinkError;
use super::frame::{self, Frame, FrameError, HELLO_BYTES_MAX, Hello, VERSION};
use super::stream::Tls;
use super::tls;
use crate::runs::{RunBook, Stranger};

const EXPORT_LABEL: &[u8] = b"EXPORTER-gem-bulk-hello";
const DIALLER: &[u8] = b"gem bulk hello 1, who dialled";
const LISTENER: &[u8] = b"gem bulk hello 1, who listened";

/// What a node says of itself.
#[derive(Clone)]
pub(super) struct Introduction {
    pub(super) node: NodeId,
    pub(super) mesh: MeshId,
    pub(super) secret: Vec<u8>,
    pub(super) window: u64,
    pub(super) calls: u32,
    pub(super) runs: Arc<RunBook>,
}

/// What the other side takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) window: u64,
    pub(super) calls: usize,
}

/// The node at the other end, by its certificate.
pub(super) fn peer_of(stream: &Tls) -> Result<NodeId, LinkError> {
    let (_, connection) = stream.get_ref();
    if connection.alpn_protocol() != Some(tls::ALPN) {
        return Err(LinkError::NoKey);
    }
    connection.peer_certificates().and_then(|chain| chain.first()).and_then(tls::node_of).ok_or(LinkError::NoKey)
}

/// Says hello to `peer`, whom this node dialled.
pub(super) async fn as_dialler(stream: &mut Tls, own: &Introduction, peer: NodeId) -> Result<Terms, LinkError> {
    let keys = exported(stream)?;
    say(stream, own, false, proof(own, DIALLER, own.node, peer, &keys)).await?;
    let theirs = hear(stream).await?;
    let terms = check(own, &theirs, proof(own, LISTENER, own.node, peer, &keys))?;
    if theirs.is_older {
        own.runs.is_outdated_says(peer);
        return Err(LinkError::Outdated);
    }
    own.runs.meet(peer, &theirs.runs).map_err(LinkError::Older)?;
    Ok(terms)
}

/// Says hello to `peer`, who dialled this node, if `admit` lets it in.
pub(super) async fn as_listener<T>(
    stream: &mut Tls,
    own: &Introduction,
    peer: NodeId,
    admit: impl FnOnce() -> Result<T, LinkError>,
) -> Result<(Terms, T), LinkError> {
    let keys = exported(stream)?;
    let theirs = hear(stream).await?;
    let terms = check(own, &theirs, proof(own, DIALLER, peer, own.node, &keys))?;
    let admitted = admit()?;
    let met = own.runs.meet(peer, &theirs.runs);
    let is_older = matches!(met, Err(Stranger::Older { .. }));
    say(stream, own, is_older, proof(own, LISTENER, peer, own.node, &keys)).await?;
    met.map_err(LinkError::Older)?;
    Ok((terms, admitted))
}

/// Tells the other side why the link ends. It may have gone: nothing depends on it.
pub(super) async fn refuse(stream: &mut Tls, reason: &LinkError) {
    if let Some(reason) = reason.farewell() {
        let _ = send(stream, &Frame::Refused(reason)).await;
        let _ = stream.shutdown().await;
    }
}

fn exported(stream: &Tls) -> Result<[u8; 32], LinkError> {
    let keys = match stream {
        Tls::Client(stream) => stream.get_ref().1.export_keying_material([0; 32], EXPORT_LABEL, None),
        Tls::Server(stream) => stream.get_ref().1.export_keying_material([0; 32], EXPORT_LABEL, None),
    };
    keys.map_err(|error| LinkError::Io(std::io::Error::other(error)))
}

/// All parts but the label have a fixed length, so that no two inputs join to the same bytes.
fn proof(own: &Introduction, label: &[u8], dialler: NodeId, listener: NodeId, keys: &[u8; 32]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&own.secret).expect("HMAC takes keys of any length");
    mac.update(label);
    mac.update(&own.mesh.0);
    mac.update(&dialler.0);
    mac.update(&listener.0);
    mac.update(keys);
    mac
}

fn check(own: &Introduction, theirs: &Hello, expected: Hmac<Sha256>) -> Result<Terms, LinkError> {
    if theirs.version != VERSION {
        return Err(LinkError::Version(theirs.version));
    }
    if theirs.mesh != own.mesh {
        return Err(LinkError::OtherMesh);
    }
    // Compares in constant time.
    expected.verify_slice(&theirs.proof).map_err(|_| LinkError::OtherSecret)?;
    Ok(Terms { window: theirs.window, calls: theirs.calls as usize })
}

async fn say(stream: &mut Tls, own: &Introduction, is_older: bool, proof: Hmac<Sha256>) -> Result<(), LinkError> {
    let hello = Hello {
        version: VERSION,
        mesh: own.mesh,
        window: own.window,
        calls: own.calls,
        proof: proof.finalize().into_bytes().into(),
        is_older,
        runs: own.runs.own().clone(),
    };
    send(stream, &Frame::Hello(hello)).await
}

async fn send(stream: &mut Tls, frame: &Frame) -> Result<(), LinkError> {
    let mut bytes = BytesMut::new();
    frame.encode(&mut bytes);
    stream.write_all(&bytes).await?;
    stream.flush().await?;
    Ok(())
}

async fn hear(stream: &mut Tls) -> Result<Hello, LinkError> {
    let mut bytes = Vec::new();
    loop {
        match frame::decode(&bytes, HELLO_BYTES_MAX)? {
            Some((Frame::Hello(hello), _)) => return Ok(hello),
            Some((Frame::Refused(reason), _)) => return Err(LinkError::Refused(reason)),
            Some(_) => return Err(FrameError::Order("a frame before the hello").into()),
            None => {}
        }
        // At most the hello: what follows it is for the link.
        let missing = frame::needed(&bytes, HELLO_BYTES_MAX)?.saturating_sub(bytes.len());
        let read = (&mut *stream).take(missing as u64).read_to_end(&mut bytes).await?;
        if read < missing {
            return Err(LinkError::Closed);
        }
    }
}

/// The proof that `own` gives to `listener` on `stream`, for tests that replay it.
#[cfg(test)]
pub(super) fn recorded_proof(
    stream: &tokio_rustls::client::TlsStream<tokio::net::TcpStream>,
    own: &Introduction,
    listener: NodeId,
) -> [u8; 32] {
    let keys = stream.get_ref().1.export_keying_material([0; 32], EXPORT_LABEL, None).unwrap();
    proof(own, DIALLER, own.node, listener, &keys).finalize().into_bytes().into()
}
