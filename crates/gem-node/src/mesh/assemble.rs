//! A node's part in the mesh without its sockets: what knows, places, routes and answers, over
//! planes that it is given. A node gives it libp2p and TCP, the simulator its own network.

use std::sync::{Arc, OnceLock, Weak};

use gem_mesh::control::Addresses;
use gem_mesh::directory::Contact;
use gem_mesh::membership::{Member, Settings};
use gem_mesh::{Calls, Control};
use gem_types::seams::{Clock, Random};
use gem_types::{MeshId, Result};

use super::agent::{Agent, Watches};
use super::answers::Inbound;
use super::place::{PlaceSettings, Placer};
use super::routes::MeshRouter;
use crate::shards::Shards;

/// The ways to the other nodes.
pub struct Links {
    /// Small messages.
    pub control: Arc<dyn Control>,
    /// Calls.
    pub calls: Arc<dyn Calls>,
    /// Learns where members are reached.
    pub addresses: Arc<Addresses>,
}

/// The parts of a node that take part in a mesh. They begin with [`Agent::run`], [`Placer::run`]
/// and [`Placer::begin`].
pub struct Parts {
    /// What is known of the others; hears what the control plane brings.
    pub agent: Arc<Agent>,
    /// Makes and moves replicas.
    pub placer: Arc<Placer>,
    /// The routes of the gateway.
    pub router: Arc<MeshRouter>,
    /// The way for Raft.
    pub calls: Arc<dyn Calls>,
    /// Answers the calls of others.
    pub inbound: Inbound,
}

/// Hands on what the agent learns of members.
struct Told {
    addresses: Arc<Addresses>,
    placer: OnceLock<Weak<Placer>>,
}

impl Watches for Told {
    fn met(&self, member: &Member) {
        self.addresses.learn_member(member);
        // Replicas there are reached again without waiting out a pause.
        if let Some(placer) = self.placer.get().and_then(Weak::upgrade) {
            placer.met(member.node);
        }
    }

    fn contact(&self, contact: Contact) {
        if self.addresses.control_address(contact.node).is_none() {
            self.addresses.learn(contact.node, contact.control);
        }
    }

    fn lost(&self, member: &Member, _: bool) {
        if let Some(placer) = self.placer.get().and_then(Weak::upgrade) {
            placer.lost(member.node);
        }
    }
}

impl Parts {
    /// Joins the parts of the node `me`, which holds `shards`.
    ///
    /// # Errors
    /// A name, a zone or a URL of `me` is too long for gossip.
    pub fn assemble(
        me: Member,
        mesh: MeshId,
        place: PlaceSettings,
        shards: Shards,
        links: Links,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Parts> {
        let Links { control, calls, addresses } = links;
        let told = Arc::new(Told { addresses, placer: OnceLock::new() });
        let agent = Agent::new(me, mesh, Settings::default(), clock.clone(), &*random, control, told.clone())?;
        let placer = Placer::new(place, shards.clone(), agent.clone(), calls.clone(), clock, random);
        let _ = told.placer.set(Arc::downgrade(&placer));
        let router = Arc::new(MeshRouter { shards: shards.clone(), agent: agent.clone(), calls: calls.clone() });
        let inbound = Inbound { shards, agent: agent.clone(), placer: placer.clone() };
        Ok(Parts { agent, placer, router, calls, inbound })
    }
}
