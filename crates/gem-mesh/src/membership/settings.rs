//! How a node watches the others: periods and bounds, in one place.

use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

/// See each field. The defaults suit one data centre: in a mesh of three a dead node is suspected
/// within 1 to 1.5 s and down within 3 s.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How often another member is probed. One that hasn't answered by the period's end, neither
    /// itself nor through others, is suspected.
    pub probe_period: Duration,
    /// After how long without an answer others are asked to probe it too. Less than half of
    /// `probe_period`.
    pub probe_wait: Duration,
    /// How many others are asked.
    pub indirect_probes: NonZeroUsize,
    /// How long a suspect may take to speak up before it is down, in a mesh of up to ten nodes;
    /// grows with the logarithm of the mesh.
    pub suspicion: Duration,
    /// How often news is sent to members drawn at random, apart from what travels with probes.
    pub gossip_period: Duration,
    /// How often tables are compared with a member drawn at random.
    pub sync_period: Duration,
    /// How often members that are down are addressed, so that a healed partition is noticed.
    pub rejoin_period: Duration,
    /// How often a member drawn at random is asked for its list of members.
    pub announce_period: Duration,
    /// How long a member that is down is remembered.
    pub forget_after: Duration,
    /// How many members that are down are remembered.
    pub down_max: usize,
    /// How many living members are believed in.
    pub members_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            probe_period: Duration::from_millis(500),
            probe_wait: Duration::from_millis(200),
            indirect_probes: NonZeroUsize::MIN.saturating_add(2),
            suspicion: Duration::from_millis(1500),
            gossip_period: Duration::from_millis(200),
            sync_period: Duration::from_secs(2),
            rejoin_period: Duration::from_secs(5),
            announce_period: Duration::from_secs(10),
            forget_after: Duration::from_secs(3600),
            down_max: 1024,
            members_max: 4096,
        }
    }
}

/// The largest packet of the SWIM library, in bytes: some hundred members.
pub(super) const PACKET_BYTES: usize = 16 << 10;
/// The most bytes of rumours on the back of one message.
pub(super) const RUMOUR_BYTES: usize = 16 << 10;

impl Settings {
    /// How often a piece of news is sent in a mesh of `members`: enough for all to hear of it with
    /// high probability.
    pub(super) fn times(&self, members: usize) -> u32 {
        (members + 1).ilog2() + 3
    }

    /// See `suspicion`.
    pub(super) fn suspicion(&self, members: usize) -> Duration {
        // Three tenths of the binary logarithm is the decimal one.
        let tenths = (3 * members.max(1).ilog2()).max(10);
        self.suspicion * tenths / 10
    }

    /// The library's configuration. Its periods are kept by [`super::Swim`], which stretches them;
    /// it forgets, gossips and addresses the dead on that one's word alone.
    pub(super) fn library(&self, members: usize) -> foca::Config {
        let some = NonZeroUsize::MIN;
        let times = u8::try_from(self.times(members)).ok().and_then(NonZeroU8::new);
        foca::Config {
            probe_period: self.probe_period,
            probe_rtt: self.probe_wait,
            num_indirect_probes: self.indirect_probes,
            max_transmissions: times.unwrap_or(NonZeroU8::MAX),
            suspect_to_down_after: self.suspicion(members),
            remove_down_after: None,
            max_packet_size: some.saturating_add(PACKET_BYTES - 1),
            notify_down_members: true,
            periodic_announce: Some(foca::PeriodicParams { frequency: self.announce_period, num_members: some }),
            periodic_announce_to_down_members: None,
            periodic_gossip: None,
        }
    }
}
