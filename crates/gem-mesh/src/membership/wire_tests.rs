use foca::State;
use gem_types::{Incarnation, Prefix, ReplicaId};
use proptest::prelude::*;

use super::*;
use crate::directory::Seat;

fn node() -> impl Strategy<Value = NodeId> {
    any::<[u8; 32]>().prop_map(NodeId)
}

prop_compose! {
    fn member()(
        node in node(), disk: u64, run: u64, control: std::net::SocketAddr, bulk: std::net::SocketAddr,
        texts in prop::array::uniform3("[a-zä0-9:/]{0,40}"), is_draining: bool,
    ) -> Member {
        let [http, zone, name] = texts;
        Member { node, incarnation: Incarnation(disk), run, control, bulk, http, zone, name, is_draining }.plain()
    }
}

prop_compose! {
    fn descriptor()(
        bits: u64, length in 0u8..=64, group: [u8; 16], epoch: u64, term: u64, leader in prop::option::of(node()),
        seats in prop::collection::vec((node(), any::<u64>(), any::<bool>()), 0..5),
    ) -> Descriptor {
        let seat = |(node, disk, is_voter)| {
            Seat { replica: ReplicaId { node, incarnation: Incarnation(disk) }, is_voter }
        };
        let prefix = Prefix::new(bits, length).unwrap();
        Descriptor { prefix, group: GroupId(group), epoch, seats: seats.into_iter().map(seat).collect(), leader, term }
    }
}

fn rumour() -> impl Strategy<Value = Rumour> {
    prop_oneof![
        descriptor().prop_map(Rumour::Shard),
        (node(), any::<u64>()).prop_map(|(node, run)| Rumour::Left { node, run }),
        (node(), any::<u64>(), any::<[u64; 4]>(), any::<bool>()).prop_map(|(node, run, n, is_disk_full)| {
            let load = Load {
                version: n[0],
                cpu_permille: n[1] as u16,
                disk_bytes: n[2],
                replicas: n[3] as u32,
                is_disk_full,
                ..Load::default()
            };
            Rumour::Load { node, run, load }
        }),
    ]
}

fn envelope() -> impl Strategy<Value = Envelope> {
    let rank = (any::<u64>(), any::<u64>(), any::<bool>()).prop_map(|(epoch, term, has_leader)| Rank {
        epoch,
        term,
        has_leader,
    });
    let group = any::<[u8; 16]>().prop_map(GroupId);
    prop_oneof![
        (prop::collection::vec(any::<u8>(), 0..50), prop::collection::vec(rumour(), 0..5))
            .prop_map(|(packet, rumours)| Envelope::Swim { packet, rumours }),
        prop::collection::vec(rumour(), 0..5).prop_map(Envelope::Rumours),
        prop::collection::vec(any::<u64>(), 0..300).prop_map(Envelope::Sums),
        (any::<Vec<u8>>(), prop::collection::vec((group.clone(), rank), 0..20))
            .prop_map(|(parts, marks)| Envelope::Marks { parts, marks }),
        prop::collection::vec(group, 0..20).prop_map(Envelope::Want),
        prop::collection::vec(descriptor(), 0..5).prop_map(Envelope::Have),
    ]
}

fn update() -> impl Strategy<Value = Update<Member>> {
    let state = prop_oneof![Just(State::Alive), Just(State::Suspect), Just(State::Down)];
    (member(), any::<u16>(), state).prop_map(|(id, incarnation, state)| Update::new(id, incarnation, state))
}

proptest! {
    #[test]
    fn messages_and_back(envelope in envelope()) {
        let bytes = envelope.encode();
        prop_assert_eq!(bytes[0], VERSION);
        prop_assert_eq!(Envelope::decode(&bytes), Some(envelope));
        for cut in 0..bytes.len() {
            prop_assert_eq!(Envelope::decode(&bytes[..cut]), None);
        }
    }

    #[test]
    fn anything_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Envelope::decode(&bytes);
        let _ = Packet::read(&bytes);
    }

    #[test]
    fn damage_is_survived(envelope in envelope(), at: prop::sample::Index, to: u8) {
        let mut bytes = envelope.encode();
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Some(Envelope::Have(descriptors)) = Envelope::decode(&bytes) {
            // Whatever it reads as can be worked with.
            for d in descriptors {
                prop_assert!(d.prefix.first() <= d.prefix.last());
            }
        }
    }

    #[test]
    fn packets_and_back(
        src in member(), dst in member(), updates in prop::collection::vec(update(), 0..5),
        tail in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let header = Header { src, src_incarnation: 3, dst, message: foca::Message::Gossip };
        let packet = Packet { header, updates, tail: &tail };
        let bytes = packet.write();
        let read = Packet::read(&bytes).unwrap();
        prop_assert_eq!(&read.header, &packet.header);
        prop_assert_eq!(&read.updates, &packet.updates);
        prop_assert_eq!(read.write(), bytes);
    }
}

#[test]
fn another_version_is_refused() {
    let mut bytes = Envelope::Want(vec![]).encode();
    bytes[0] = VERSION + 1;
    assert_eq!(Envelope::decode(&bytes), None);
    assert_eq!(Envelope::decode(&[]), None);
}
