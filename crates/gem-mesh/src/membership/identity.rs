//! A member as the SWIM library sees it: an address that stays (the node's id), and an identity
//! that is renewed by a higher run.
//!
//! Invariant: of two introductions of one node exactly one wins, everywhere the same: the higher
//! run, and for equal runs (which only a fault makes) the greater content.

use std::net::SocketAddr;

use foca::Identity;
use gem_types::NodeId;

use super::Member;

/// The most bytes of each of a member's texts: its URL, zone and name.
pub const MEMBER_TEXT_MAX: usize = 256;

impl Member {
    /// Whether its texts are short enough to travel: see [`MEMBER_TEXT_MAX`].
    pub fn is_sound(&self) -> bool {
        [&self.http, &self.zone, &self.name].iter().all(|text| text.len() <= MEMBER_TEXT_MAX)
    }
}

/// An address as it travels: what IPv6 adds for one machine alone (flow, scope) means nothing to
/// others, and an introduction that changes under way would not be recognised as its node's.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}

impl Member {
    pub(super) fn plain(self) -> Self {
        Member { control: plain(self.control), bulk: plain(self.bulk), ..self }
    }
}

impl Identity for Member {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        let run = self.run.checked_add(1)?;
        Some(Member { run, ..self.clone() })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        fn rank(m: &Member) -> impl Ord + '_ {
            (m.run, m.incarnation, m.control, m.bulk, &m.http, &m.zone, &m.name, m.is_draining)
        }
        rank(self) > rank(adversary)
    }
}
