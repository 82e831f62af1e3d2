//! What a node that joins is told, and the two sides of telling it.
//!
//! Invariant: it is told to nobody, and taken from nobody, that has not proved the join secret.

use std::io;
use std::time::Duration;

use futures::{AsyncRead, AsyncWrite, AsyncWriteExt};
use gem_types::MeshId;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::frame;
use super::handshake::{Hello, HelloError};
use super::hello::Refusal;
use crate::membership::Member;

/// The stream protocol by which a node asks to be let into a mesh.
pub(super) const JOIN: &str = "/gem/join/1";
/// The most members that a node is told of as it joins; gossip tells it of the others.
pub const JOINED_MEMBERS_MAX: usize = 256;
/// The most bytes of the answer.
const ANSWER_BYTES_MAX: usize = 512 << 10;
/// How long the answer may take, once both sides have proved themselves.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// A mesh, as a node of it tells one that joins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The mesh.
    pub mesh: MeshId,
    /// It was founded with 2^k shards.
    pub k: u8,
    /// Members that are known there, the teller among them. At most [`JOINED_MEMBERS_MAX`] are told.
    pub members: Vec<Member>,
}

/// Who knows the mesh that a swarm is of.
pub trait Hosts: Send + Sync + 'static {
    /// What a node that joins is told. Must not wait.
    fn joined(&self) -> Joined;
}

impl Joined {
    /// Its bytes: as many members, from the front, as an answer holds.
    pub(super) fn encode(&self) -> Vec<u8> {
        let (mut told, mut room) = (Vec::new(), ANSWER_BYTES_MAX - 1024);
        for member in self.members.iter().take(JOINED_MEMBERS_MAX) {
            // Numbers and text: there is nothing in them that JSON refuses.
            let size = serde_json::to_vec(member).expect("a member is JSON").len() + 1;
            if size > room {
                break;
            }
            room -= size;
            told.push(member.clone());
        }
        serde_json::to_vec(&Joined { mesh: self.mesh, k: self.k, members: told }).expect("an answer is JSON")
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Joined, String> {
        let joined: Joined = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        match joined.members.len() {
            0..=JOINED_MEMBERS_MAX => Ok(joined),
            many => Err(format!("it names {many} members, the most is {JOINED_MEMBERS_MAX}")),
        }
    }
}

/// Asks on `stream`, as the side that opened it.
pub(super) async fn ask<S>(hello: &Hello<'_>, stream: &mut S) -> Result<Joined, HelloError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    hello.ask(stream).await?;
    let answer = timeout(ANSWER_WAIT, frame::read(stream, ANSWER_BYTES_MAX)).await;
    let bytes = answer.map_err(|_| HelloError::TimedOut)??;
    let bytes = bytes.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    let garbled =
        |what| HelloError::Io(io::Error::new(io::ErrorKind::InvalidData, format!("its answer is garbled: {what}")));
    let joined = Joined::decode(&bytes).map_err(garbled)?;
    // What was asked for is here, however the stream ends.
    let _ = stream.close().await;
    Ok(joined)
}

/// Answers on `stream`, as the side that it was opened to; `hosts` is `None` while this node
/// belongs to no mesh itself.
pub(super) async fn answer<S>(hello: &Hello<'_>, stream: &mut S, hosts: Option<&dyn Hosts>) -> Result<(), HelloError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Some(hosts) = hosts else { return hello.answer(stream, Err(Refusal::Joining)).await };
    hello.answer(stream, Ok(())).await?;
    let bytes = hosts.joined().encode();
    let told = async {
        frame::write(stream, &bytes).await?;
        // It closes when it has read: ending sooner might cut the answer off.
        let _ = frame::read(stream, 0).await;
        io::Result::Ok(())
    };
    timeout(ANSWER_WAIT, told).await.map_err(|_| HelloError::TimedOut)??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gem_types::{Incarnation, NodeId};
    use proptest::prelude::*;
    use std::net::SocketAddr;

    fn member(name: String) -> Member {
        let address = SocketAddr::from(([127, 0, 0, 1], 7401));
        Member {
            node: NodeId([255; 32]),
            incarnation: Incarnation(u64::MAX),
            run: 3,
            control: address,
            bulk: address,
            http: "http://127.0.0.1:7400".to_owned(),
            zone: String::new(),
            name,
            is_draining: false,
        }
    }

    proptest! {
        #[test]
        fn an_answer_survives_and_fits(mesh: [u8; 16], k: u8, names: Vec<String>) {
            let members: Vec<Member> = names.into_iter().map(member).collect();
            let joined = Joined { mesh: MeshId(mesh), k, members };
            let bytes = joined.encode();
            prop_assert!(bytes.len() <= ANSWER_BYTES_MAX);
            prop_assert_eq!(Joined::decode(&bytes).unwrap(), joined);
        }

        #[test]
        fn any_bytes_are_an_answer_or_an_error(bytes: Vec<u8>) {
            let _ = Joined::decode(&bytes);
        }
    }

    #[test]
    fn a_large_mesh_is_told_in_part() {
        let many = Joined { mesh: MeshId([1; 16]), k: 4, members: vec![member(String::new()); 5000] };
        assert_eq!(Joined::decode(&many.encode()).unwrap().members.len(), JOINED_MEMBERS_MAX);
        let long = Joined { members: vec![member("x".repeat(100_000)); 9], ..many };
        assert_eq!(Joined::decode(&long.encode()).unwrap().members.len(), 5);
    }
}
