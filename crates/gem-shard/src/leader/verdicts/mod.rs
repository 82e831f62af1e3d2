//! Verdicts: what a leader decides before it proposes an entry.
//!
//! A verdict is given against what is applied and what is in flight, so that several entries can
//! be in flight at once. It belongs to a term: [`Verdicts::reset`] forgets all that was in
//! flight, and whoever proposes does so with the term in which was judged.
//!
//! What is in flight is known by *tickets*, which rise by one a proposal. The proposer puts the
//! commands of successive tickets into one entry, and says with [`Verdicts::applied`] up to which
//! ticket entries are applied; the machine knows then what the ticket knew.

mod append;
mod flight;
mod join;
mod numbers;

#[cfg(test)]
mod tests;

use gem_store::StoreError;
use gem_types::{Error, Offset, PartitionId};

pub use join::{Joined, join_small};
pub use numbers::{is_out_of_order, out_of_order};

use crate::entry::Command;
use crate::log::{GroupRef, Placed};
use crate::machine::{Machine, Outcome, no_partition, no_topic};
use flight::{Flight, Kind};

/// Numbers a proposal within a term.
pub type Ticket = u64;

/// What is to be done with an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Put these commands into the next entry, in order; once it is applied, answer `placed`.
    Propose {
        /// What to propose.
        commands: Vec<Command>,
        /// The proposal's number.
        ticket: Ticket,
        /// One per record of the append.
        placed: Vec<Placed>,
    },
    /// All is stored already: answer `placed`, once ticket `after` is applied, if one is named.
    Duplicate {
        /// One per record of the append.
        placed: Vec<Placed>,
        /// The proposal in flight that stores the last of it.
        after: Option<Ticket>,
    },
    /// Answer this; nothing is stored.
    Refuse(Error),
}

/// What is to be done with any other command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// Put it into the next entry; the outcome is the answer.
    Propose(Command, Ticket),
    /// The state says already what would come of it. Good for an answer as far as the leader's
    /// state is: under a read index or a lease.
    Known(Outcome),
}

/// What a leader knows beyond what is applied.
#[derive(Debug)]
pub struct Verdicts {
    term: u64,
    flight: Flight,
    dedup_bytes: u64,
    /// What the node's other shards remember.
    ids_elsewhere: u64,
}

impl Verdicts {
    /// Nothing in flight. `dedup_bytes` bounds what the node remembers of clients' ids: when it is
    /// reached, new ids are refused, not old ones forgotten.
    pub fn new(dedup_bytes: u64) -> Self {
        Verdicts { term: 0, flight: Flight::default(), dedup_bytes, ids_elsewhere: 0 }
    }

    /// Tells how many bytes of ids the node's other shards remember.
    pub fn set_ids_elsewhere(&mut self, bytes: u64) {
        self.ids_elsewhere = bytes;
    }

    /// The term in which verdicts are given.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// A new term, or the end of one: nothing is in flight. Tickets go on rising.
    pub fn reset(&mut self, term: u64) {
        self.term = term;
        self.flight.clear();
    }

    /// How many proposals are in flight.
    pub fn in_flight(&self) -> usize {
        self.flight.len()
    }

    /// The offset that the next message of `partition` gets, after all that is in flight.
    pub fn end(&self, machine: &mut Machine, partition: PartitionId) -> Result<Option<Offset>, StoreError> {
        let applied = machine.partition(partition)?.map(|partition| partition.next);
        Ok(applied.map(|next| self.flight.partition(partition).map_or(next, |flight| flight.next.max(next))))
    }

    /// Judges a cut. `None` cuts all that was stored or proposed when it was asked for.
    pub fn trim(
        &mut self,
        machine: &mut Machine,
        partition: PartitionId,
        before: Option<Offset>,
    ) -> Result<Ruling, StoreError> {
        let Some(end) = self.end(machine, partition)? else {
            return Ok(Ruling::Known(Outcome::Refused(no_partition(partition))));
        };
        self.judge(machine, Command::Trim { partition, before: before.unwrap_or(end) })
    }

    /// Judges any command but an append.
    pub fn judge(&mut self, machine: &mut Machine, command: Command) -> Result<Ruling, StoreError> {
        debug_assert!(!matches!(command, Command::Append(_)), "appends have their own judge");
        Ok(match self.known(machine, &command)? {
            Some(outcome) => Ruling::Known(outcome),
            None => {
                let ticket = self.flight.add(kind_of(&command));
                Ruling::Propose(command, ticket)
            }
        })
    }

    /// The entries up to `ticket` are applied, with these outcomes. `false`: a batch did not
    /// continue its partition, which within a term can't be: step down.
    #[must_use]
    pub fn applied(&mut self, ticket: Ticket, outcomes: &[Outcome]) -> bool {
        self.flight.land(ticket);
        !outcomes.iter().any(|outcome| matches!(outcome, Outcome::Mismatch { .. }))
    }

    /// What would come of `command`, where the state says it and nothing in flight may change it.
    fn known(&self, machine: &mut Machine, command: &Command) -> Result<Option<Outcome>, StoreError> {
        Ok(match command {
            Command::CreateTopic { name, config } if !self.flight.concerns_topic(name) => match machine.topic(name)? {
                Some(topic) if topic.config == *config => Some(Outcome::Topic { info: topic.info(name), new: false }),
                // A contradiction is worded once, where it is applied.
                _ => None,
            },
            Command::AlterTopic { name, .. } | Command::DeleteTopic { name } if !self.flight.concerns_topic(name) => {
                machine.topic(name)?.is_none().then(|| Outcome::Refused(no_topic(name)))
            }
            Command::CreateGroup { group, .. } if !self.is_in_flight(machine, group)? => {
                machine.group(group)?.is_some().then(|| Outcome::Group { group: group.clone(), new: false })
            }
            _ => None,
        })
    }

    fn is_in_flight(&self, machine: &mut Machine, group: &GroupRef) -> Result<bool, StoreError> {
        let topic = machine.partition(group.partition)?.map(|partition| partition.topic.clone());
        Ok(self.flight.concerns_group(group) || topic.is_some_and(|topic| self.flight.concerns_topic(&topic)))
    }
}

fn kind_of(command: &Command) -> Kind {
    match command {
        Command::DeleteTopic { name } => Kind::Deletion(name.clone()),
        Command::CreateTopic { name, .. } | Command::AlterTopic { name, .. } => Kind::Topic(name.clone()),
        Command::CreateGroup { group, .. } | Command::DeleteGroup { group } => {
            Kind::Group((group.partition, group.group.clone()))
        }
        Command::ExpireProducers { partition, before_ms } => Kind::ProducerExpiry(*partition, *before_ms),
        _ => Kind::Other,
    }
}
