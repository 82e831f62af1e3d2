//! What of the batches goes out with a pull's answer.
//!
//! Messages are handed out with the whole batches that hold them, which on one node costs nothing.
//! On the way to another node it may: a hundred messages to be delivered again can lie in a
//! hundred large batches. So where the batches are much more than was asked for, each is cut into
//! the runs of records that are wanted. A record keeps its offset: a run begins at that of its first.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use gem_types::batch::{BatchError, RecordBatch};

use crate::log::Delivered;

/// How much more than twice what was asked for goes out uncut, in bytes.
const SLACK: usize = 1 << 20;

/// Something for every batch, by its address.
type ByBatch<T> = HashMap<*const RecordBatch, T>;
/// The runs of a batch's records that are wanted, rising, and each as a batch.
type Pieces = Vec<(Range<u32>, Arc<RecordBatch>)>;

struct Wanted {
    batch: Arc<RecordBatch>,
    indexes: Vec<u32>,
}

/// `messages`, their batches cut where they have more than about twice `max_bytes` together.
pub(super) fn fit(mut messages: Vec<Delivered>, max_bytes: usize) -> Result<Vec<Delivered>, BatchError> {
    let mut wanted: ByBatch<Wanted> = HashMap::new();
    for message in &messages {
        let new = || Wanted { batch: message.batch.clone(), indexes: Vec::new() };
        wanted.entry(Arc::as_ptr(&message.batch)).or_insert_with(new).indexes.push(message.index);
    }
    let bytes: usize = wanted.values().map(|wanted| wanted.batch.len()).sum();
    if bytes <= max_bytes.saturating_mul(2).saturating_add(SLACK) {
        return Ok(messages);
    }
    let mut cut: ByBatch<Pieces> = HashMap::new();
    for (key, wanted) in &mut wanted {
        let runs = runs(&mut wanted.indexes);
        let pieces = wanted.batch.cut_out(&runs)?;
        cut.insert(*key, runs.into_iter().zip(pieces.into_iter().map(Arc::new)).collect());
    }
    for message in &mut messages {
        let Some(pieces) = cut.get(&Arc::as_ptr(&message.batch)) else { continue };
        let place = pieces.partition_point(|(run, _)| run.end <= message.index);
        if let Some((run, piece)) = pieces.get(place) {
            message.batch = piece.clone();
            message.index -= run.start;
        }
    }
    Ok(messages)
}

/// The runs of `indexes`, rising.
fn runs(indexes: &mut Vec<u32>) -> Vec<Range<u32>> {
    indexes.sort_unstable();
    indexes.dedup();
    let mut runs: Vec<Range<u32>> = Vec::new();
    for &index in &*indexes {
        match runs.last_mut() {
            Some(run) if run.end == index => run.end += 1,
            _ => runs.push(index..index + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::TokenText;
    use gem_types::Message;
    use gem_types::batch::BatchBuilder;

    fn batch(base: u64, records: u32) -> Arc<RecordBatch> {
        let mut builder = BatchBuilder::new();
        for n in 0..records {
            let message = Message { payload: vec![n as u8; 64 << 10].into(), ..Message::default() };
            builder.push(&message, &format!("{}", base + u64::from(n)));
        }
        let mut batch = builder.finish(5);
        batch.stamp(base, 1_790_000_000_000);
        Arc::new(batch)
    }

    fn delivered(batch: &Arc<RecordBatch>, index: u32) -> Delivered {
        let offset = batch.base_offset() + u64::from(index);
        Delivered { batch: batch.clone(), index, offset, delivery: 1, token: TokenText::NONE }
    }

    #[test]
    fn what_is_about_what_was_asked_for_stays() {
        let batch = batch(10, 20);
        let messages = fit(vec![delivered(&batch, 3), delivered(&batch, 4)], 200_000).unwrap();
        assert!(messages.iter().all(|message| Arc::ptr_eq(&message.batch, &batch)));
    }

    #[test]
    fn much_more_is_cut_to_what_is_wanted() {
        let (a, b) = (batch(10, 40), batch(90, 2));
        let messages: Vec<_> = [(&a, 30), (&a, 3), (&b, 0), (&a, 4), (&b, 1), (&a, 39)]
            .into_iter()
            .map(|(batch, index)| delivered(batch, index))
            .collect();
        let cut = fit(messages.clone(), 1000).unwrap();
        for (cut, whole) in cut.iter().zip(&messages) {
            assert_eq!(cut.offset, whole.offset);
            assert_eq!(cut.batch.record(cut.index), whole.batch.record(whole.index));
            assert_eq!(cut.batch.record(cut.index).unwrap().offset, cut.offset);
        }
        assert!(Arc::ptr_eq(&cut[1].batch, &cut[3].batch), "one run is one piece");
        let mut pieces: Vec<_> = cut.iter().map(|message| (Arc::as_ptr(&message.batch), message.batch.len())).collect();
        pieces.sort_unstable();
        pieces.dedup();
        assert_eq!(pieces.len(), 4);
        assert!(pieces.iter().map(|(_, len)| len).sum::<usize>() < 7 * (64 << 10));
    }
}
