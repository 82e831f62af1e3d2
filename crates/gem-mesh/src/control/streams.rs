//! A libp2p behaviour that opens and takes in streams of named protocols, and hands them up whole.
//!
//! What it is not: it dials nobody and keeps no connection. `libp2p-stream` is like it, but picks
//! any connection of a peer, drops streams that come in while its one-place channel is full, and
//! keeps a channel for every connection that there ever was.
//!
//! Invariants: a stream is opened on the connection that was named; every request to open ends in
//! one event, unless its connection closes first; streams count as use of their connection, nothing
//! else here does.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    NotifyHandler, Stream, StreamProtocol, StreamUpgradeError, SubstreamProtocol, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};

/// How long the two sides may take to agree on a stream's protocol.
const NEGOTIATION_WAIT: Duration = Duration::from_secs(5);

/// Something became of a stream.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) peer: PeerId,
    pub(super) connection: ConnectionId,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// The other side opened it.
    Came(StreamProtocol, Stream),
    /// It was asked for, and is open.
    Opened(Stream),
    /// It was asked for, and could not be opened.
    Failed(OpenError),
}

/// Why a stream could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("it does not speak {0}: is it a node of GEM, and of this version?")]
    Unsupported(StreamProtocol),
    #[error("the stream could not be opened: {0}")]
    Other(String),
}

/// The behaviour.
pub(super) struct Streams {
    accepts: Arc<[StreamProtocol]>,
    /// Bounded by what the swarm is asked to open and by the connections' own streams: it is
    /// emptied at every poll.
    pending: VecDeque<ToSwarm<Event, StreamProtocol>>,
}

impl Streams {
    /// Takes in streams of `accepts`.
    pub(super) fn new(accepts: &[StreamProtocol]) -> Self {
        Streams { accepts: accepts.into(), pending: VecDeque::new() }
    }

    /// Opens a stream on `connection`. To be called by whoever polls the swarm, between polls.
    pub(super) fn open(&mut self, peer: PeerId, connection: ConnectionId, protocol: StreamProtocol) {
        let handler = NotifyHandler::One(connection);
        self.pending.push_back(ToSwarm::NotifyHandler { peer_id: peer, handler, event: protocol });
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.accepts.clone()))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.accepts.clone()))
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, what: THandlerOutEvent<Self>) {
        self.pending.push_back(ToSwarm::GenerateEvent(Event { peer, connection, what }));
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.pending.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// One connection's part.
pub(super) struct Handler {
    accepts: Arc<[StreamProtocol]>,
    /// At most one request of each protocol comes at a time.
    to_open: VecDeque<StreamProtocol>,
    events: VecDeque<What>,
}

impl Handler {
    fn new(accepts: Arc<[StreamProtocol]>) -> Self {
        Handler { accepts, to_open: VecDeque::new(), events: VecDeque::new() }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = StreamProtocol;
    type ToBehaviour = What;
    type InboundProtocol = Protocols;
    type OutboundProtocol = Protocols;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = StreamProtocol;

    fn listen_protocol(&self) -> SubstreamProtocol<Protocols> {
        SubstreamProtocol::new(Protocols(self.accepts.clone()), ()).with_timeout(NEGOTIATION_WAIT)
    }

    fn on_behaviour_event(&mut self, protocol: StreamProtocol) {
        self.to_open.push_back(protocol);
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Protocols, Self::OutboundOpenInfo, What>> {
        if let Some(what) = self.events.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(what));
        }
        let Some(protocol) = self.to_open.pop_front() else { return Poll::Pending };
        let upgrade = Protocols([protocol.clone()].into());
        let protocol = SubstreamProtocol::new(upgrade, protocol).with_timeout(NEGOTIATION_WAIT);
        Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Protocols, Protocols, Self::InboundOpenInfo, Self::OutboundOpenInfo>,
    ) {
        let what = match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (protocol, stream), ..
            }) => What::Came(protocol, stream),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: (_, stream), .. }) => {
                What::Opened(stream)
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: protocol, error }) => {
                let error = match error {
                    StreamUpgradeError::NegotiationFailed => OpenError::Unsupported(protocol),
                    StreamUpgradeError::Timeout => OpenError::Other("no answer in time".to_owned()),
                    StreamUpgradeError::Io(error) => OpenError::Other(error.to_string()),
                    StreamUpgradeError::Apply(never) => match never {},
                };
                What::Failed(error)
            }
            _ => return,
        };
        self.events.push_back(what);
    }
}

/// The protocols that a stream may be of: the first that both sides know is taken.
#[derive(Clone, Debug)]
pub(super) struct Protocols(Arc<[StreamProtocol]>);

impl UpgradeInfo for Protocols {
    type Info = StreamProtocol;
    type InfoIter = Vec<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.to_vec()
    }
}

impl InboundUpgrade<Stream> for Protocols {
    type Output = (StreamProtocol, Stream);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((protocol, stream)))
    }
}

impl OutboundUpgrade<Stream> for Protocols {
    type Output = (StreamProtocol, Stream);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((protocol, stream)))
    }
}
