//! Bugs that are planted one at a time, each in the scenario that it breaks: without the bug the
//! scenario ends as promised, with it the same checks must find what it did.

use std::time::Duration;

use gem_shard::Status;

use crate::harness::{Bug, Mesh, wait_for};

const SOON: Duration = Duration::from_secs(3);

/// What was acknowledged, and what a node whose replica leads now reads.
struct Found {
    acknowledged: u64,
    read: u64,
}

/// Voters 0, 1, 2 and the learner 3; the leader 0 reaches the learner alone, and is asked to store.
async fn a_leader_with_a_learner_alone(bug: Option<Bug>) -> Found {
    let mut mesh = Mesh::new(4);
    mesh.three_voters().await;
    mesh.join(3).await;
    mesh.shard(0).add_learner(mesh.replica(3)).await.unwrap();
    mesh.publish(0, 10).await;
    mesh.caught_up().await;
    mesh.plant(bug);
    [1, 2].into_iter().for_each(|voter| mesh.cut_link(0, voter));
    let mut acknowledged = 10;
    for _ in 0..5 {
        acknowledged += u64::from(mesh.try_publish(0, 1, Duration::from_millis(300)).await.is_ok());
    }
    let leader = mesh.leader_among(&[1, 2]).await;
    Found { acknowledged, read: mesh.read_all(leader).await }
}

#[tokio::test(start_paused = true)]
async fn a_learner_counted_in_the_quorum_is_found() {
    let sound = a_leader_with_a_learner_alone(None).await;
    assert!(sound.read >= sound.acknowledged);
    let broken = a_leader_with_a_learner_alone(Some(Bug::LearnerCounts)).await;
    assert!(broken.read < broken.acknowledged, "{} of {}", broken.read, broken.acknowledged);
}

/// Replica 2 is replaced by 3 while 1 is away, and its node makes another; then 1 comes back and
/// asks for the vote of the one that was.
async fn one_that_was_away_asks_a_replica_that_was_removed(bug: Option<Bug>) -> bool {
    let mut mesh = Mesh::new(4);
    mesh.three_voters().await;
    mesh.publish(0, 10).await;
    mesh.caught_up().await;
    mesh.cut(1, true);
    mesh.join(3).await;
    mesh.shard(0).add_learner(mesh.replica(3)).await.unwrap();
    mesh.shard(0).set_voters(mesh.replicas(&[0, 1, 3])).await.unwrap();
    mesh.publish(0, 10).await;
    mesh.make_again(2).await;
    mesh.plant(bug);
    // 1 and the node of 2 on this side, those who hold what was acknowledged on the other.
    mesh.cut(1, false);
    [(0, 1), (0, 2), (3, 1), (3, 2)].into_iter().for_each(|(one, other)| mesh.cut_link(one, other));
    let until = tokio::time::Instant::now() + SOON;
    while tokio::time::Instant::now() < until {
        if matches!(mesh.shard(1).status(), Status::Leading { .. })
            || mesh.shard(1).view().leader == Some(mesh.replica(1))
        {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

#[tokio::test(start_paused = true)]
async fn a_removed_replica_s_late_vote_is_found() {
    assert!(!one_that_was_away_asks_a_replica_that_was_removed(None).await, "it leads without a majority");
    assert!(one_that_was_away_asks_a_replica_that_was_removed(Some(Bug::LateVote)).await);
}

/// A replica that lags behind the log takes in a snapshot, and is read.
async fn a_snapshot_is_taken_in(bug: Option<Bug>) -> bool {
    let mut mesh = Mesh::with_one_behind_the_log().await;
    mesh.plant(bug);
    mesh.start(2).await;
    mesh.caught_up().await;
    assert_eq!(mesh.digests().len(), 1, "the state says nothing of payloads");
    mesh.reads_all(2, 250).await
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_lacks_payloads_is_found() {
    assert!(a_snapshot_is_taken_in(None).await);
    assert!(!a_snapshot_is_taken_in(Some(Bug::EmptySnapshot)).await);
}

#[tokio::test(start_paused = true)]
async fn a_group_id_used_again_is_found() {
    let mut mesh = Mesh::new(4);
    mesh.three_voters().await;
    mesh.publish(0, 10).await;
    mesh.found_again(3).await;
    mesh.shard(0).add_learner(mesh.replica(3)).await.unwrap();
    mesh.publish(0, 10).await;
    // Either the newcomer stops, or it holds what nobody else does.
    wait_for("the same id twice shows", || {
        let stopped = (0..4).any(|node| matches!(mesh.shard(node).status(), Status::Stopped { .. }));
        stopped || mesh.digests().len() > 1
    })
    .await;
}
