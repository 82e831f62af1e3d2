//! The ordered-store seam: what GEM needs of RocksDB, and all that it uses of it.
//!
//! One store per shard replica. [`rocks`](super::rocks) is the real one,
//! [`model`](super::model) the simulator's: it atomically loses everything since its last flush.
//! One suite holds both to this page.

use std::fmt;
use std::path::Path;

use bytes::Bytes;
use gem_types::GroupId;

use crate::StoreError;

/// The two parts of an index. They are written and flushed together, atomically.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// What the shard's log determines: the same on every replica. Digested, checkpointed, sent.
    State,
    /// Where this replica keeps each batch: its own business.
    Locations,
}

/// One change of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets a key.
    Put(Family, Bytes, Bytes),
    /// Removes a key, if it is there.
    Delete(Family, Bytes),
    /// Removes every key in `from..to`.
    DeleteRange(Family, Bytes, Bytes),
}

/// A key and its value.
pub type Row = (Bytes, Bytes);

/// An ordered map of bytes in two families.
pub trait OrderedStore: Send + Sync + fmt::Debug + 'static {
    /// The value of `key`.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StoreError>;
    /// The rows of `from..to` in order, at most `limit`.
    fn scan(&self, family: Family, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StoreError>;
    /// The rows of `from..to` in reverse order, at most `limit`.
    fn scan_back(&self, family: Family, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StoreError>;
    /// Applies all changes or none, in order. Visible at once, durable with the next flush.
    fn write(&self, changes: Vec<Change>) -> Result<(), StoreError>;
    /// Makes all that was written before the call durable, both families at one point.
    fn flush(&self) -> Result<(), StoreError>;
    /// A copy of the store at `dir`, as of now; `dir` must not exist.
    fn checkpoint(&self, dir: &Path) -> Result<(), StoreError>;
}

/// Opens and removes the stores of a node.
pub trait OrderedStores: Send + Sync + fmt::Debug + 'static {
    /// Opens the store of `group`, making it where it is not there.
    fn open(&self, group: GroupId) -> Result<std::sync::Arc<dyn OrderedStore>, StoreError>;
    /// Removes the store of `group`; nothing where it is not there. It must be closed.
    fn remove(&self, group: GroupId) -> Result<(), StoreError>;
}
