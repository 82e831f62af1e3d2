//! What leaders ask of nodes, as JSON: seldom and small.

use bytes::Bytes;
use gem_types::{Error, GroupId, NodeId, Prefix, ReplicaId, Result};
use serde::{Deserialize, Serialize};

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Make a replica that holds nothing yet; one that is there is as good.
    Make {
        /// The group.
        group: GroupId,
        /// The part of the ring that it holds.
        prefix: Prefix,
    },
    /// Give up a replica: the members as of `epoch` do not include it.
    Drop {
        /// The group.
        group: GroupId,
        /// The replica.
        replica: ReplicaId,
        /// The index of the entry that set those members.
        epoch: u64,
    },
    /// Empty the node that is asked, or end that.
    Drain {
        /// End it.
        cancel: bool,
    },
    /// A node was taken out of the mesh.
    Remove {
        /// Which.
        node: NodeId,
    },
}

/// The replica that a `Make` is about; the node's own where it is about none.
pub type Answer = Result<Option<ReplicaId>>;

/// A request's parts.
pub fn encode(request: &Request) -> Vec<Bytes> {
    // Plain values: they always serialise.
    vec![serde_json::to_vec(request).unwrap_or_default().into()]
}

/// Reads back what [`encode`] wrote.
pub fn decode(parts: &[Bytes]) -> std::result::Result<Request, String> {
    let [part] = parts else { return Err("a request to a node has one part".into()) };
    serde_json::from_slice(part).map_err(|error| format!("a request to a node can't be read: {error}"))
}

/// An answer's parts.
pub fn encode_answer(answer: &Answer) -> Vec<Bytes> {
    vec![serde_json::to_vec(answer).unwrap_or_default().into()]
}

/// Reads back what [`encode_answer`] wrote.
pub fn decode_answer(parts: &[Bytes]) -> Answer {
    let read = parts.first().map(|part| serde_json::from_slice::<std::result::Result<Option<ReplicaId>, Error>>(part));
    match read {
        Some(Ok(answer)) => answer,
        _ => Err(Error::internal("a node's answer can't be read")),
    }
}
