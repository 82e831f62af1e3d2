//! The journal: the Raft log of all of a node's shards, in one sequence of files. It is the data.
//!
//! What it is: preallocated, recycled files, written by one [`Writer`] that commits for all
//! groups: gather what is queued, write it with one call, flush, answer. A [`Journal`] is the
//! cheap handle through which shards submit operations and read entries.
//!
//! What it is not: it knows no Raft rules (who may vote, what is committed), no batches inside
//! entries, and no indexes; it keeps what it is told and says where it lies.
//!
//! Invariants:
//! - `done` is called with `Ok` only after a flush that covers the operation has succeeded, and
//!   operations become durable in the order in which they were submitted.
//! - Every byte that is read back was written under the generation it is asked for: records are
//!   salted with generation and position, and a read checks the generation before and after.
//! - Damage below the last known frontier stops the start ([`StoreError::Corrupt`]); damage above
//!   it is a crash's tail and is cut; what may be either is listed ([`Recovery::doubts`]).
//! - A failed write or flush poisons the journal for good.
//! - A file is reused only after a flushed record says so, and is said so only when no entry above
//!   a flushed purge mark lies in it.
//!
//! How a flush is laid out, and a file: [`layout`]. How a start reads them: [`recovery`].

mod codec;
mod counters;
mod driver;
mod entries;
mod footer;
mod handle;
mod head;
mod layout;
mod recovery;
mod recycle;
mod replay;
mod scan;
mod segment;
mod state;
#[cfg(test)]
mod tests;
mod types;
mod writer;

pub use counters::Counters;
pub use driver::{WriterThread, run_writer, spawn_writer_thread};
pub use handle::Journal;
pub use layout::fuzz_decode;
pub use types::{
    Cut, Done, Doubt, FileInfo, GroupMarks, JournalConfig, JournalOp, JournalPlace, LogPos, Recovery, Room,
};
pub use writer::Writer;

#[cfg(doc)]
use crate::StoreError;
