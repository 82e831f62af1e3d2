//! What waits to be sent, by node.
//!
//! Invariants: a push never waits; every queue is bounded in messages and bytes, and so are all
//! together; what does not fit is dropped and counted.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use gem_types::NodeId;
use tokio::sync::Notify;

use crate::seams::CONTROL_BYTES_MAX;

/// The most messages that wait for one node.
pub const QUEUE_MESSAGES_MAX: usize = 256;
/// The most bytes that wait for one node.
pub const QUEUE_BYTES_MAX: usize = 512 << 10;
/// The most bytes that wait for all nodes together.
pub const QUEUES_BYTES_MAX: usize = 32 << 20;
/// The most nodes that anything waits for.
const QUEUES_MAX: usize = 4096;

/// The queues to all nodes.
#[derive(Debug, Default)]
pub(super) struct Outboxes {
    queues: Mutex<Queues>,
    /// Wakes whoever opens links: [`Outboxes::take_wanted`] has something.
    pub(super) wake: Notify,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Queues {
    by_node: HashMap<NodeId, Queue>,
    /// Nodes that something waits for and no link serves.
    wanted: Vec<NodeId>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Bytes>,
    bytes: usize,
    /// The link that serves it.
    link: Option<Arc<Notify>>,
    /// Whether it stands among the wanted, or was taken from there.
    is_wanted: bool,
}

impl Outboxes {
    /// Queues `message` for `to`, or drops it.
    pub(super) fn push(&self, to: NodeId, message: Bytes) {
        let (mut queues, size) = (self.lock(), message.len());
        let (known, all) = (queues.by_node.len(), queues.bytes);
        let fits = size <= CONTROL_BYTES_MAX
            && all + size <= QUEUES_BYTES_MAX
            && queues.by_node.get(&to).map_or(known < QUEUES_MAX, |queue| {
                queue.messages.len() < QUEUE_MESSAGES_MAX && queue.bytes + size <= QUEUE_BYTES_MAX
            });
        if !fits {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queues.bytes += size;
        let queue = queues.by_node.entry(to).or_default();
        queue.bytes += size;
        queue.messages.push_back(message);
        self.ask_for_link(&mut queues, to);
    }

    /// Asks for a link to `to` without a message.
    pub(super) fn want(&self, to: NodeId) {
        let mut queues = self.lock();
        if queues.by_node.contains_key(&to) || queues.by_node.len() < QUEUES_MAX {
            queues.by_node.entry(to).or_default();
            self.ask_for_link(&mut queues, to);
        }
    }

    fn ask_for_link(&self, queues: &mut Queues, to: NodeId) {
        let Some(queue) = queues.by_node.get_mut(&to) else { return };
        if let Some(link) = &queue.link {
            link.notify_one();
        } else if !std::mem::replace(&mut queue.is_wanted, true) {
            queues.wanted.push(to);
            self.wake.notify_one();
        }
    }

    /// Nodes that a link is wanted to, each told once: until [`Outboxes::attach`] or
    /// [`Outboxes::clear`].
    pub(super) fn take_wanted(&self) -> Vec<NodeId> {
        std::mem::take(&mut self.lock().wanted)
    }

    /// A link to `node` begins: it is notified of every push.
    pub(super) fn attach(&self, node: NodeId) -> Arc<Notify> {
        let notify = Arc::new(Notify::new());
        let mut queues = self.lock();
        queues.wanted.retain(|other| *other != node);
        let queue = queues.by_node.entry(node).or_default();
        queue.link = Some(notify.clone());
        queue.is_wanted = false;
        notify.notify_one();
        notify
    }

    /// The link to `node` ended. Where something waits, another is asked for.
    pub(super) fn detach(&self, node: NodeId) {
        let mut queues = self.lock();
        let Some(queue) = queues.by_node.get_mut(&node) else { return };
        if queue.link.take().is_none() {
            return;
        }
        if queue.messages.is_empty() {
            queues.by_node.remove(&node);
        } else {
            self.ask_for_link(&mut queues, node);
        }
    }

    /// Drops what waits for `node`, which can't be reached just now.
    pub(super) fn clear(&self, node: NodeId) {
        let mut queues = self.lock();
        let Some(queue) = queues.by_node.remove(&node) else { return };
        queues.bytes -= queue.bytes;
        queues.wanted.retain(|other| *other != node);
        self.dropped.fetch_add(queue.messages.len() as u64, Ordering::Relaxed);
    }

    /// The next messages for `node`: about `most` bytes of them.
    pub(super) fn pop(&self, node: NodeId, most: usize) -> Vec<Bytes> {
        let mut queues = self.lock();
        let (mut out, mut bytes) = (Vec::new(), 0);
        if let Some(queue) = queues.by_node.get_mut(&node) {
            while bytes < most
                && let Some(message) = queue.messages.pop_front()
            {
                bytes += message.len();
                out.push(message);
            }
            queue.bytes -= bytes;
        }
        queues.bytes -= bytes;
        out
    }

    /// A message was not sent that had been popped, or never could be.
    pub(super) fn count_dropped(&self, messages: u64) {
        self.dropped.fetch_add(messages, Ordering::Relaxed);
    }

    /// Messages dropped so far.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        // Short, and never held across an await: a blocking lock is right. Counts are whole before
        // it opens.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: NodeId = NodeId([1; 32]);
    const B: NodeId = NodeId([2; 32]);

    #[test]
    fn a_full_queue_drops_and_harms_no_other() {
        let outboxes = Outboxes::default();
        for _ in 0..QUEUE_MESSAGES_MAX + 5 {
            outboxes.push(A, Bytes::from_static(b"a"));
        }
        assert_eq!(outboxes.dropped(), 5);
        let large = Bytes::from(vec![0; CONTROL_BYTES_MAX]);
        for _ in 0..9 {
            outboxes.push(B, large.clone());
        }
        outboxes.push(B, Bytes::from(vec![0; CONTROL_BYTES_MAX + 1]));
        assert_eq!(outboxes.dropped(), 7);
        assert_eq!(outboxes.take_wanted(), [A, B]);
        assert_eq!(outboxes.pop(A, usize::MAX).len(), QUEUE_MESSAGES_MAX);
        assert_eq!(outboxes.pop(B, 1).len(), 1);
        outboxes.clear(B);
        assert_eq!((outboxes.dropped(), outboxes.lock().bytes), (14, 0));
    }

    #[test]
    fn a_link_is_wanted_once_and_again_after_it_ended() {
        let outboxes = Outboxes::default();
        outboxes.push(A, Bytes::from_static(b"1"));
        outboxes.push(A, Bytes::from_static(b"2"));
        assert_eq!(outboxes.take_wanted(), [A]);
        outboxes.push(A, Bytes::from_static(b"3"));
        assert!(outboxes.take_wanted().is_empty());
        outboxes.attach(A);
        assert_eq!(outboxes.pop(A, 1), ["1"]);
        outboxes.detach(A);
        assert_eq!(outboxes.take_wanted(), [A]);
        outboxes.attach(A);
        assert_eq!(outboxes.pop(A, 9), ["2", "3"]);
        outboxes.detach(A);
        assert!(outboxes.take_wanted().is_empty());
        assert!(outboxes.lock().by_node.is_empty());
    }

    proptest! {
        #[test]
        fn the_sums_are_right(steps: Vec<(u8, u8, u16)>) {
            let outboxes = Outboxes::default();
            for (what, to, size) in steps {
                let to = NodeId([to % 4; 32]);
                match what % 8 {
                    0 => outboxes.clear(to),
                    1 => drop(outboxes.pop(to, size.into())),
                    2 => drop(outboxes.attach(to)),
                    3 => outboxes.detach(to),
                    4 => outboxes.want(to),
                    _ => outboxes.push(to, Bytes::from(vec![0; size.into()])),
                }
                let queues = outboxes.lock();
                let by_queue: usize = queues.by_node.values().map(|queue| queue.bytes).sum();
                let by_message: usize =
                    queues.by_node.values().flat_map(|queue| &queue.messages).map(Bytes::len).sum();
                prop_assert_eq!((queues.bytes, by_queue), (by_message, by_message));
                let served = |node| queues.by_node.get(node).is_some_and(|queue| queue.link.is_none());
                prop_assert!(queues.wanted.iter().all(served));
                let waits = |queue: &Queue| queue.messages.is_empty() || queue.link.is_some() || queue.is_wanted;
                prop_assert!(queues.by_node.values().all(waits));
            }
        }
    }
}
