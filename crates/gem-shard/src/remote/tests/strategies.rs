//! Every call and every answer, at random.

use std::sync::Arc;
use std::time::Duration;

use gem_types::batch::RecordBatch;
use gem_types::{Code, Error, GroupId, GroupName, PartitionId, Prefix, ProducerId, TopicName};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::log::{
    Append, Delivered, From, GroupInfo, GroupRef, MemberInfo, Mode, Ordering, PartitionInfo, PartitionStats, Placed,
    ProducerBatch, Pull, Read, ReadOut, Status, TokenText, TopicChange, TopicConfig, TopicInfo, TopicPage, Verb,
};
use crate::parts::tests::batch;
use crate::remote::call::Kind;
use crate::remote::{Answer, Call, Output, Request, Target, WAIT_MAX};

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

pub(super) fn request() -> impl Strategy<Value = Request> {
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

pub(super) fn answer_of() -> impl Strategy<Value = (Kind, Answer)> {
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
