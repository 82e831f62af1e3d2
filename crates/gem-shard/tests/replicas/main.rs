//! Several replicas of one shard in one process: the real Raft, journal, machine and snapshots over
//! simulated disks, on paused time.

mod harness;
mod planted;

use std::collections::BTreeSet;
use std::time::Duration;

use gem_shard::Status;
use harness::{Mesh, wait_for};

#[tokio::test(start_paused = true)]
async fn a_lone_voter_becomes_three_and_all_hold_the_same() {
    let mut mesh = Mesh::new(3);
    mesh.found(0).await;
    mesh.publish(0, 100).await;
    // The log that a newcomer would need is gone: it must take a snapshot.
    mesh.shard(0).flush_index().await.unwrap();
    for node in [1, 2] {
        mesh.join(node).await;
        mesh.shard(0).add_learner(mesh.replica(node)).await.unwrap();
    }
    mesh.publish(0, 50).await;
    mesh.caught_up().await;
    mesh.shard(0).set_voters(mesh.replicas(&[0, 1, 2])).await.unwrap();
    mesh.publish(0, 50).await;
    mesh.caught_up().await;
    assert_eq!(mesh.digests().len(), 1, "replicas that applied the same hold the same");
    for node in 0..3 {
        assert_eq!(mesh.read_all(node).await, 200, "node {node}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_dies_is_followed_by_another_and_nothing_is_lost() {
    let mut mesh = Mesh::new(3);
    mesh.three_voters().await;
    mesh.publish(0, 100).await;
    mesh.kill(0).await;
    let leader = mesh.leader().await;
    assert_ne!(leader, 0);
    mesh.publish(leader, 100).await;
    mesh.start(0).await;
    mesh.caught_up().await;
    assert_eq!(mesh.digests().len(), 1);
    assert_eq!(mesh.read_all(0).await, 200);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_lags_behind_the_log_takes_a_snapshot_of_what_it_lacks() {
    let mut mesh = Mesh::with_one_behind_the_log().await;
    let fetched = mesh.fetched();
    mesh.start(2).await;
    mesh.caught_up().await;
    assert!(mesh.fetched() > fetched, "what it lacks is not in the log any more");
    assert_eq!(mesh.digests().len(), 1);
    assert_eq!(mesh.read_all(2).await, 250);
    // And after a restart of what it took in.
    mesh.kill(2).await;
    mesh.start(2).await;
    mesh.caught_up().await;
    assert_eq!(mesh.read_all(2).await, 250);
}

#[tokio::test(start_paused = true)]
async fn leadership_is_handed_over() {
    let mut mesh = Mesh::new(3);
    mesh.three_voters().await;
    mesh.publish(0, 10).await;
    mesh.caught_up().await;
    mesh.shard(0).hand_over(mesh.replica(1), Duration::from_secs(5)).await.unwrap();
    wait_for("the new leader", || matches!(mesh.shard(1).status(), Status::Leading { .. })).await;
    mesh.publish(1, 10).await;
    mesh.caught_up().await;
    assert_eq!(mesh.read_all(0).await, 20);
}

#[tokio::test(start_paused = true)]
async fn a_cut_off_leader_stores_nothing() {
    let mut mesh = Mesh::new(3);
    mesh.three_voters().await;
    mesh.publish(0, 10).await;
    mesh.cut(0, true);
    let refused = mesh.try_publish(0, 1, Duration::from_secs(3)).await;
    assert!(refused.is_err(), "{refused:?}");
    let leader = mesh.leader_among(&[1, 2]).await;
    mesh.publish(leader, 10).await;
    mesh.cut(0, false);
    mesh.caught_up().await;
    assert_eq!(mesh.digests().len(), 1);
    assert!(mesh.read_all(0).await >= 20);
}

#[tokio::test(start_paused = true)]
async fn a_cut_off_leader_hands_out_nothing() {
    let mut mesh = Mesh::new(3);
    mesh.three_voters().await;
    mesh.publish(0, 200).await;
    // What it may hand out is logged ahead: by that alone it could go on for a while.
    for _ in 0..40 {
        assert_eq!(mesh.pull(0, Duration::from_secs(1)).await.unwrap().len(), 1);
    }
    mesh.cut(0, true);
    mesh.leader_among(&[1, 2]).await;
    let late = mesh.pull(0, Duration::from_secs(3)).await;
    assert!(late.is_err() || late.as_ref().is_ok_and(Vec::is_empty), "{late:?}");
    mesh.cut(0, false);
    let leader = mesh.leader_among(&[1, 2]).await;
    assert_eq!(mesh.pull(leader, Duration::from_secs(1)).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dead_replica_is_replaced_by_one_joint_change() {
    let mut mesh = Mesh::new(4);
    mesh.three_voters().await;
    mesh.publish(0, 60).await;
    mesh.kill(2).await;
    mesh.join(3).await;
    mesh.shard(0).add_learner(mesh.replica(3)).await.unwrap();
    mesh.shard(0).set_voters(mesh.replicas(&[0, 1, 3])).await.unwrap();
    mesh.publish(0, 10).await;
    mesh.caught_up().await;
    let seats: BTreeSet<_> = mesh.shard(0).view().seats.into_keys().collect();
    assert_eq!(seats, mesh.replicas(&[0, 1, 3]));
    assert_eq!(mesh.read_all(3).await, 70);
}
