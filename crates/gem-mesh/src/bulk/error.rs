//! Why a link is not there, or no longer.

use std::io;
use std::time::Duration;

use super::frame::{FrameError, VERSION};
use crate::runs::Stranger;

/// Why a link could not be made, or ended. The text goes to whoever called and to the log.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nothing says where the node listens.
    #[error("no address of it is known yet")]
    NoAddress,
    /// TCP or TLS failed; a wrong node id shows here too.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Making the link took too long.
    #[error("it did not complete the handshake within {0:?}")]
    Slow(Duration),
    /// The other side closed.
    #[error("it closed the link")]
    Closed,
    /// The other side said nothing for so long.
    #[error("it was silent for {0:?}")]
    Silent(Duration),
    /// The other side sent what it may not.
    #[error("it broke the protocol: {0}")]
    Frame(#[from] FrameError),
    /// The certificate is not of the form of libp2p's TLS spec with an ed25519 key, or the
    /// connection speaks another protocol.
    #[error("it did not prove a node's key for this protocol")]
    NoKey,
    /// The versions differ.
    #[error("it speaks version {0} of the bulk protocol, this node version {VERSION}: run the same release on both")]
    Version(u16),
    /// It belongs to another mesh.
    #[error("it belongs to another mesh: check the address that it was told to join")]
    OtherMesh,
    /// It does not know the join secret.
    #[error("it has another join secret: give both nodes the same one")]
    OtherSecret,
    /// Its disk is older than one that it ran on before: see [`crate::runs`].
    #[error("its {0}")]
    Older(Stranger),
    /// This node's disk is: the other side met a run that this node knows nothing of.
    #[error("this node's data directory is older than one that it ran on before, which the other met")]
    Outdated,
    /// It has as many links to this node as are allowed.
    #[error("it has too many links to this node")]
    TooManyLinks,
    /// The other side gave a reason.
    #[error("it ended the link: {0}")]
    Refused(String),
    /// This node is stopping.
    #[error("this node is stopping")]
    Stopping,
}

impl LinkError {
    /// What the other side is told, where it is worth telling.
    pub(super) fn farewell(&self) -> Option<String> {
        match self {
            LinkError::Frame(error) => Some(format!("you broke the protocol: {error}")),
            LinkError::Version(theirs) => {
                Some(format!("this node speaks version {VERSION} of the bulk protocol, you speak {theirs}"))
            }
            LinkError::OtherMesh => Some("you belong to another mesh".into()),
            LinkError::OtherSecret => Some("you have another join secret".into()),
            LinkError::TooManyLinks => Some("you have too many links to this node".into()),
            LinkError::Stopping => Some("the node is stopping".into()),
            _ => None,
        }
    }
}
