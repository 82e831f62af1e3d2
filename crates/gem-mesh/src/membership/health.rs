//! A node's doubt in itself: Lifeguard's local health (Dadgar, Phillips, Currey: *Lifeguard:
//! Local Health Awareness for More Accurate Failure Detection*, 2018).
//!
//! A node whose own probes fail, that has to refute its own death, or whose timers come late is
//! probably the one that is slow: it waits longer before it blames others. Unlike the paper's,
//! one silent member alone raises no doubt: only failures of *different* members in a row do, so
//! that in a small mesh a death is found in time.

use gem_types::NodeId;

/// The most doubt; waits are stretched by one more than the doubt. Half of the paper's: when many
/// nodes die at once, those that are left have to get through them.
pub const DOUBT_MAX: u32 = 4;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Health {
    doubt: u32,
    probing: Option<NodeId>,
    silent: Option<NodeId>,
    /// The highest suspicion of this node that it has counted: by run and the library's incarnation.
    refuted: Option<(u64, u16)>,
}

impl Health {
    /// By how much to stretch waits: 1 for a healthy node.
    pub(super) fn stretch(&self) -> u32 {
        1 + self.doubt
    }

    /// A probe of `node` has been sent.
    pub(super) fn probe(&mut self, node: NodeId) {
        self.probing = Some(node);
    }

    /// `node` showed that it lives.
    pub(super) fn answered(&mut self, node: NodeId) {
        if self.probing == Some(node) {
            self.probing = None;
            self.silent = None;
            self.doubt = self.doubt.saturating_sub(1);
        }
    }

    /// The time for the probe's answer is over.
    pub(super) fn probe_ends(&mut self) {
        if let Some(node) = self.probing.take()
            && self.silent.replace(node).is_some_and(|other| other != node)
        {
            self.worse();
        }
    }

    /// Others suspect this node, in its run `run` and the library's `incarnation`.
    pub(super) fn suspected(&mut self, run: u64, incarnation: u16) {
        if self.refuted < Some((run, incarnation)) {
            self.refuted = Some((run, incarnation));
            self.worse();
        }
    }

    /// A timer of this node came late.
    pub(super) fn late(&mut self) {
        self.worse();
    }

    fn worse(&mut self) {
        self.doubt = (self.doubt + 1).min(DOUBT_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_silent_member_raises_no_doubt_and_several_do() {
        let mut health = Health::default();
        let nodes = [NodeId([1; 32]), NodeId([2; 32])];
        for _ in 0..5 {
            health.probe(nodes[0]);
            health.probe_ends();
        }
        assert_eq!(health.stretch(), 1);
        for i in 1..20 {
            health.probe(nodes[i % 2]);
            health.probe_ends();
        }
        assert_eq!(health.stretch(), 1 + DOUBT_MAX);
        for _ in 0..DOUBT_MAX {
            health.probe(nodes[0]);
            health.answered(nodes[1]);
            health.answered(nodes[0]);
            health.probe_ends();
        }
        assert_eq!(health.stretch(), 1);
    }

    #[test]
    fn a_suspicion_counts_once() {
        let mut health = Health::default();
        for _ in 0..5 {
            health.suspected(1, 0);
        }
        assert_eq!(health.stretch(), 2);
        health.suspected(1, 1);
        assert_eq!(health.stretch(), 3);
    }
}
