//! The messages of the mutual hello, and the proofs in them.
//!
//! ```text
//! hello    1 | "GEM" | version u16 | mesh 16 | nonce 32
//! proof    2 | HMAC-SHA256 32
//! refused  3 | why u8 | version u16 | mesh 16
//! ```
//!
//! A proof is HMAC-SHA256 (RFC 2104) under the join secret over a label that names protocol and
//! side, the mesh, both nodes' ids and both nonces. TLS has proved the ids, so a proof can be
//! neither replayed (the nonces), nor reflected (the side), nor carried to another node (the ids).
//! Who listens in on nothing learns nothing: all of it travels under TLS; but a node that is dialled
//! sees one proof, so a secret that can be guessed can be tried offline by whoever holds an address
//! that this node dials. Drawn secrets have 256 bits.
//!
//! Invariant: neither the first six bytes of a hello nor a refusal ever change their meaning, so
//! that nodes of any two versions can tell each other that they don't match.

use std::fmt;

use bytes::{Buf, BufMut, Bytes};
use gem_types::{MeshId, NodeId};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::secret::Secret;

/// The version of both control protocols that this node speaks.
pub(super) const VERSION: u16 = 1;
/// The longest message of a hello, in bytes.
pub(super) const MESSAGE_BYTES_MAX: usize = 256;

const MAGIC: &[u8; 3] = b"GEM";
const HELLO: u8 = 1;
const PROOF: u8 = 2;
const REFUSED: u8 = 3;

/// A fresh number that a side adds, so that no proof serves twice.
pub(super) type Nonce = [u8; 32];

/// Why a node turned another away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// It speaks another version of the protocol: the one named.
    Version(u16),
    /// It belongs to another mesh: the one named.
    Mesh(MeshId),
    /// The join secret was not proved.
    Secret,
    /// It belongs to no mesh yet: it is itself asking to be let into one.
    Joining,
    /// It has no room for another connection just now.
    Busy,
    /// Its data directory is older than one that it ran on before: see [`crate::runs`].
    Older,
}

impl Refusal {
    /// Whether trying again is of no use before a person has done something.
    pub(super) fn is_lasting(self) -> bool {
        match self {
            Refusal::Version(_) | Refusal::Mesh(_) | Refusal::Secret | Refusal::Older => true,
            Refusal::Joining | Refusal::Busy => false,
        }
    }
}

impl fmt::Display for Refusal {
    /// The reason, in the words of the side that refuses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Version(version) => write!(f, "the versions differ: it speaks control protocol {version}"),
            Refusal::Mesh(mesh) => write!(f, "it is a node of another mesh, {mesh}"),
            Refusal::Secret => f.write_str("the join secret is not the same"),
            Refusal::Joining => f.write_str("it belongs to no mesh yet and is itself waiting to join one"),
            Refusal::Busy => f.write_str("it has no room for another connection just now"),
            Refusal::Older => f.write_str("the data directory is older than one that the node ran on before"),
        }
    }
}

/// A message of the hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Hello { mesh: MeshId, nonce: Nonce },
    OtherVersion(u16),
    Proof([u8; 32]),
    Refused(Refusal),
}

impl Message {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        match self {
            Message::Hello { mesh, nonce } => {
                put_head(&mut out, VERSION);
                out.put_slice(&mesh.0);
                out.put_slice(nonce);
            }
            Message::OtherVersion(version) => put_head(&mut out, *version),
            Message::Proof(mac) => {
                out.put_u8(PROOF);
                out.put_slice(mac);
            }
            Message::Refused(refusal) => {
                let (why, version, mesh) = match refusal {
                    Refusal::Version(version) => (1, *version, MeshId::default()),
                    Refusal::Mesh(mesh) => (2, 0, *mesh),
                    Refusal::Secret => (3, 0, MeshId::default()),
                    Refusal::Joining => (4, 0, MeshId::default()),
                    Refusal::Busy => (5, 0, MeshId::default()),
                    Refusal::Older => (6, 0, MeshId::default()),
                };
                out.put_u8(REFUSED);
                out.put_u8(why);
                out.put_u16(version);
                out.put_slice(&mesh.0);
            }
        }
        out
    }

    /// The message in `bytes`; `None` where they are none. More bytes than expected are ignored.
    pub(super) fn decode(mut bytes: Bytes) -> Option<Message> {
        match bytes.try_get_u8().ok()? {
            HELLO => {
                if take::<3>(&mut bytes)? != *MAGIC {
                    return None;
                }
                let version = bytes.try_get_u16().ok()?;
                if version != VERSION {
                    return Some(Message::OtherVersion(version));
                }
                Some(Message::Hello { mesh: MeshId(take(&mut bytes)?), nonce: take(&mut bytes)? })
            }
            PROOF => Some(Message::Proof(take(&mut bytes)?)),
            REFUSED => {
                let why = bytes.try_get_u8().ok()?;
                let version = bytes.try_get_u16().ok()?;
                let mesh = MeshId(take(&mut bytes)?);
                let refusal = match why {
                    1 => Refusal::Version(version),
                    2 => Refusal::Mesh(mesh),
                    3 => Refusal::Secret,
                    4 => Refusal::Joining,
                    5 => Refusal::Busy,
                    6 => Refusal::Older,
                    _ => return None,
                };
                Some(Message::Refused(refusal))
            }
            _ => None,
        }
    }
}

fn put_head(out: &mut Vec<u8>, version: u16) {
    out.put_u8(HELLO);
    out.put_slice(MAGIC);
    out.put_u16(version);
}

fn take<const N: usize>(bytes: &mut Bytes) -> Option<[u8; N]> {
    let mut out = [0; N];
    bytes.try_copy_to_slice(&mut out).ok()?;
    Some(out)
}

/// What both proofs of one hello are over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// Which protocol: a proof for one is none for another.
    pub(super) protocol: &'static str,
    /// All zero while the mesh is what the asker wants to learn.
    pub(super) mesh: MeshId,
    /// Who opened the stream.
    pub(super) asker: NodeId,
    /// Who answers on it.
    pub(super) answerer: NodeId,
    pub(super) asker_nonce: Nonce,
    pub(super) answerer_nonce: Nonce,
}

/// Whose proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Asker,
    Answerer,
}

impl Terms {
    pub(super) fn prove(&self, side: Side, secret: &Secret) -> [u8; 32] {
        self.mac(side, secret).finalize().into_bytes().into()
    }

    /// In constant time.
    pub(super) fn is_proved(&self, side: Side, secret: &Secret, proof: &[u8; 32]) -> bool {
        self.mac(side, secret).verify_slice(proof).is_ok()
    }

    fn mac(&self, side: Side, secret: &Secret) -> Hmac<Sha256> {
        let mut mac =
            <Hmac<Sha256> as KeyInit>::new_from_slice(secret.bytes()).expect("HMAC takes a key of any length");
        mac.update(b"gem hello\0");
        // The one field of no fixed length is ended by a byte that it doesn't contain.
        mac.update(self.protocol.as_bytes());
        mac.update(match side {
            Side::Asker => b"\0asker\0\0\0",
            Side::Answerer => b"\0answerer",
        });
        mac.update(&VERSION.to_be_bytes());
        mac.update(&self.mesh.0);
        mac.update(&self.asker.0);
        mac.update(&self.answerer.0);
        mac.update(&self.asker_nonce);
        mac.update(&self.answerer_nonce);
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refusals() -> impl Strategy<Value = Refusal> {
        prop_oneof![
            any::<u16>().prop_map(Refusal::Version),
            any::<[u8; 16]>().prop_map(|m| Refusal::Mesh(MeshId(m))),
            Just(Refusal::Secret),
            Just(Refusal::Joining),
            Just(Refusal::Busy),
            Just(Refusal::Older),
        ]
    }

    fn messages() -> impl Strategy<Value = Message> {
        prop_oneof![
            any::<([u8; 16], Nonce)>().prop_map(|(mesh, nonce)| Message::Hello { mesh: MeshId(mesh), nonce }),
            (2..u16::MAX).prop_map(Message::OtherVersion),
            any::<[u8; 32]>().prop_map(Message::Proof),
            refusals().prop_map(Message::Refused),
        ]
    }

    proptest! {
        #[test]
        fn messages_survive_and_may_grow(message in messages(), more: [u8; 8]) {
            let mut bytes = message.encode();
            prop_assert!(bytes.len() <= MESSAGE_BYTES_MAX);
            prop_assert_eq!(Message::decode(bytes.clone().into()), Some(message.clone()));
            bytes.extend(more);
            prop_assert_eq!(Message::decode(bytes.into()), Some(message));
        }

        #[test]
        fn any_bytes_are_a_message_or_none(bytes: Vec<u8>) {
            let _ = Message::decode(bytes.into());
        }

        #[test]
        fn a_cut_message_is_none(message in messages(), cut in 0..60usize) {
            let bytes = message.encode();
            prop_assume!(cut < bytes.len());
            prop_assert_eq!(Message::decode(Bytes::from(bytes).slice(..cut)), None);
        }

        #[test]
        fn a_proof_holds_for_its_terms_alone(
            (mesh, asker, answerer) in any::<([u8; 16], [u8; 32], [u8; 32])>(),
            (asker_nonce, answerer_nonce) in any::<(Nonce, Nonce)>(),
            field in 0..7usize,
            bit in 0..128usize,
        ) {
            let secret = Secret::new("a secret");
            let terms = Terms {
                protocol: "/gem/control/1",
                mesh: MeshId(mesh),
                asker: NodeId(asker),
                answerer: NodeId(answerer),
                asker_nonce,
                answerer_nonce,
            };
            let proof = terms.prove(Side::Asker, &secret);
            prop_assert!(terms.is_proved(Side::Asker, &secret, &proof));
            prop_assert!(!terms.is_proved(Side::Answerer, &secret, &proof));
            prop_assert!(!terms.is_proved(Side::Asker, &Secret::new("another"), &proof));
            let (mut other, byte, flip) = (terms, bit / 8, 1u8 << (bit % 8));
            match field {
                0 => other.mesh.0[byte] ^= flip,
                1 => other.asker.0[byte] ^= flip,
                2 => other.answerer.0[byte] ^= flip,
                3 => other.asker_nonce[byte] ^= flip,
                4 => other.answerer_nonce[byte] ^= flip,
                5 => other.protocol = "/gem/join/1",
                _ => std::mem::swap(&mut other.asker, &mut other.answerer),
            }
            prop_assume!(field != 6 || asker != answerer);
            prop_assert!(!other.is_proved(Side::Asker, &secret, &proof));
        }
    }

    #[test]
    fn a_secret_is_trimmed_and_never_printed() {
        assert_eq!(Secret::new(" s\n").bytes(), Secret::new("s").bytes());
        assert!(!format!("{:?}", Secret::new("hush")).contains("hush"));
    }
}
