//! Objects: immutable files of batches that were gathered from old journal files, sorted by
//! (group, partition, base offset).
//!
//! What it is: the [format](format), a [writer], a [reader], and the [directory] that holds them:
//! a local one. A bucket takes the directory's place later; whoever writes, reads and removes
//! objects speaks to [`Objects`] alone.
//!
//! Invariants:
//! - An object is complete or not there: written under another name, synced, renamed, and the
//!   directory synced before anybody hears of it.
//! - An object never changes. It is removed when no location points into it.
//! - What is read from it was checked: its checksum, and that it is the batch that was asked for.

pub mod directory;
pub mod format;
pub mod reader;
pub mod writer;

pub use directory::{ObjectInfo, Objects};
pub use format::{BatchKey, IndexEntry, Origin};
pub use reader::ObjectReader;
pub use writer::ObjectWriter;

#[cfg(test)]
mod tests;
