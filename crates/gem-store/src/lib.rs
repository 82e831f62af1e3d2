//! Storage of one node: the journal, the index, objects, and the files beneath them.
//!
//! What it is: everything that must survive a power cut. The [`journal`] is the Raft log of all
//! of a node's shards in one sequence of files, and *is* the data; the [`index`] knows what a
//! shard's log determined and where each batch lies; [`objects`] hold what was [gathered](gather)
//! from old journal files.
//!
//! What it is not: nothing here knows a network, a topic or Raft's rules; groups, indexes and
//! bytes come in, and the same bytes come out.
//!
//! Invariants:
//! - Nothing is reported as stored before the flush that covers it has succeeded.
//! - After a failed write or flush nothing is ever reported as stored again: a restart reads what
//!   is really there.
//! - Every file is reached through [`disk::Disk`], so a simulator can own all of them.
//! - What is read was checked: a CRC over the bytes, and the generation of the file.

pub mod disk;
pub mod identity;
pub mod journal;
pub mod index;
pub mod objects;
pub mod read;
pub mod cache;
pub mod budget;
pub mod gather;
mod error;
#[cfg(test)]
mod test_batches;

pub use error::StoreError;
pub use identity::Identity;
pub use journal::{Journal, JournalConfig, JournalOp, JournalPlace, LogPos};
