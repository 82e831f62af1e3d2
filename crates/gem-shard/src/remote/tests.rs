//! What goes in comes out, nothing that comes in panics, and misses are told apart.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use gem_types::batch::RecordBatch;
use gem_types::{Code, Error, GroupId, GroupName, PartitionId, Position, Prefix, ProducerId, TopicName};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::call::Kind;
use super::*;
use crate::log::{
    Append, Delivered, From, GroupInfo, GroupRef, MemberInfo, Mode, Ordering, PartitionInfo, PartitionStats, Placed,
    ProducerBatch, Pull, Read, ReadOut, ShardLog, Status, TokenText, TopicChange, TopicConfig, TopicInfo, TopicPage,
    Verb,
};
use crate::parts::tests::{batch, bend};

fn topic() -> impl Strategy<Value = TopicName> {
    "[a-zA-Z0-9_-]{1,20}".prop_map(|name| TopicName::new(&name).unwrap())
}

fn partition() -> impl Strategy<Value = PartitionId> {
    any::<[u8; 16]>().prop_map(PartitionId)
}

fn group() -> impl Strategy<Value = GroupRef> {
    (topic(), partition(), "[a-z_-]{1,9}").prop_map(|(topic, partition, group)| GroupRef {
        topic,
        partition,
        group: GroupName::new(&group).unwrap(),
    })
}

fn some_batch() -> impl Strategy<Value = RecordBatch> {
    (select(vec![0usize, 100, 600, 3000]), any::<Option<u32>>())
        .prop_map(|(size, stamp)| batch(size, stamp.map(u64::from)))
}

fn wait() -> impl Strategy<Value = Duration> {
    (0..=WAIT_MAX.as_millis() as u64).prop_map(Duration::from_millis)
}

fn config() -> impl Strategy<Value = TopicConfig> {
    (any::<u64>(), option::of(0..u64::MAX), any::<u32>(), any::<bool>()).prop_map(|(ms, bytes, max, total)| {
        TopicConfig {
            retention_ms: ms,
            retention_bytes: bytes,
            max_deliveries: max,
            ack_timeout_ms: ms / 3,
            ordering: if total { Ordering::Total } else { Ordering::Key },
            dedup_window_ms: ms / 2,
        }
    })
}

fn change() -> impl Strategy<Value = TopicChange> {
    (option::of(config()), any::<Option<u64>>()).prop_map(|(config, ms)| TopicChange {
        retention_ms: ms,
        retention_bytes: config.as_ref().map(|config| config.retention_bytes),
        max_deliveries: config.as_ref().map(|config| config.max_deliveries),
        ack_timeout_ms: ms.map(|ms| ms / 2),
        ordering: config.as_ref().map(|config| config.ordering),
        dedup_window_ms: config.map(|config| config.dedup_window_ms),
    })
}

fn from() -> impl Strategy<Value = From> {
    prop_oneof![
        Just(From::Earliest),
        Just(From::Latest),
        any::<i64>().prop_map(From::Time),
        (any::<u32>(), any::<u64>()).prop_map(|(number, offset)| From::At(number, offset)),
    ]
}

fn mode() -> impl Strategy<Value = Mode> {
    select(vec![Mode::Shared, Mode::Key])
}

fn append() -> impl Strategy<Value = Append> {
    let producer =
        (any::<i64>(), any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(producer, number, previous, settled)| {
            ProducerBatch { producer: ProducerId(producer), numbers: vec![number], previous, settled }
        });
    let dedup = option::of(any::<Option<[u8; 16]>>());
    (partition(), some_batch(), dedup, option::of(producer), wait()).prop_map(
        |(partition, batch, dedup, producer, wait)| Append {
            partition,
            batch,
            dedup: dedup.into_iter().collect(),
            producer,
            wait,
        },
    )
}

fn pull() -> impl Strategy<Value = Pull> {
    let sizes = (any::<usize>(), any::<usize>(), wait());
    (group(), ".{0,9}", option::of(mode()), option::of(from()), sizes, any::<Option<u64>>()).prop_map(
        |(group, consumer, mode, from, (max, max_bytes, wait), stream)| Pull {
            group,
            consumer,
            mode,
            from,
            max,
            max_bytes,
            wait,
            stream,
        },
    )
}

fn verb() -> impl Strategy<Value = Verb> {
    prop_oneof![
        Just(Verb::Ack),
        any::<u64>().prop_map(|delay_ms| Verb::Nack { delay_ms }),
        any::<u64>().prop_map(|by_ms| Verb::Extend { by_ms }),
    ]
}

fn call_of(kind: Kind) -> BoxedStrategy<Call> {
    match kind {
        Kind::CreateTopic => (topic(), config()).prop_map(|(name, config)| Call::CreateTopic { name, config }).boxed(),
        Kind::Topic => topic().prop_map(|name| Call::Topic { name }).boxed(),
        Kind::AlterTopic => (topic(), change()).prop_map(|(name, change)| Call::AlterTopic { name, change }).boxed(),
        Kind::DeleteTopic => topic().prop_map(|name| Call::DeleteTopic { name }).boxed(),
        Kind::ListTopics => (".{0,9}", option::of(".{0,9}"), any::<usize>())
            .prop_map(|(prefix, after, limit)| Call::ListTopics { prefix, after, limit })
            .boxed(),
        Kind::Append => append().prop_map(Call::Append).boxed(),
        Kind::Read => (partition(), any::<u64>(), any::<usize>(), wait())
            .prop_map(|(partition, from, max_bytes, wait)| Call::Read(Read { partition, from, max_bytes, wait }))
            .boxed(),
        Kind::Stats => partition().prop_map(|partition| Call::Stats { partition }).boxed(),
        Kind::Resolve => (partition(), any::<u32>(), from())
            .prop_map(|(partition, number, from)| Call::Resolve { partition, number, from })
            .boxed(),
        Kind::Trim => {
            (partition(), any::<Option<u64>>()).prop_map(|(partition, before)| Call::Trim { partition, before }).boxed()
        }
        Kind::Pull => pull().prop_map(Call::Pull).boxed(),
        Kind::Settle => (group(), vec((".{0,80}", verb()), 0..6))
            .prop_map(|(group, verbs)| Call::Settle { group, verbs: Arc::new(verbs) })
            .boxed(),
        Kind::Heartbeat => {
            (group(), ".{0,9}").prop_map(|(group, consumer)| Call::Heartbeat { group, consumer }).boxed()
        }
        Kind::CloseStream => (group(), ".{0,9}", any::<u64>())
            .prop_map(|(group, consumer, stream)| Call::CloseStream { group, consumer, stream })
            .boxed(),
        Kind::Groups => (topic(), partition()).prop_map(|(topic, partition)| Call::Groups { topic, partition }).boxed(),
        Kind::Group => group().prop_map(|group| Call::Group { group }).boxed(),
        Kind::Seek => (group(), any::<u64>()).prop_map(|(group, offset)| Call::Seek { group, offset }).boxed(),
        Kind::DeleteGroup => group().prop_map(|group| Call::DeleteGroup { group }).boxed(),
    }
}

fn request() -> impl Strategy<Value = Request> {
    let target = (any::<[u8; 16]>(), any::<u64>(), 0u8..=64, any::<u64>(), any::<bool>()).prop_map(
        |(group, bits, length, epoch, is_read_any)| Target {
            group: GroupId(group),
            prefix: Prefix::new(bits, length).unwrap(),
            epoch,
            position: None,
            is_read_any,
        },
    );
    let call = select(Kind::ALL.to_vec()).prop_flat_map(call_of);
    (target, call).prop_map(|(target, call)| Request::new(target, call))
}

fn topic_info() -> impl Strategy<Value = TopicInfo> {
    let partition = (any::<u32>(), partition(), any::<(u64, u64)>(), any::<Option<u64>>(), vec(any::<u32>(), 0..3))
        .prop_map(|(number, id, (first_hash, last_hash), sealed_at, parents)| PartitionInfo {
            number,
            id,
            first_hash,
            last_hash,
            sealed_at,
            parents,
        });
    (topic(), config(), any::<u64>(), vec(partition, 0..3)).prop_map(|(name, config, version, partitions)| TopicInfo {
        name,
        config,
        version,
        partitions,
    })
}

fn stats() -> impl Strategy<Value = PartitionStats> {
    any::<(u64, u64, u64, u64)>().prop_map(|(earliest, next, messages, bytes)| PartitionStats {
        earliest,
        next,
        messages,
        bytes,
    })
}

fn group_info() -> impl Strategy<Value = GroupInfo> {
    let member = (".{0,9}", any::<u64>(), any::<i64>()).prop_map(|(consumer, pending, last_seen_ms)| MemberInfo {
        consumer,
        pending,
        last_seen_ms,
    });
    (group(), mode(), any::<(u64, u64, u64, u64)>(), vec(member, 0..3)).prop_map(
        |(group, mode, (lag, pending, redelivered, dead_lettered), members)| GroupInfo {
            group: group.group,
            mode,
            lag,
            pending,
            redelivered,
            dead_lettered,
            members,
        },
    )
}

fn delivered() -> impl Strategy<Value = Vec<Delivered>> {
    let message = (any::<Index>(), any::<u64>(), any::<u32>(), option::of("[A-Za-z0-9_-]{75}"));
    (vec(some_batch(), 1..4), vec(message, 0..8)).prop_map(|(batches, messages)| {
        let batches: Vec<_> = batches.into_iter().map(Arc::new).collect();
        let of = |(which, offset, delivery, token): (Index, u64, u32, Option<String>)| Delivered {
            batch: batches[which.index(batches.len())].clone(),
            index: 0,
            offset,
            delivery,
            token: token.and_then(|token| TokenText::of(&token)).unwrap_or(TokenText::NONE),
        };
        messages.into_iter().map(of).collect()
    })
}

fn output_of(kind: Kind) -> BoxedStrategy<Output> {
    let statuses = vec![Status::Acked, Status::Nacked, Status::Extended, Status::Expired, Status::Unknown];
    match kind {
        Kind::CreateTopic => {
            (topic_info(), any::<bool>()).prop_map(|(topic, is_new)| Output::Created(topic, is_new)).boxed()
        }
        Kind::Topic | Kind::AlterTopic => topic_info().prop_map(Output::Topic).boxed(),
        Kind::ListTopics => (vec(topic_info(), 0..3), any::<bool>())
            .prop_map(|(topics, more)| Output::Topics(TopicPage { topics, more }))
            .boxed(),
        Kind::Append => vec(any::<(u64, bool)>(), 0..5)
            .prop_map(|placed| {
                let placed = placed.into_iter().map(|(offset, duplicate)| Placed { offset, duplicate });
                Output::Placed(placed.collect())
            })
            .boxed(),
        Kind::Read => (vec(some_batch(), 0..4), any::<u64>(), stats())
            .prop_map(|(batches, next, stats)| Output::Read(ReadOut { batches, next, stats }))
            .boxed(),
        Kind::Stats => stats().prop_map(Output::Stats).boxed(),
        Kind::Resolve => any::<u64>().prop_map(Output::Offset).boxed(),
        Kind::Pull => delivered().prop_map(Output::Delivered).boxed(),
        Kind::Settle => vec(select(statuses), 0..6).prop_map(Output::Settled).boxed(),
        Kind::Heartbeat => any::<u64>().prop_map(Output::Count).boxed(),
        Kind::Groups => vec(group_info(), 0..3).prop_map(Output::Groups).boxed(),
        Kind::Group => group_info().prop_map(Output::Group).boxed(),
        Kind::DeleteTopic | Kind::Trim | Kind::CloseStream | Kind::Seek | Kind::DeleteGroup => {
            Just(Output::Done).boxed()
        }
    }
}

fn answer_of() -> impl Strategy<Value = (Kind, Answer)> {
    let error = (select(Code::ALL.to_vec()), ".{0,40}", any::<Option<u64>>())
        .prop_map(|(code, detail, retry_after_ms)| Error { code, detail, retry_after_ms });
    let refusal = prop_oneof![
        error.prop_map(Answer::Refused),
        vec(any::<u8>(), 0..200).prop_map(|hint| Answer::Redirect(hint.into())),
    ];
    let answered =
        select(Kind::ALL.to_vec()).prop_flat_map(|kind| (Just(kind), output_of(kind).prop_map(Answer::Answered)));
    prop_oneof![4 => answered, 1 => refusal.prop_map(|refusal| (Kind::Append, refusal))]
}

/// Whether two batches are of the same bytes: `Debug`, by which all else is compared, shows only
/// some of them.
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
