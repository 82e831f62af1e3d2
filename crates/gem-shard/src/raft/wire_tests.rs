//! What goes in comes out, and nothing that comes in panics.

use std::collections::BTreeSet;

use gem_types::PartitionId;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::entry::{AppendBatch, Command};
use crate::parts::tests::{batch, bend};
use crate::raft::types::Membership;

fn replica() -> impl Strategy<Value = ReplicaId> {
    (any::<[u8; 32]>(), any::<u64>())
        .prop_map(|(node, life)| ReplicaId { node: NodeId(node), incarnation: Incarnation(life) })
}

fn vote() -> impl Strategy<Value = Vote> {
    (any::<u64>(), replica(), any::<bool>()).prop_map(|(term, replica, committed)| {
        let mut vote = Vote::new(term, replica);
        vote.committed = committed;
        vote
    })
}

fn some_log_id() -> impl Strategy<Value = Option<LogId>> {
    prop::option::of((any::<u64>(), any::<u64>()).prop_map(|(term, index)| log_id(term, index)))
}

fn payload() -> impl Strategy<Value = Payload> {
    let append =
        (prop::sample::select(vec![0usize, 100, 600, 3000]), any::<Option<u32>>()).prop_map(|(size, stamp)| {
            let batch = batch(size, stamp.map(u64::from));
            Command::Append(AppendBatch { partition: PartitionId([3; 16]), batch, dedup: vec![], producer: None })
        });
    let trim = any::<u64>().prop_map(|before| Command::Trim { partition: PartitionId([4; 16]), before });
    let commands = prop::collection::vec(prop_oneof![append, trim], 0..5);
    let members = prop::collection::vec(prop::collection::vec(replica(), 1..4), 1..3);
    prop_oneof![
        Just(EntryPayload::Blank),
        (any::<i64>(), commands)
            .prop_map(|(now_ms, commands)| EntryPayload::Normal(Proposal::new(Entry { now_ms, commands }))),
        (members, replica()).prop_map(|(configs, learner)| {
            let configs = configs.into_iter().map(BTreeSet::from_iter).collect();
            EntryPayload::Membership(Membership::new_with_defaults(configs, [learner]))
        }),
    ]
}

fn entries() -> impl Strategy<Value = AppendEntriesRequest<TypeConfig>> {
    let payloads = prop::collection::vec((1u64..1 << 40, payload()), 0..6);
    (vote(), any::<Option<(u32, u32)>>(), payloads, some_log_id()).prop_map(
        |(vote, previous, payloads, leader_commit)| {
            let prev_log_id = previous.map(|(term, index)| log_id(term.into(), index.into()));
            let first = prev_log_id.map_or(0, |previous| previous.index + 1);
            let entries = payloads.into_iter().zip(first..);
            let entries =
                entries.map(|((term, payload), index)| RaftEntry { log_id: log_id(term, index), payload }).collect();
            AppendEntriesRequest { vote, prev_log_id, entries, leader_commit }
        },
    )
}

fn vote_request() -> impl Strategy<Value = VoteRequest<TypeConfig>> {
    (vote(), some_log_id(), any::<bool>()).prop_map(|(vote, last, transfer)| {
        let mut request = VoteRequest::new(vote, last);
        request.leadership_transfer = transfer;
        request
    })
}

fn request() -> impl Strategy<Value = Request> {
    let call = prop_oneof![
        4 => entries().prop_map(Call::Append),
        1 => vote_request().prop_map(Call::Vote),
        1 => vote_request().prop_map(Call::PreVote),
        1 => (vote(), replica(), some_log_id())
            .prop_map(|(from, to, last)| Call::TransferLeader(TransferLeaderRequest::new(from, to, last))),
    ];
    (any::<[u8; 16]>(), replica(), call).prop_map(|(group, to, call)| Request { group: GroupId(group), to, call })
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        Just(Answer::Append(AppendEntriesResponse::Success)),
        Just(Answer::Append(AppendEntriesResponse::Conflict)),
        some_log_id().prop_map(|last| Answer::Append(AppendEntriesResponse::PartialSuccess(last))),
        vote().prop_map(|vote| Answer::Append(AppendEntriesResponse::HigherVote(vote))),
        (vote(), any::<bool>(), some_log_id()).prop_map(|(vote, vote_granted, last_log_id)| Answer::Vote(
            VoteResponse { vote, vote_granted, last_log_id }
        )),
        Just(Answer::TransferLeader(Ok(()))),
        (vote(), vote()).prop_map(|(expected, actual)| Answer::TransferLeader(Err(TransferLeaderError::VoteChanged {
            expected,
            actual
        }))),
        (some_log_id(), some_log_id()).prop_map(|(expected, actual)| Answer::TransferLeader(Err(
            TransferLeaderError::LogNotFlushed { expected, actual }
        ))),
        ".{0,40}".prop_map(Answer::Refused),
    ]
}

/// The request's entries as they would stand in the log.
fn logged(request: &Request) -> Vec<(LogId, Vec<u8>)> {
    let Call::Append(append) = &request.call else { return Vec::new() };
    append.entries.iter().map(|entry| (entry.log_id, crate::raft::types::encode(&entry.payload).concat())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn requests_come_back(request in request()) {
        let parts = request.encode();
        prop_assert_eq!(address(&parts), Ok((request.group, request.to)));
        let arrived = Request::decode(&parts).unwrap();
        prop_assert_eq!((arrived.group, arrived.to), (request.group, request.to));
        prop_assert_eq!(logged(&arrived), logged(&request));
        // Debug shows every field but the payloads, which were just compared.
        prop_assert_eq!(format!("{:?}", arrived.call), format!("{:?}", request.call));
        prop_assert_eq!(arrived.encode(), parts);
    }

    #[test]
    fn answers_come_back(answer in answer()) {
        prop_assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
    }

    #[test]
    fn bent_messages_are_refused_or_read(request in request(), answer in answer(), part: Index, at: Index, how in 0u8..11) {
        let mut parts = request.encode();
        bend(&mut parts, part, at, how);
        let _ = address(&parts);
        if let Ok(arrived) = Request::decode(&parts) {
            prop_assert!(Request::decode(&arrived.encode()).is_ok());
        }
        let mut parts = answer.encode();
        bend(&mut parts, part, at, how);
        let _ = Answer::decode(&parts);
    }

    #[test]
    fn no_parts_panic(mut parts: Vec<Vec<u8>>, kind in 0u8..6) {
        if let Some(first) = parts.first_mut() {
            first.splice(0..0, [VERSION, kind]);
        }
        let parts: Vec<Bytes> = parts.into_iter().map(Bytes::from).collect();
        let _ = address(&parts);
        let _ = Request::decode(&parts);
        let _ = Answer::decode(&parts);
    }
}

fn append_of(batches: &[(usize, Option<u64>)], prev: Option<LogId>, first: u64) -> AppendEntriesRequest<TypeConfig> {
    let entries = batches.iter().zip(first..).map(|((size, stamp), index)| {
        let batch = batch(*size, *stamp);
        let append = AppendBatch { partition: PartitionId([3; 16]), batch, dedup: vec![], producer: None };
        let entry = Entry { now_ms: 1, commands: vec![Command::Append(append)] };
        RaftEntry { log_id: log_id(1, index), payload: EntryPayload::Normal(Proposal::new(entry)) }
    });
    let vote = Vote::new(1, ReplicaId::default());
    AppendEntriesRequest { vote, prev_log_id: prev, entries: entries.collect(), leader_commit: None }
}

#[test]
fn payloads_are_not_copied() {
    let request = append_of(&[(4000, Some(7)), (5000, None)], None, 0);
    let parts = encode_append(GroupId([1; 16]), ReplicaId::default(), &request);
    assert_eq!(parts.len(), 3);
    let records = |request: &AppendEntriesRequest<TypeConfig>| -> Vec<_> {
        let proposals = request.entries.iter().filter_map(|entry| match &entry.payload {
            EntryPayload::Normal(proposal) => Some(proposal.clone()),
            _ => None,
        });
        proposals.flat_map(|p| p.entry().batches().map(|b| b.parts()[1].as_ptr()).collect::<Vec<_>>()).collect()
    };
    let arrived = Request::decode(&parts).unwrap();
    let Call::Append(arrived) = arrived.call else { panic!("{:?}", arrived.call) };
    assert_eq!(records(&arrived), records(&request));
}

#[test]
fn entries_that_leave_a_gap_are_refused() {
    let decode = |request| Request::decode(&encode_append(GroupId([1; 16]), ReplicaId::default(), &request)).is_ok();
    let both = [(10, None), (10, None)];
    assert!(decode(append_of(&both, Some(log_id(1, 4)), 5)));
    assert!(!decode(append_of(&both, Some(log_id(1, 4)), 6)));
    assert!(!decode(append_of(&both, None, 5)));
    assert!(!decode(append_of(&both[..1], Some(log_id(1, u64::MAX)), 0)));
}
