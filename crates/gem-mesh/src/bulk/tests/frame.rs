//! Properties of the codec.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::runs::past_tests::runs;

fn head() -> impl Strategy<Value = Head> {
    (any::<u16>(), vec(0u32..1 << 16, 0..40)).prop_map(|(kind, parts)| Head { kind, parts })
}

pub(in crate::bulk) fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        (any::<(u16, [u8; 16], u64, u32, [u8; 32], bool)>(), runs()).prop_map(
            |((version, mesh, window, calls, proof, is_older), runs)| {
                Frame::Hello(Hello { version, mesh: MeshId(mesh), window, calls, proof, is_older, runs })
            }
        ),
        ".{0,100}".prop_map(Frame::Refused),
        (any::<u64>(), any::<u64>(), any::<u32>(), head()).prop_map(|(id, lane, wait_ms, head)| Frame::Request {
            id,
            lane,
            wait_ms,
            head
        }),
        (any::<u64>(), head()).prop_map(|(id, head)| Frame::Answer { id, head }),
        (any::<u64>(), 1..=DATA_BYTES_MAX as u32).prop_map(|(id, bytes)| Frame::Data { id, bytes }),
        (any::<u64>(), ".{0,100}").prop_map(|(id, reason)| Frame::Failed { id, reason }),
        any::<u64>().prop_map(|id| Frame::Cancel { id }),
        any::<u64>().prop_map(|bytes| Frame::Window { bytes }),
        any::<u64>().prop_map(Frame::Ping),
        any::<u64>().prop_map(Frame::Pong),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_decodes(frame in frame(), after in vec(any::<u8>(), 0..20)) {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        let length = bytes.len();
        bytes.extend_from_slice(&after);
        prop_assert_eq!(decode(&bytes, FRAME_BYTES_MAX), Ok(Some((frame, length))));
    }

    #[test]
    fn what_is_cut_off_is_incomplete(frame in frame(), cut in any::<prop::sample::Index>()) {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        let cut = &bytes[..cut.index(bytes.len())];
        prop_assert_eq!(decode(cut, FRAME_BYTES_MAX), Ok(None));
        let needed = needed(cut, FRAME_BYTES_MAX).unwrap();
        prop_assert!(needed > cut.len() && needed <= bytes.len());
    }

    #[test]
    fn noise_is_refused_or_is_what_it_encodes_to(bytes in vec(any::<u8>(), 0..200), kind in 0u8..12, short in any::<bool>()) {
        let mut bytes = bytes;
        if short && bytes.len() > 5 {
            let length = bytes.len() as u32 - 4;
            bytes[..4].copy_from_slice(&length.to_le_bytes());
            bytes[4] = kind;
        }
        if let Ok(Some((frame, length))) = decode(&bytes, FRAME_BYTES_MAX) {
            let mut again = BytesMut::new();
            frame.encode(&mut again);
            if !matches!(frame, Frame::Hello(_)) {
                prop_assert_eq!(&again[..], &bytes[..length]);
            }
        }
        if let Ok(needed) = needed(&bytes, FRAME_BYTES_MAX) {
            prop_assert!(needed <= FRAME_BYTES_MAX);
        }
    }
}

#[test]
fn a_parcel_beyond_the_most_is_refused() {
    let most = PARCEL_BYTES_MAX as u32;
    let encoded = |parts: Vec<u32>| {
        let mut bytes = BytesMut::new();
        Frame::Answer { id: 1, head: Head { kind: 0, parts } }.encode(&mut bytes);
        bytes
    };
    assert!(matches!(decode(&encoded(vec![most]), FRAME_BYTES_MAX), Ok(Some(_))));
    assert!(matches!(decode(&encoded(vec![most, 1]), FRAME_BYTES_MAX), Err(FrameError::Parcel { .. })));
    assert!(matches!(decode(&encoded(vec![0; PARCEL_PARTS_MAX]), FRAME_BYTES_MAX), Ok(Some(_))));
    assert!(decode(&encoded(vec![0; PARCEL_PARTS_MAX + 20]), FRAME_BYTES_MAX).is_err());
}

#[test]
fn a_reason_is_cut_between_characters() {
    let mut bytes = BytesMut::new();
    Frame::Refused("é".repeat(400) + "x").encode(&mut bytes);
    let Ok(Some((Frame::Refused(reason), _))) = decode(&bytes, HELLO_BYTES_MAX) else { panic!() };
    assert_eq!(reason, "é".repeat(256));
}

#[test]
fn a_window_holds_a_few_large_parcels_and_counts_empty_ones() {
    let window = 1000;
    let charge = |parts: &[u32]| Head { kind: 0, parts: parts.to_vec() }.charge(window);
    assert_eq!(charge(&[1 << 20]), 500);
    assert!(charge(&[]) > 0 && charge(&[0, 0]) > charge(&[0]));
    assert!(Head { kind: 0, parts: vec![] }.charge(0) > 0);
}
