//! The receiving half against the sending one, and against noise.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::time::Instant;

use super::super::outgoing::{Outgoing, Output, Purpose};
use super::*;

fn incoming(window: u64, granted: &Arc<AtomicU64>) -> Incoming {
    Incoming::new(Side::Answering, window, 1000, Arc::clone(granted))
}

/// All bytes that `outgoing` has to send at once.
fn sent(outgoing: &mut Outgoing, at_most: usize) -> Vec<u8> {
    let mut output = Output::default();
    outgoing.fill(&mut output, at_most, usize::MAX, Instant::now());
    let all = output.slices.iter().flatten().copied().collect::<Vec<u8>>();
    assert_eq!(all.len(), output.len());
    all
}

proptest! {
    /// Parcels of any sizes, on any lanes, cut anywhere: each comes out as it went in, lanes in
    /// order, and what is outstanding keeps to the window, as both sides count it.
    #[test]
    fn parcels_come_out_as_they_went_in(
        parcels in vec((0u64..4, vec(0usize..3000, 0..5)), 1..40),
        window in 1u64..10_000,
        cuts in vec(1usize..2000, 1..20),
        room in 1usize..5000,
    ) {
        let mut outgoing = Outgoing::new(500, 1);
        outgoing.connected(window);
        let deadline = Instant::now() + Duration::from_secs(9);
        let mut expected = Vec::new();
        for (n, (lane, sizes)) in parcels.iter().enumerate() {
            let parts = sizes.iter().map(|&size| Bytes::from(vec![n as u8; size])).collect();
            let parcel = Parcel { kind: n as u16, parts };
            outgoing.parcel(n as u64, *lane, Purpose::Request { deadline }, parcel.clone());
            expected.push((*lane, parcel));
        }
        let granted = Arc::new(AtomicU64::new(0));
        let mut incoming = incoming(window, &granted);
        let mut got = Vec::new();
        // Arrivals that have been given back to the window.
        let mut given = 0;
        let mut cut = cuts.iter().cycle();
        loop {
            let bytes = sent(&mut outgoing, room);
            if bytes.is_empty() {
                break;
            }
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(*cut.next().unwrap()));
                rest = later;
                incoming.take(now, &mut |what| got.push(what)).unwrap();
            }
            for what in got.iter().skip(given) {
                let Arrived::Request { charge, .. } = what else { panic!("{what:?}") };
                outgoing.window(*charge);
                granted.fetch_add(*charge, Ordering::AcqRel);
            }
            given = got.len();
        }
        prop_assert_eq!(got.len(), expected.len());
        let mut lanes: [Option<u64>; 4] = [None; 4];
        for what in got {
            let Arrived::Request { id, parcel, wait_ms, .. } = what else { panic!("{what:?}") };
            let (lane, expected) = &expected[id as usize];
            prop_assert_eq!(&parcel, expected);
            prop_assert!(wait_ms > 0 && wait_ms <= 9000);
            prop_assert!(lanes[*lane as usize].replace(id).is_none_or(|before| before < id), "lane {} out of order", lane);
        }
        prop_assert_eq!((outgoing.waiting(), outgoing.waiting_bytes()), (0, 0));
    }

    #[test]
    fn noise_never_panics_and_holds_little(
        frames in vec(prop_oneof![
            super::super::frame::tests::frame().prop_map(Ok),
            vec(any::<u8>(), 0..30).prop_map(Err),
        ], 0..30),
        side in prop_oneof![Just(Side::Answering), Just(Side::Calling)],
    ) {
        let mut incoming = Incoming::new(side, 10_000, 10, Arc::default());
        for frame in frames {
            let mut bytes = BytesMut::new();
            match frame {
                Ok(frame) => frame.encode(&mut bytes),
                Err(noise) => bytes.extend_from_slice(&noise),
            }
            if incoming.take(&bytes, &mut |_| {}).is_err() {
                break;
            }
            prop_assert!(incoming.parcels.len() <= 10 && incoming.taken <= 15_064);
            prop_assert!(incoming.partial.len() < FRAME_BYTES_MAX);
        }
    }
}

fn encoded(frames: &[Frame]) -> BytesMut {
    let mut bytes = BytesMut::new();
    frames.iter().for_each(|frame| frame.encode(&mut bytes));
    bytes
}

fn request(id: u64, bytes: u32) -> Frame {
    Frame::Request { id, lane: 0, wait_ms: 1, head: Head { kind: 0, parts: vec![bytes] } }
}

#[test]
fn a_peer_that_exceeds_what_was_agreed_is_cut_off() {
    let reason = |frames: &[Frame]| {
        let mut incoming = Incoming::new(Side::Answering, 1000, 2, Arc::default());
        incoming.take(&encoded(frames), &mut |_| {}).unwrap_err().to_string()
    };
    assert!(reason(&[request(1, 900), request(2, 900), request(3, 1)]).contains("window"));
    assert!(reason(&[request(1, 1), request(2, 1), request(3, 1)]).contains("more calls"));
    assert!(reason(&[request(1, 1), request(1, 1)]).contains("already"));
    assert!(reason(&[Frame::Data { id: 1, bytes: 1 }]).contains("not begun"));
    assert!(reason(&[request(1, 1), Frame::Data { id: 1, bytes: 2 }]).contains("announced"));
    assert!(reason(&[Frame::Failed { id: 1, reason: String::new() }]).contains("belong"));
}

#[test]
fn a_call_that_is_cancelled_on_its_way_is_dropped_and_given_back() {
    let granted = Arc::new(AtomicU64::new(0));
    let mut incoming = incoming(1 << 20, &granted);
    let mut arrived = Vec::new();
    incoming.take(&encoded(&[request(1, 100), Frame::Cancel { id: 1 }]), &mut |what| arrived.push(what)).unwrap();
    assert_eq!(arrived, [Arrived::Dropped { charge: 172 }]);
    assert!(incoming.parcels.is_empty());
}
