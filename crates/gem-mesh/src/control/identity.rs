//! A node's key and id, in libp2p's terms and back.
//!
//! A peer id is the identity multihash of the public key in libp2p's protobuf encoding (libp2p
//! specs, "Peer Ids and Keys"): for ed25519 the key's 32 bytes after a fixed head, so the two are
//! the same fact.

use std::net::{IpAddr, SocketAddr};

use ed25519_dalek::SigningKey;
use gem_types::NodeId;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// Identity multihash of 36 bytes: `PublicKey{Type: Ed25519, Data: 32 bytes}`.
const HEAD: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// The node that a key is of.
pub(super) fn node_of(key: &SigningKey) -> NodeId {
    NodeId(key.verifying_key().to_bytes())
}

/// The same key as libp2p takes it.
pub(super) fn keypair(key: &SigningKey) -> Keypair {
    // Any 32 bytes are an ed25519 secret key.
    Keypair::ed25519_from_bytes(key.to_bytes()).expect("32 bytes are an ed25519 secret key")
}

/// The peer id of `node`; `None` where its bytes don't fit one, which no id of a real key does.
pub(super) fn peer_of(node: NodeId) -> Option<PeerId> {
    let mut bytes = [0; 38];
    bytes[..6].copy_from_slice(&HEAD);
    bytes[6..].copy_from_slice(&node.0);
    PeerId::from_bytes(&bytes).ok()
}

/// The node of `peer`; `None` where its key is not an ed25519 key.
pub(super) fn node_at(peer: &PeerId) -> Option<NodeId> {
    let bytes = peer.to_bytes();
    bytes.strip_prefix(&HEAD)?.try_into().ok().map(NodeId)
}

/// `/ip4/…/tcp/…` of a socket address.
pub(super) fn multiaddr(address: SocketAddr) -> Multiaddr {
    Multiaddr::from(address.ip()).with(Protocol::Tcp(address.port()))
}

/// The socket address that a multiaddress begins with.
pub(super) fn socket_address(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_key_is_the_same_node_on_both_sides(seed: [u8; 32]) {
            let key = SigningKey::from_bytes(&seed);
            let node = node_of(&key);
            let peer = keypair(&key).public().to_peer_id();
            prop_assert_eq!(peer_of(node), Some(peer));
            prop_assert_eq!(node_at(&peer), Some(node));
            prop_assert_eq!(peer.to_string(), node.to_string());
        }

        #[test]
        fn socket_addresses_survive(address: SocketAddr) {
            // A scope and a flow label belong to one machine: they don't travel.
            let plain = SocketAddr::new(address.ip(), address.port());
            prop_assert_eq!(socket_address(&multiaddr(address)), Some(plain));
        }
    }
}
