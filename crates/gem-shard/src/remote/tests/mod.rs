//! What goes in comes out, nothing that comes in panics, and misses are told apart.

mod strategies;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use gem_types::batch::RecordBatch;
use gem_types::{Code, Error, GroupId, PartitionId, Position, Prefix};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::call::Kind;
use super::*;
use crate::log::{Append, Delivered, GroupRef, Placed, Read, ShardLog, TokenText, Verb};
use crate::parts::tests::{batch, bend};
use strategies::{answer_of, request};

/// The batches' bytes: `Debug`, by which all else is compared, shows only some of them.
fn batches_of(answer: &Answer) -> Vec<Bytes> {
    match answer {
        Answer::Answered(Output::Read(read)) => read.batches.iter().map(RecordBatch::to_bytes).collect(),
        Answer::Answered(Output::Delivered(messages)) => messages.iter().map(|m| m.batch.to_bytes()).collect(),
        _ => Vec::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn requests_come_back(request in request()) {
        let parts = request.encode();
        prop_assert_eq!(target(&parts), Ok(request.target));
        let arrived = Request::decode(&parts).unwrap();
        prop_assert_eq!(format!("{arrived:?}"), format!("{request:?}"));
        if let (Call::Append(arrived), Call::Append(sent)) = (&arrived.call, &request.call) {
            prop_assert_eq!(&arrived.batch, &sent.batch);
        }
        prop_assert_eq!(arrived.encode(), parts);
    }

    #[test]
    fn answers_come_back((kind, answer) in answer_of()) {
        let parts = answer.encode(kind);
        let arrived = Answer::decode(&parts, kind).unwrap();
        prop_assert_eq!(format!("{arrived:?}"), format!("{answer:?}"));
        prop_assert_eq!(batches_of(&arrived), batches_of(&answer));
        prop_assert_eq!(arrived.encode(kind), parts);
    }

    #[test]
    fn bent_messages_are_refused_or_read(
        request in request(), (kind, answer) in answer_of(), part: Index, at: Index, how in 0u8..11,
    ) {
        let mut parts = request.encode();
        bend(&mut parts, part, at, how);
        let peeked = target(&parts);
        if let Ok(arrived) = Request::decode(&parts) {
            prop_assert_eq!(peeked, Ok(arrived.target));
            prop_assert!(Request::decode(&arrived.encode()).is_ok());
        }
        let mut parts = answer.encode(kind);
        bend(&mut parts, part, at, how);
        if let Ok(arrived) = Answer::decode(&parts, kind) {
            prop_assert!(Answer::decode(&arrived.encode(kind), kind).is_ok());
        }
    }

    #[test]
    fn no_parts_panic(parts: Vec<Vec<u8>>, kind in select(Kind::ALL.to_vec()), body: Vec<u8>, flags in 0u8..4) {
        let heads = [
            // As it comes; behind a target; behind the head of an answer.
            vec![],
            [&[1, kind as u8][..], &[7; 16], &[0; 9], &[5, flags], &[0; 8][..usize::from(flags & 2) * 4]].concat(),
            vec![1, 0, kind as u8],
        ];
        for mut head in heads {
            head.extend(&body);
            let parts: Vec<Bytes> = std::iter::once(head).chain(parts.clone()).map(Bytes::from).collect();
            let _ = target(&parts);
            let _ = Request::decode(&parts);
            let _ = Answer::decode(&parts, kind);
        }
    }
}

#[test]
fn every_kind_has_a_number_of_its_own() {
    for kind in Kind::ALL {
        assert_eq!(Kind::of(kind as u8), Some(kind));
    }
    assert_eq!((Kind::of(0), Kind::of(19)), (None, None));
}

#[test]
fn an_answer_to_another_call_is_refused() {
    let parts = Answer::Answered(Output::Done).encode(Kind::Trim);
    assert!(Answer::decode(&parts, Kind::Trim).is_ok() && Answer::decode(&parts, Kind::Seek).is_err());
}

fn target_of(call: &Call) -> Target {
    let target = Target { group: GroupId([1; 16]), prefix: Prefix::ROOT, epoch: 3, position: None, is_read_any: true };
    Request::new(target, call.clone()).target
}

fn append_call(payload: usize) -> Call {
    let wait = Duration::from_millis(1500);
    let (partition, batch) = (PartitionId([9; 16]), batch(payload, None));
    Call::Append(Append { partition, batch, dedup: vec![], producer: None, wait })
}

#[test]
fn only_reads_go_to_any_replica() {
    let read = Call::Stats { partition: PartitionId([9; 16]) };
    assert!(target_of(&read).is_read_any && !target_of(&append_call(1)).is_read_any);
    let mut parts = Request::new(target_of(&read), read).encode();
    // The kind of a trim, which only a leader may do.
    let mut head = parts[0].to_vec();
    head[1] = Kind::Trim as u8;
    parts[0] = head.into();
    assert!(target(&parts).is_err());
}

#[test]
fn a_position_that_is_not_the_call_s_is_refused() {
    let call = append_call(1);
    let elsewhere = Target { position: Some(Position(1)), ..target_of(&call) };
    let parts = Request { target: elsewhere, call }.encode();
    assert!(target(&parts).is_ok() && Request::decode(&parts).is_err());
}

#[test]
fn a_batch_is_sent_once_and_never_copied() {
    let one = Arc::new(batch(9000, Some(4)));
    let message = Delivered { batch: one.clone(), index: 0, offset: 4, delivery: 1, token: TokenText::NONE };
    let answer = Answer::Answered(Output::Delivered(vec![message; 50]));
    let parts = answer.encode(Kind::Pull);
    assert_eq!(parts.len(), 2);
    let Ok(Answer::Answered(Output::Delivered(messages))) = Answer::decode(&parts, Kind::Pull) else { panic!() };
    assert!(messages.iter().all(|message| Arc::ptr_eq(&message.batch, &messages[0].batch)));
    assert_eq!(messages[0].batch.parts()[1].as_ptr(), one.parts()[1].as_ptr());
}

#[test]
fn a_message_beyond_its_batch_is_refused() {
    let message =
        Delivered { batch: Arc::new(batch(9, None)), index: 1, offset: 4, delivery: 1, token: TokenText::NONE };
    let parts = Answer::Answered(Output::Delivered(vec![message])).encode(Kind::Pull);
    assert!(Answer::decode(&parts, Kind::Pull).is_err());
}

#[test]
fn a_wait_is_cut_to_what_the_other_side_takes() {
    let read = |wait| Call::Read(Read { partition: PartitionId([9; 16]), from: 0, max_bytes: 1, wait });
    for (wait, carried) in [(Duration::MAX, WAIT_MAX), (Duration::from_micros(1), Duration::from_millis(1))] {
        let call = read(wait);
        let arrived = Request::decode(&Request::new(target_of(&call), call).encode()).unwrap().call;
        assert_eq!(arrived.wait(), carried);
    }
}

/// Gives one answer to everything.
struct Scripted {
    answer: Result<Vec<Bytes>, PipeError>,
    waits: Mutex<Vec<Duration>>,
    hints: Mutex<Vec<Bytes>>,
}

impl Pipe for Scripted {
    fn call(&self, _: Vec<Bytes>, wait: Duration) -> BoxFuture<'static, Result<Vec<Bytes>, PipeError>> {
        self.waits.lock().unwrap().push(wait);
        let answer = self.answer.clone();
        async move { answer }.boxed()
    }

    fn redirected(&self, hint: Bytes) {
        self.hints.lock().unwrap().push(hint);
    }
}

fn scripted(answer: Result<Vec<Bytes>, PipeError>) -> (Arc<Scripted>, RemoteShard) {
    let pipe = Arc::new(Scripted { answer, waits: Mutex::default(), hints: Mutex::default() });
    (pipe.clone(), RemoteShard::new(pipe, GroupId([1; 16]), Prefix::ROOT, 3))
}

async fn codes(shard: &RemoteShard) -> [Code; 3] {
    let Call::Append(append) = append_call(10) else { panic!() };
    let partition = append.partition;
    let group = GroupRef { topic: "t".parse().unwrap(), partition, group: "g".parse().unwrap() };
    [
        shard.append(append).await.unwrap_err().code,
        shard.settle(group, Arc::new(vec![("x".into(), Verb::Ack)])).await.unwrap_err().code,
        shard.stats(partition).await.unwrap_err().code,
    ]
}

#[tokio::test]
async fn what_was_not_carried_out_is_unavailable() {
    let (_, shard) = scripted(Err(PipeError::Unreachable("no way".into())));
    assert_eq!(codes(&shard).await, [Code::Unavailable; 3]);
    let miss = shard.call(&append_call(1)).await.unwrap_err();
    assert!(miss.may_be_tried_again(&append_call(1)));
    assert!(miss.into_error(&append_call(1), Prefix::ROOT).retry_after_ms.is_some());
}

#[tokio::test]
async fn what_may_have_been_carried_out_is_unknown_where_it_matters() {
    for lost in [Err(PipeError::Lost("cut".into())), Ok(vec![]), Ok(vec![Bytes::from_static(b"\x01\x00\x02")])] {
        let (_, shard) = scripted(lost);
        assert_eq!(codes(&shard).await, [Code::Deadline, Code::Deadline, Code::Unavailable]);
        let miss = shard.call(&append_call(1)).await.unwrap_err();
        let Call::Append(mut append) = append_call(1) else { panic!() };
        assert!(!miss.may_be_tried_again(&Call::Append(append.clone())));
        append.dedup = vec![Some([1; 16])];
        assert!(miss.may_be_tried_again(&Call::Append(append)));
    }
}

#[tokio::test]
async fn a_redirect_is_told_to_the_pipe_and_to_the_router() {
    let hint = Bytes::from_static(b"a newer descriptor");
    let (pipe, shard) = scripted(Ok(redirect(hint.clone())));
    assert_eq!(shard.call(&append_call(1)).await.unwrap_err(), Miss::Redirected(hint.clone()));
    assert_eq!(codes(&shard).await, [Code::Unavailable; 3]);
    assert_eq!(*pipe.hints.lock().unwrap(), vec![hint; 4]);
}

#[tokio::test]
async fn a_refusal_is_the_shard_s_own() {
    let error = Error::throttled("too much", 77);
    let (pipe, shard) = scripted(Ok(refuse(&error)));
    let Call::Append(append) = append_call(1) else { panic!() };
    assert_eq!(shard.append(append).await.unwrap_err(), error);
    let wait = pipe.waits.lock().unwrap()[0];
    assert!(wait > Duration::from_millis(1500) && wait < Duration::from_secs(5), "{wait:?}");
}

#[tokio::test]
async fn an_answer_for_other_records_than_were_sent_is_a_fault() {
    let placed = Answer::Answered(Output::Placed(vec![Placed { offset: 1, duplicate: false }; 2]));
    let (_, shard) = scripted(Ok(placed.encode(Kind::Append)));
    let Call::Append(append) = append_call(1) else { panic!() };
    assert_eq!(shard.append(append).await.unwrap_err().code, Code::Internal);
}
