//! Publishing and reading.

use std::time::Duration;

use gem_shard::log::{From, Placed, ProducerBatch, Read};
use gem_types::{Code, PartitionId, ProducerId};

use crate::harness::*;

crate::suite!(
    what_is_appended_is_read,
    many_at_once_are_all_stored_once,
    a_reader_at_the_end_waits,
    ids_and_numbers_are_stored_once,
    a_partition_that_is_not_here_is_not_found,
    a_trim_forgets_and_offsets_go_on,
    time_finds_its_offset,
);

async fn what_is_appended_is_read(node: &mut Node) {
    let log = node.log();
    let p = make(log, "t").await;
    let placed = publish(log, p, &["a", "b"]).await;
    assert_eq!(placed, [Placed { offset: 0, duplicate: false }, Placed { offset: 1, duplicate: false }]);
    assert_eq!(publish(log, p, &["c"]).await[0].offset, 2);
    assert_eq!(payloads(log, p).await, ["a", "b", "c"]);
    let stats = log.stats(p).await.unwrap();
    assert_eq!((stats.earliest, stats.next, stats.messages), (0, 3, 3));
    assert!(stats.bytes > 0);
    // From the middle of a batch on, the batch that holds it comes first.
    let out = read(log, p, 1).await;
    assert_eq!((out.batches[0].base_offset(), out.next), (0, 3));
    let times: Vec<_> = read_all(log, p, 0).await.into_iter().map(|(_, _, time)| time).collect();
    assert!(times.is_sorted() && times[0] > 0);
}

async fn many_at_once_are_all_stored_once(node: &mut Node) {
    let log = node.log();
    let (p, q) = (make(log, "p").await, make(log, "q").await);
    let one = |n: usize| {
        let partition = if n.is_multiple_of(3) { q } else { p };
        async move { (n, publish(log, partition, &[&format!("m{n}")]).await[0].offset) }
    };
    let placed = futures::future::join_all((0..600).map(one)).await;
    for (partition, count) in [(p, 400), (q, 200)] {
        let all = read_all(log, partition, 0).await;
        assert_eq!(all.len(), count);
        assert!(all.iter().enumerate().all(|(at, (offset, _, _))| *offset == at as u64));
        for (n, offset) in placed.iter().filter(|(n, _)| (n % 3 == 0) == (partition == q)) {
            assert_eq!(all[*offset as usize].1, format!("m{n}"));
        }
    }
}

async fn a_reader_at_the_end_waits(node: &mut Node) {
    let log = node.log();
    let p = make(log, "t").await;
    let started = tokio::time::Instant::now();
    let wait = Read { partition: p, from: 0, max_bytes: 1024, wait: Duration::from_millis(300) };
    assert!(log.read(wait.clone()).await.unwrap().batches.is_empty());
    assert!(started.elapsed() >= Duration::from_millis(300));
    let write = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        publish(log, p, &["late"]).await;
    };
    let (out, ()) = tokio::join!(log.read(Read { wait: WAIT, ..wait }), write);
    assert_eq!(out.unwrap().next, 1);
}

async fn ids_and_numbers_are_stored_once(node: &mut Node) {
    let log = node.log();
    let p = make(log, "t").await;
    let mut append = append_of(p, batch_of(&["a", "b", "a"]));
    append.dedup = vec![Some([1; 16]), Some([2; 16]), Some([1; 16])];
    let placed = log.append(append.clone()).await.unwrap();
    assert_eq!(placed.iter().map(|p| (p.offset, p.duplicate)).collect::<Vec<_>>(), [(0, false), (1, false), (0, true)]);
    // The same at once, many times.
    let again = futures::future::join_all((0..20).map(|_| log.append(append.clone()))).await;
    assert!(again.into_iter().all(|placed| placed.unwrap().iter().all(|placed| placed.duplicate)));

    let numbered = |numbers: Vec<u64>, previous, payloads: &[&str]| {
        let producer = ProducerId::new(1_790_000_000_000, 5);
        let mut append = append_of(p, batch_of(payloads));
        append.producer = Some(ProducerBatch { producer, numbers, previous, settled: 0 });
        append
    };
    let placed = log.append(numbered(vec![1, 2], 0, &["x", "y"])).await.unwrap();
    assert_eq!(placed[1].offset, 3);
    let placed = log.append(numbered(vec![2, 3], 1, &["y", "z"])).await.unwrap();
    assert_eq!(placed.iter().map(|p| (p.offset, p.duplicate)).collect::<Vec<_>>(), [(3, true), (4, false)]);
    let refused = log.append(numbered(vec![9], 8, &["no"])).await.unwrap_err();
    assert!(gem_shard::leader::verdicts::is_out_of_order(&refused));
    assert_eq!(payloads(log, p).await, ["a", "b", "x", "y", "z"]);
}

async fn a_partition_that_is_not_here_is_not_found(node: &mut Node) {
    let log = node.log();
    let nowhere = PartitionId([3; 16]);
    let refused = log.append(append_of(nowhere, batch_of(&["a"]))).await.unwrap_err();
    assert_eq!(refused.code, Code::NotFound);
    assert_eq!(log.stats(nowhere).await.unwrap_err().code, Code::NotFound);
    assert_eq!(log.trim(nowhere, None).await.unwrap_err().code, Code::NotFound);
    let read = Read { partition: nowhere, from: 0, max_bytes: 1, wait: WAIT };
    assert_eq!(log.read(read).await.unwrap_err().code, Code::NotFound);
    let read = log.resolve(nowhere, 0, From::Earliest).await.unwrap_err();
    assert_eq!(read.code, Code::NotFound);
}

async fn a_trim_forgets_and_offsets_go_on(node: &mut Node) {
    let log = node.log();
    let p = make(log, "t").await;
    for n in 0..10 {
        publish(log, p, &[&format!("m{n}")]).await;
    }
    log.trim(p, Some(4)).await.unwrap();
    let stats = log.stats(p).await.unwrap();
    assert_eq!((stats.earliest, stats.next, stats.messages), (4, 10, 6));
    assert_eq!(read_all(log, p, 0).await.first().map(|first| first.0), Some(4));
    log.trim(p, None).await.unwrap();
    let stats = log.stats(p).await.unwrap();
    assert_eq!((stats.earliest, stats.next, stats.messages, stats.bytes), (10, 10, 0, 0));
    assert!(read_all(log, p, 0).await.is_empty());
    assert_eq!(publish(log, p, &["after"]).await[0].offset, 10);
    assert_eq!(payloads(log, p).await, ["after"]);
}

async fn time_finds_its_offset(node: &mut Node) {
    let log = node.log();
    let p = make(log, "t").await;
    publish(log, p, &["a"]).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    publish(log, p, &["b"]).await;
    let times: Vec<_> = read_all(log, p, 0).await.into_iter().map(|(_, _, time)| time).collect();
    assert!(times[1] >= times[0] + 10);
    assert_eq!(log.resolve(p, 0, From::Time(times[0])).await.unwrap(), 0);
    assert_eq!(log.resolve(p, 0, From::Time(times[0] + 1)).await.unwrap(), 1);
    assert_eq!(log.resolve(p, 0, From::Time(times[1] + 1)).await.unwrap(), 2);
    assert_eq!(log.resolve(p, 0, From::Latest).await.unwrap(), 2);
    assert_eq!(log.resolve(p, 0, From::At(0, 1)).await.unwrap(), 1);
    assert_eq!(log.resolve(p, 0, From::At(5, 1)).await.unwrap(), 0);
}
