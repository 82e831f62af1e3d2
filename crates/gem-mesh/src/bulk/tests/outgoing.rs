//! Order, turns and cancelling.

use super::*;

fn parcel(size: usize) -> Parcel {
    Parcel::new(0, vec![0; size])
}

/// The frames that are sent in one round of at most `bytes`.
fn round(outgoing: &mut Outgoing, bytes: usize, calls: usize) -> Vec<Frame> {
    let mut output = Output::default();
    outgoing.fill(&mut output, bytes, calls, Instant::now());
    let all: Vec<u8> = output.slices.iter().flatten().copied().collect();
    let mut rest = &all[..];
    let mut frames = Vec::new();
    while let Some((frame, length)) = super::super::frame::decode(rest, usize::MAX).unwrap() {
        let follows = if let Frame::Data { bytes, .. } = &frame { *bytes as usize } else { 0 };
        rest = &rest[length + follows..];
        frames.push(frame);
    }
    frames
}

fn begun(frames: &[Frame]) -> Vec<u64> {
    frames.iter().filter_map(|frame| if let Frame::Answer { id, .. } = frame { Some(*id) } else { None }).collect()
}

fn outgoing(window: u64) -> Outgoing {
    let mut outgoing = Outgoing::new(100, 1000);
    outgoing.connected(window);
    outgoing
}

#[test]
fn a_lane_waits_for_its_large_one_and_others_pass() {
    let mut outgoing = outgoing(10_000);
    outgoing.parcel(1, 7, Purpose::Answer, parcel(1000));
    outgoing.parcel(2, 7, Purpose::Answer, parcel(1));
    outgoing.parcel(3, 8, Purpose::Answer, parcel(1));
    let frames = round(&mut outgoing, usize::MAX, usize::MAX);
    assert_eq!(begun(&frames), [1, 3, 2]);
    let place = |wanted: &Frame| frames.iter().position(|frame| frame == wanted).unwrap();
    let last = frames.iter().rposition(|frame| matches!(frame, Frame::Data { id: 1, .. })).unwrap();
    assert!(place(&Frame::Data { id: 3, bytes: 1 }) < last && place(&Frame::Data { id: 2, bytes: 1 }) > last);
}

#[test]
fn a_lane_waits_for_one_that_began_before_the_next_was_added() {
    let mut outgoing = outgoing(10_000);
    outgoing.parcel(1, 7, Purpose::Answer, parcel(1000));
    assert_eq!(begun(&round(&mut outgoing, 150, 9)), [1]);
    outgoing.parcel(2, 7, Purpose::Answer, parcel(1));
    let frames = round(&mut outgoing, usize::MAX, 9);
    let last = frames.iter().rposition(|frame| matches!(frame, Frame::Data { id: 1, .. })).unwrap();
    assert!(frames.iter().position(|frame| matches!(frame, Frame::Answer { id: 2, .. })).unwrap() > last);
}

#[test]
fn nothing_begins_beyond_window_or_calls_and_what_has_begun_goes_on() {
    let mut outgoing = outgoing(1000);
    for id in 1..=4 {
        outgoing.parcel(id, id, Purpose::Answer, parcel(600));
    }
    assert_eq!(begun(&round(&mut outgoing, usize::MAX, 1)), [1]);
    let frames = round(&mut outgoing, usize::MAX, 9);
    assert_eq!(begun(&frames), [2]);
    assert_eq!(frames.iter().filter(|frame| matches!(frame, Frame::Data { id: 2, .. })).count(), 6);
    assert!(round(&mut outgoing, usize::MAX, 9).is_empty());
    outgoing.window(500);
    assert_eq!(begun(&round(&mut outgoing, usize::MAX, 9)), [3]);
}

#[test]
fn what_is_cancelled_is_not_sent_and_frees_its_lane() {
    let mut outgoing = outgoing(10_000);
    outgoing.parcel(1, 7, Purpose::Answer, parcel(1000));
    outgoing.parcel(2, 7, Purpose::Answer, parcel(1));
    outgoing.parcel(3, 7, Purpose::Answer, parcel(1));
    assert_eq!(begun(&round(&mut outgoing, 150, 9)), [1]);
    assert!(outgoing.cancel_waiting(2, 7) && !outgoing.cancel_waiting(2, 7) && !outgoing.cancel_waiting(1, 7));
    assert!(outgoing.cancel_begun(1) && !outgoing.cancel_begun(1));
    let frames = round(&mut outgoing, usize::MAX, 9);
    assert_eq!(begun(&frames), [3]);
    assert!(!frames.iter().any(|frame| matches!(frame, Frame::Data { id: 1, .. })));
    assert_eq!(
        (outgoing.waiting(), outgoing.waiting_bytes(), outgoing.lanes.len(), outgoing.turns.len()),
        (0, 0, 0, 0)
    );
}

#[test]
fn what_waits_outlives_a_connection_and_what_was_cut_is_told() {
    let mut outgoing = outgoing(10_000);
    outgoing.parcel(1, 7, Purpose::Answer, parcel(1000));
    outgoing.parcel(2, 7, Purpose::Answer, parcel(1));
    outgoing.parcel(3, 8, Purpose::Answer, parcel(1));
    assert_eq!(begun(&round(&mut outgoing, 150, 1)), [1]);
    assert_eq!(outgoing.disconnected(), HashSet::from([1]));
    assert_eq!(outgoing.waiting_ids(), HashSet::from([2, 3]));
    assert!(round(&mut outgoing, usize::MAX, 9).is_empty());
    outgoing.connected(10_000);
    let mut again = begun(&round(&mut outgoing, usize::MAX, 9));
    again.sort_unstable();
    assert_eq!(again, [2, 3]);
}

#[test]
fn what_was_used_is_granted_a_quarter_at_a_time() {
    let mut outgoing = outgoing(10_000);
    assert!(!outgoing.used(249));
    assert!(round(&mut outgoing, usize::MAX, 9).is_empty());
    assert!(outgoing.used(1));
    assert_eq!(round(&mut outgoing, usize::MAX, 9), [Frame::Window { bytes: 250 }]);
    assert_eq!(outgoing.granted.load(Ordering::Acquire), 250);
}
