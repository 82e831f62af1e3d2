//! The two ways to another node, as traits: the real planes implement them over sockets, the
//! simulator over its own network.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use gem_types::NodeId;

/// The largest control message, in bytes.
pub const CONTROL_BYTES_MAX: usize = 64 << 10;
/// The most bytes of one parcel, all parts together.
pub const PARCEL_BYTES_MAX: usize = 64 << 20;
/// The most parts of one parcel.
pub const PARCEL_PARTS_MAX: usize = 65_536;

/// The control plane: small messages that may be lost, doubled or overtaken.
pub trait Control: Send + Sync + 'static {
    /// Sends `message` to `to`, if it can. Never waits: where the way is full, the message is
    /// dropped. At most [`CONTROL_BYTES_MAX`] bytes.
    fn send(&self, to: NodeId, message: Bytes);
}

/// What the control plane hands up.
pub trait Hears: Send + Sync + 'static {
    /// `from` is authenticated and a member of this mesh. Must not wait.
    fn hear(&self, from: NodeId, message: Bytes);
}

/// What travels on the bulk plane: a kind that names who answers it, and parts that are never
/// joined: the receiver sees the same ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parcel {
    /// Who answers it.
    pub kind: u16,
    /// The content.
    pub parts: Vec<Bytes>,
}

impl Parcel {
    /// A parcel of one part.
    pub fn new(kind: u16, part: impl Into<Bytes>) -> Self {
        Parcel { kind, parts: vec![part.into()] }
    }

    /// Bytes of all parts.
    pub fn len(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }

    /// Whether it has no content.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why a call was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It never left: the other side has not seen it.
    #[error("node {to} can't be reached: {why}")]
    Unreachable {
        /// Whom it was for.
        to: NodeId,
        /// What stood in the way.
        why: Arc<str>,
    },
    /// It left, and no answer came: it may have been carried out.
    #[error("node {to} did not answer: {why}")]
    Lost {
        /// Whom it was for.
        to: NodeId,
        /// What happened.
        why: Arc<str>,
    },
    /// It exceeds [`PARCEL_BYTES_MAX`] or [`PARCEL_PARTS_MAX`].
    #[error("a parcel of {bytes} bytes is larger than a link carries")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}

/// The bulk plane: calls that are answered once, or fail, within their time.
pub trait Calls: Send + Sync + 'static {
    /// Calls `to`. Calls to one node are *sent* in the order in which this was called, for calls
    /// of the same `lane`; nothing orders their answers.
    fn call(
        &self,
        to: NodeId,
        lane: u64,
        request: Parcel,
        wait: Duration,
    ) -> BoxFuture<'static, Result<Parcel, CallError>>;
}

/// Who answers calls.
pub trait Answers: Send + Sync + 'static {
    /// Answers a call of `from`, which is authenticated and a member of this mesh. Calls of one
    /// lane are handed over in the order in which they were sent, by this function's call; the
    /// future may then take its time.
    fn answer(&self, from: NodeId, request: Parcel) -> BoxFuture<'static, Parcel>;
}
