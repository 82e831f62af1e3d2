//! The identity file: JSON, so that a person can read it, with a CRC-32C of all other fields, so
//! that damage does not make another node of this one.

use crc32c::crc32c;
use ed25519_dalek::SigningKey;
use gem_types::{Incarnation, MeshId, NodeId};
use serde::{Deserialize, Serialize};

use super::Identity;

const VERSION: u32 = 1;
/// libp2p's protobuf `PrivateKey{Type: Ed25519, Data: 64 bytes}`: seed, then public key.
const KEY_HEAD: [u8; 4] = [0x08, 0x01, 0x12, 0x40];

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    node: String,
    mesh: String,
    incarnation: String,
    k: u8,
    join_secret: String,
    /// libp2p's protobuf encoding, in hexadecimal.
    private_key: String,
    crc32c: String,
}

pub(super) fn encode(identity: &Identity) -> Vec<u8> {
    let mut key = KEY_HEAD.to_vec();
    key.extend_from_slice(&identity.key.to_keypair_bytes());
    let mut file = File {
        version: VERSION,
        node: identity.node.to_string(),
        mesh: identity.mesh.to_string(),
        incarnation: format!("{:016x}", identity.incarnation.0),
        k: identity.k,
        join_secret: identity.secret.clone(),
        private_key: key.iter().map(|b| format!("{b:02x}")).collect(),
        crc32c: String::new(),
    };
    file.crc32c = checksum(&file);
    // Strings and numbers always serialise.
    let mut out = serde_json::to_vec_pretty(&file).unwrap_or_default();
    out.push(b'\n');
    out
}

fn checksum(file: &File) -> String {
    let File { version, node, mesh, incarnation, k, join_secret, private_key, crc32c: _ } = file;
    let all = format!("{version}\n{node}\n{mesh}\n{incarnation}\n{k}\n{join_secret}\n{private_key}");
    format!("{:08x}", crc32c(all.as_bytes()))
}

pub(super) fn decode(bytes: &[u8]) -> Result<Identity, String> {
    let file: File = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if file.version > VERSION {
        return Err(format!("format {} was written by a later gem", file.version));
    }
    if checksum(&file) != file.crc32c {
        return Err("its checksum does not match".into());
    }
    let key = unhex(&file.private_key).ok_or("its key is not hexadecimal")?;
    let pair = key.strip_prefix(&KEY_HEAD).and_then(|pair| <&[u8; 64]>::try_from(pair).ok());
    let pair = pair.ok_or("its key is not an ed25519 key in libp2p's encoding")?;
    let key = SigningKey::from_keypair_bytes(pair).map_err(|error| error.to_string())?;
    let node: NodeId = file.node.parse()?;
    if node.0 != key.verifying_key().to_bytes() {
        return Err("its key is not the node's".into());
    }
    let mesh: MeshId = file.mesh.parse()?;
    let incarnation = u64::from_str_radix(&file.incarnation, 16).map_err(|error| error.to_string())?;
    Ok(Identity { node, mesh, incarnation: Incarnation(incarnation), k: file.k, secret: file.join_secret, key })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}
