//! What nodes say to each other in the DHT: one byte for the version, then postcard's encoding.
//!
//! Invariant: the decoder is total, and refuses what would break an invariant further in.

use std::net::SocketAddr;

use gem_types::Prefix;
use serde::{Deserialize, Serialize};

use super::buckets::{Contact, K};
use super::key::Key;
use super::record::Record;

/// The first byte of every message: 2 in the upper half for the DHT, the version in the lower.
pub const VERSION: u8 = 0x21;

/// A call or an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Message {
    /// Where the sender listens.
    pub control: SocketAddr,
    /// Which call this is, or answers.
    pub call: u64,
    pub body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Body {
    Ping,
    Pong,
    /// The nodes nearest to a key, please.
    FindNode(Key),
    Nodes(Vec<Contact>),
    /// The record of a prefix, and the nodes nearest to its key.
    FindRecord(Prefix),
    Found {
        record: Option<Record>,
        nodes: Vec<Contact>,
    },
    /// Hold this record. Answered with a `Pong`.
    Store(Record),
}

impl Message {
    pub(super) fn encode(&self) -> Vec<u8> {
        // Plain data into a growing buffer: postcard has no way to fail here.
        postcard::to_extend(self, vec![VERSION]).unwrap_or_default()
    }

    /// The message in `bytes`; `None` for another version, or for anything malformed.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let body = bytes.strip_prefix(&[VERSION])?;
        let (message, rest) = postcard::take_from_bytes::<Message>(body).ok()?;
        let is_sound = rest.is_empty()
            && match &message.body {
                Body::Nodes(nodes) => nodes.len() <= K,
                Body::Found { record, nodes } => nodes.len() <= K && record.as_ref().is_none_or(Record::is_sound),
                Body::Store(record) => record.is_sound(),
                Body::FindRecord(prefix) => Prefix::new(prefix.first().0, prefix.length()) == Some(*prefix),
                Body::Ping | Body::Pong | Body::FindNode(_) => true,
            };
        is_sound.then_some(message)
    }
}

#[cfg(test)]
mod tests {
    use gem_types::NodeId;
    use proptest::prelude::*;

    use super::*;

    fn contact() -> impl Strategy<Value = Contact> {
        let plain = |a: SocketAddr| SocketAddr::new(a.ip(), a.port());
        (any::<[u8; 32]>(), any::<SocketAddr>())
            .prop_map(move |(node, control)| Contact { node: NodeId(node), control: plain(control) })
    }

    fn body() -> impl Strategy<Value = Body> {
        let prefix = (any::<u64>(), 0u8..=64).prop_map(|(bits, length)| Prefix::new(bits, length).unwrap());
        let record = (prefix.clone(), any::<u64>()).prop_map(|(prefix, epoch)| Record::Internal { prefix, epoch });
        prop_oneof![
            Just(Body::Ping),
            any::<[u8; 32]>().prop_map(|key| Body::FindNode(Key(key))),
            prop::collection::vec(contact(), 0..=K).prop_map(Body::Nodes),
            prefix.prop_map(Body::FindRecord),
            (prop::option::of(record.clone()), prop::collection::vec(contact(), 0..=K))
                .prop_map(|(record, nodes)| Body::Found { record, nodes }),
            record.prop_map(Body::Store),
        ]
    }

    proptest! {
        #[test]
        fn messages_and_back(from in contact(), call: u64, body in body()) {
            let message = Message { control: from.control, call, body };
            let bytes = message.encode();
            prop_assert!(bytes.len() < 4096);
            for cut in 0..bytes.len() {
                prop_assert_eq!(Message::decode(&bytes[..cut]), None);
            }
            prop_assert_eq!(Message::decode(&bytes), Some(message));
        }

        #[test]
        fn anything_can_be_read(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Message::decode(&bytes);
            bytes.insert(0, VERSION);
            let _ = Message::decode(&bytes);
        }
    }
}
