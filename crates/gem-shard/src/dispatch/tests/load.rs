//! What a message costs: `cargo test --profile gem -p gem-shard dispatch_costs -- --ignored --nocapture`.

use std::time::Duration;

use bytes::Bytes;
use gem_types::batch::BatchBuilder;
use gem_types::{GroupName, Message, PartitionId, TopicName};

use super::super::{Action, Dispatch, DispatchConfig, GroupStart, Now, Rules};
use crate::log::{GroupRef, Mode, Pull, TopicConfig, Verb};

fn cost(mode: Mode) {
    let topic = TopicName::new("orders").unwrap();
    let partition = PartitionId::new(&topic, 0, b"made");
    let group = GroupRef { topic, partition, group: GroupName::new("g").unwrap() };
    let mut dispatch = Dispatch::new(DispatchConfig::default(), [1; 32]);
    let total: u64 = 1_000_000;
    let per_batch = 1_000;
    let mut batches = Vec::new();
    for base in (0..total).step_by(per_batch) {
        let mut builder = BatchBuilder::new();
        for index in 0..per_batch as u64 {
            let key = Some(Bytes::from((base + index).to_string()));
            builder.push(&Message { key, payload: Bytes::from_static(&[7; 256]), ..Message::default() }, "id");
        }
        let mut batch = builder.finish(1);
        batch.stamp(base, 1);
        batches.push(batch);
    }
    let now = Now { mono_ms: 1, wall_ms: 1 };
    dispatch.on_leader(
        1,
        now,
        vec![GroupStart {
            group: group.clone(),
            life: 1,
            seeks: 0,
            mode,
            rules: Rules::from(&TopicConfig::default()),
            floor: 0,
            acked: vec![],
            frontier: 0,
            attempts: vec![],
            delayed: vec![],
            moving: vec![],
            earliest: 0,
            next: total,
        }],
    );
    let pull = |consumer: &str| Pull {
        group: group.clone(),
        consumer: consumer.into(),
        mode: None,
        from: None,
        max: 256,
        max_bytes: 1 << 20,
        wait: Duration::from_secs(1),
        stream: Some(1),
    };
    #[expect(clippy::disallowed_methods, reason = "this measures real time")]
    let clock = std::time::Instant::now;
    let (mut delivering, mut settling) = (Duration::ZERO, Duration::ZERO);
    let mut done = 0;
    for member in ["a", "b", "c", "d"] {
        dispatch.on_pull(0, &pull(member), now);
    }
    let mut actions = Vec::new();
    let mut members = ["a", "b", "c", "d"].into_iter().cycle();
    while done < total {
        let begun = clock();
        dispatch.drain(now, &mut actions);
        delivering += begun.elapsed();
        assert!(!actions.is_empty(), "stuck at {done}");
        for action in std::mem::take(&mut actions) {
            match action {
                Action::Propose { id, .. } => {
                    let begun = clock();
                    dispatch.on_applied(id, now);
                    settling += begun.elapsed();
                }
                Action::Fetch { id, from, .. } => {
                    let first = from as usize / per_batch;
                    let found = batches[first..(first + 4).min(batches.len())].to_vec();
                    let begun = clock();
                    dispatch.on_records(id, Ok(found), now);
                    delivering += begun.elapsed();
                }
                Action::Reply { result, .. } => {
                    let got = result.unwrap();
                    done += got.len() as u64;
                    let verbs: Vec<_> = got.into_iter().map(|m| (m.token.to_string(), Verb::Ack)).collect();
                    let begun = clock();
                    dispatch.on_settle(1, &group, &verbs, now);
                    settling += begun.elapsed();
                    dispatch.on_pull(2, &pull(members.next().unwrap()), now);
                }
                Action::Settled { .. } => {}
                Action::DeadLetter { .. } => unreachable!("nothing fails here"),
            }
        }
    }
    let each = |time: Duration| time.as_nanos() as u64 / total;
    println!(
        "{mode:?}: deliver {} ns, settle {} ns a message, {} bytes held",
        each(delivering),
        each(settling),
        dispatch.bytes()
    );
}

#[test]
#[ignore = "a measurement"]
fn dispatch_costs() {
    cost(Mode::Shared);
    cost(Mode::Key);
}
