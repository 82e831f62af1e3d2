//! The messages that are begun and not finished, and when each is due.
//!
//! A message below the cursor that has no slot is finished. Each timed slot has exactly one valid
//! timer, at or before its deadline: a timer that fires early is set again, so that extending a
//! lease touches no queue.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use gem_types::Offset;

/// Where a begun message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Waits for an earlier message of its key.
    Parked,
    /// May be out under a leader that was lost, until its deadline.
    Held,
    /// To be redelivered; the attempt is not counted yet.
    Again,
    /// Its next attempt is proposed.
    Preparing,
    /// May go out.
    Ready,
    /// With a member until its deadline.
    Leased,
    /// Its ack is proposed.
    Acking,
    /// Its nack is proposed.
    Nacking,
    /// Due for redelivery at its deadline.
    Delayed,
    /// `moving` is proposed.
    Leaving,
    /// On its way to the dead-letter topic.
    Moving,
    /// `moved` is proposed.
    Left,
}

impl State {
    /// Whether the message has left dispatch for the dead-letter topic.
    pub fn has_left(self) -> bool {
        matches!(self, State::Moving | State::Left)
    }
}

/// No member: the lease was taken over from an earlier leader by its token.
pub(super) const NO_MEMBER: u32 = u32::MAX;

/// A message that is begun and not finished.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// Its key's hash; 0: waits for nothing.
    pub key: u64,
    pub deadline: u64,
    /// When its valid timer fires; 0: it has none.
    timer: u64,
    /// The stream it was handed out under.
    pub stream: Option<u64>,
    pub member: u32,
    /// The last attempt that was handed out, or may have been.
    pub attempt: u32,
    pub state: State,
    /// May be out under a lost leader and was not handed out since: its old token is good.
    pub grace: bool,
}

impl Slot {
    pub fn new(state: State, key: u64, attempt: u32) -> Self {
        Slot { key, deadline: 0, timer: 0, stream: None, member: NO_MEMBER, attempt, state, grace: false }
    }
}

/// Offsets are spread by a multiplication: they are GEM's own, so nobody chooses them to collide.
#[derive(Default)]
pub(super) struct OffsetHasher(u64);

impl Hasher for OffsetHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u64(u64::from(*b)));
    }

    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

/// A table whose order is never looked at.
pub(super) type OffsetMap<T> = HashMap<u64, T, BuildHasherDefault<OffsetHasher>>;

/// Messages that went out together: one timer for all.
#[derive(Clone, Copy, Debug)]
struct Run {
    deadline: u64,
    from: Offset,
    to: Offset,
}

/// The begun messages of a group.
#[derive(Default)]
pub(super) struct Slots {
    map: OffsetMap<Slot>,
    /// Deadlines never fall along it.
    runs: VecDeque<Run>,
    heap: BinaryHeap<Reverse<(u64, Offset)>>,
}

impl Slots {
    pub fn len(&self) -> usize {
        self.map.len()
    }

    pub fn get(&self, offset: Offset) -> Option<&Slot> {
        self.map.get(&offset)
    }

    pub fn get_mut(&mut self, offset: Offset) -> Option<&mut Slot> {
        self.map.get_mut(&offset)
    }

    pub fn insert(&mut self, offset: Offset, slot: Slot) {
        self.map.insert(offset, slot);
    }

    pub fn remove(&mut self, offset: Offset) -> Option<Slot> {
        self.map.remove(&offset)
    }

    /// The offsets whose slots satisfy `wanted`, rising. Looks at every slot.
    pub fn select(&self, wanted: impl Fn(Offset, &Slot) -> bool) -> Vec<Offset> {
        let mut found: Vec<_> = self.map.iter().filter(|(o, s)| wanted(**o, s)).map(|(o, _)| *o).collect();
        found.sort_unstable();
        found
    }

    /// Sets the deadline of a slot that is there.
    pub fn arm(&mut self, offset: Offset, deadline: u64) {
        let Some(slot) = self.map.get_mut(&offset) else { return };
        slot.deadline = deadline;
        let deadline = deadline.max(1);
        if slot.timer == 0 || slot.timer > deadline {
            slot.timer = deadline;
            self.heap.push(Reverse((deadline, offset)));
        }
    }

    /// Inserts `from..to` as copies of `slot`, all with one deadline.
    pub fn insert_run(&mut self, from: Offset, to: Offset, mut slot: Slot, deadline: u64) {
        slot.deadline = deadline;
        slot.timer = deadline.max(1);
        let in_order = self.runs.back().is_none_or(|last| last.deadline <= slot.timer);
        for offset in from..to {
            self.map.insert(offset, slot);
            if !in_order {
                self.heap.push(Reverse((slot.timer, offset)));
            }
        }
        if in_order {
            self.sweep(2 * (to - from));
            self.runs.push_back(Run { deadline: slot.timer, from, to });
        }
    }

    /// Drops what is finished from the oldest runs, so that they don't pile up until they are due.
    fn sweep(&mut self, mut steps: u64) {
        while let Some(run) = self.runs.front_mut() {
            while run.from < run.to && self.map.get(&run.from).is_none_or(|slot| slot.timer != run.deadline) {
                run.from += 1;
                steps = steps.saturating_sub(1);
                if steps == 0 {
                    return;
                }
            }
            if run.from < run.to {
                return;
            }
            self.runs.pop_front();
        }
    }

    /// The next slot whose timer has fired; call until there is none. The timer is spent: whoever
    /// finds that the slot is not due sets it again.
    pub fn fired(&mut self, now_ms: u64) -> Option<Offset> {
        while let Some(run) = self.runs.front_mut().filter(|run| run.deadline <= now_ms) {
            if run.from == run.to {
                self.runs.pop_front();
                continue;
            }
            let (offset, deadline) = (run.from, run.deadline);
            run.from += 1;
            if self.spend(offset, deadline) {
                return Some(offset);
            }
        }
        while let Some(Reverse((deadline, offset))) = self.heap.peek().copied() {
            if deadline > now_ms {
                return None;
            }
            self.heap.pop();
            if self.spend(offset, deadline) {
                return Some(offset);
            }
        }
        None
    }

    fn spend(&mut self, offset: Offset, deadline: u64) -> bool {
        match self.map.get_mut(&offset) {
            Some(slot) if slot.timer == deadline => {
                slot.timer = 0;
                true
            }
            _ => false,
        }
    }

    /// When `fired` is next worth calling. May be early, never late.
    pub fn next_deadline(&self) -> Option<u64> {
        let run = self.runs.front().map(|run| run.deadline);
        let single = self.heap.peek().map(|Reverse((deadline, _))| *deadline);
        run.into_iter().chain(single).min()
    }

    /// What the tables hold in memory, about.
    pub fn bytes(&self) -> usize {
        self.map.capacity() * (size_of::<(Offset, Slot)>() + 1)
            + self.runs.capacity() * size_of::<Run>()
            + self.heap.capacity() * size_of::<(u64, Offset)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leased() -> Slot {
        Slot::new(State::Leased, 0, 1)
    }

    #[test]
    fn a_run_fires_each_message_once() {
        let mut slots = Slots::default();
        slots.insert_run(10, 13, leased(), 100);
        slots.remove(11);
        assert_eq!(slots.next_deadline(), Some(100));
        assert_eq!(slots.fired(99), None);
        assert_eq!(slots.fired(100), Some(10));
        assert_eq!(slots.fired(100), Some(12));
        assert_eq!(slots.fired(100), None);
        assert_eq!(slots.next_deadline(), None);
    }

    #[test]
    fn a_shorter_timeout_fires_before_an_older_run() {
        let mut slots = Slots::default();
        slots.insert_run(0, 1, leased(), 100);
        slots.insert_run(1, 2, leased(), 50);
        assert_eq!(slots.fired(60), Some(1));
        assert_eq!(slots.fired(60), None);
    }

    #[test]
    fn finished_runs_do_not_pile_up() {
        let mut slots = Slots::default();
        for offset in 0..10_000 {
            slots.insert_run(offset, offset + 1, leased(), 1_000 + offset);
            slots.remove(offset);
        }
        assert!(slots.runs.len() < 3, "{}", slots.runs.len());
    }

    #[test]
    fn a_timer_is_valid_once() {
        let mut slots = Slots::default();
        slots.insert(5, leased());
        slots.arm(5, 100);
        slots.arm(5, 200); // later: the timer at 100 stays and is set again by whoever finds it early
        slots.arm(5, 50);
        assert_eq!(slots.fired(100), Some(5));
        assert_eq!(slots.fired(200), None, "the timer at 100 is stale");
    }
}
