//! A libp2p behaviour that bounds connections, so that strangers can't use up what members need.
//!
//! Invariants: at most [`PENDING_MAX`] connections are being secured, [`STRANGERS_MAX`] came from
//! nodes that have not proved themselves, [`PER_PEER_MAX`] are with one node,
//! [`CONNECTIONS_MAX`] are there in all. What this node dials is no stranger.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished, ListenFailure};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    dummy,
};
use libp2p::{Multiaddr, PeerId};

/// The most incoming connections that are not secured yet.
const PENDING_MAX: usize = 128;
/// The most incoming connections of nodes that have not proved themselves.
const STRANGERS_MAX: usize = 128;
/// The most connections with one node.
const PER_PEER_MAX: usize = 8;
/// The most connections in all.
const CONNECTIONS_MAX: usize = 8192;

/// A connection was turned away.
#[derive(Debug, thiserror::Error)]
#[error("there is no room for another connection: {0}")]
struct Full(&'static str);

/// The behaviour.
#[derive(Default)]
pub(super) struct Gate {
    pending: HashSet<ConnectionId>,
    strangers: HashSet<ConnectionId>,
    by_peer: HashMap<PeerId, u32>,
    connections: usize,
}

impl Gate {
    /// The node at the other end of `connection` has proved itself.
    pub(super) fn proved(&mut self, connection: ConnectionId) {
        self.strangers.remove(&connection);
    }

    fn check(&self, peer: &PeerId) -> Result<(), ConnectionDenied> {
        if self.connections >= CONNECTIONS_MAX {
            return Err(ConnectionDenied::new(Full("too many in all")));
        }
        if self.by_peer.get(peer).is_some_and(|count| *count as usize >= PER_PEER_MAX) {
            return Err(ConnectionDenied::new(Full("too many with this node")));
        }
        Ok(())
    }
}

impl NetworkBehaviour for Gate {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        if self.pending.len() >= PENDING_MAX {
            return Err(ConnectionDenied::new(Full("too many are being secured")));
        }
        self.pending.insert(connection);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.pending.remove(&connection);
        self.check(&peer)?;
        if self.strangers.len() >= STRANGERS_MAX {
            return Err(ConnectionDenied::new(Full("too many have not proved themselves")));
        }
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check(&peer)?;
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, connection_id, endpoint, .. }) => {
                self.connections += 1;
                *self.by_peer.entry(peer_id).or_default() += 1;
                if endpoint.is_listener() {
                    self.strangers.insert(connection_id);
                }
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                self.connections -= 1;
                self.strangers.remove(&connection_id);
                if let Some(count) = self.by_peer.get_mut(&peer_id) {
                    *count -= 1;
                    if *count == 0 {
                        self.by_peer.remove(&peer_id);
                    }
                }
            }
            FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => {
                self.pending.remove(&connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::core::ConnectedPoint;

    struct Door {
        gate: Gate,
        next: usize,
    }

    impl Door {
        fn comes(&mut self, peer: PeerId) -> Result<ConnectionId, ConnectionDenied> {
            let (id, address) = (ConnectionId::new_unchecked(self.next), Multiaddr::empty());
            self.next += 1;
            self.gate.handle_pending_inbound_connection(id, &address, &address)?;
            self.gate.handle_established_inbound_connection(id, peer, &address, &address)?;
            let endpoint = ConnectedPoint::Listener { local_addr: address.clone(), send_back_addr: address };
            self.gate.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id: peer,
                connection_id: id,
                endpoint: &endpoint,
                failed_addresses: &[],
                other_established: 0,
            }));
            Ok(id)
        }

        fn goes(&mut self, peer: PeerId, id: ConnectionId) {
            let address = Multiaddr::empty();
            let endpoint = ConnectedPoint::Listener { local_addr: address.clone(), send_back_addr: address };
            self.gate.on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
                peer_id: peer,
                connection_id: id,
                endpoint: &endpoint,
                cause: None,
                remaining_established: 0,
            }));
        }
    }

    #[test]
    fn strangers_fill_their_own_room_alone() {
        let mut door = Door { gate: Gate::default(), next: 0 };
        let members: Vec<_> = (0..STRANGERS_MAX).map(|_| PeerId::random()).collect();
        for member in &members {
            let id = door.comes(*member).unwrap();
            door.gate.proved(id);
        }
        let stranger = PeerId::random();
        let first = door.comes(stranger).unwrap();
        assert!((1..STRANGERS_MAX).all(|_| door.comes(PeerId::random()).is_ok()));
        assert!(door.comes(members[0]).is_err());
        door.goes(stranger, first);
        door.comes(members[0]).unwrap();
        let (address, id) = (Multiaddr::empty(), ConnectionId::new_unchecked(usize::MAX));
        let dialled =
            door.gate.handle_established_outbound_connection(id, members[1], &address, Endpoint::Dialer, PortUse::New);
        assert!(dialled.is_ok(), "whom this node dials is no stranger");
    }

    #[test]
    fn one_node_has_a_few_connections() {
        let (mut door, peer) = (Door { gate: Gate::default(), next: 0 }, PeerId::random());
        let ids: Vec<_> = (0..PER_PEER_MAX).map(|_| door.comes(peer).unwrap()).collect();
        assert!(door.comes(peer).is_err());
        ids.into_iter().for_each(|id| door.goes(peer, id));
        assert!(door.gate.by_peer.is_empty() && door.gate.strangers.is_empty() && door.gate.pending.is_empty());
        assert_eq!(door.gate.connections, 0);
        door.comes(peer).unwrap();
    }

    #[test]
    fn unsecured_connections_are_few() {
        let (mut gate, address) = (Gate::default(), Multiaddr::empty());
        let mut comes =
            |id| gate.handle_pending_inbound_connection(ConnectionId::new_unchecked(id), &address, &address);
        assert!((0..PENDING_MAX).all(|id| comes(id).is_ok()));
        assert!(comes(PENDING_MAX).is_err());
    }
}
