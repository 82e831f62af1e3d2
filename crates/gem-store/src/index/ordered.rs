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

/// The first key behind `key`: where a scan goes on.
pub fn after(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

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

/// Names a store of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId {
    /// The group.
    pub group: GroupId,
    /// Which of its stores: a snapshot that is taken in makes a new one beside the old, and the
    /// journal says which counts.
    pub generation: u32,
}

impl StoreId {
    /// Generations from here on are copies to be looked at for a while: none outlives its process.
    pub const COPIES: u32 = 1 << 31;

    /// Whether it is a copy to be looked at.
    pub fn is_copy(&self) -> bool {
        self.generation >= Self::COPIES
    }
}

impl From<GroupId> for StoreId {
    /// The group's first store.
    fn from(group: GroupId) -> Self {
        StoreId { group, generation: 0 }
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.generation {
            0 => write!(f, "{}", self.group),
            generation => write!(f, "{}.{generation}", self.group),
        }
    }
}

impl std::str::FromStr for StoreId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (group, generation) = text.split_once('.').unwrap_or((text, "0"));
        let generation = generation.parse().map_err(|_| format!("{text:?} names no store"))?;
        Ok(StoreId { group: group.parse()?, generation })
    }
}

/// Opens and removes the stores of a node.
pub trait OrderedStores: Send + Sync + fmt::Debug + 'static {
    /// Opens a store, making it where it is not there.
    fn open_at(&self, id: StoreId) -> Result<std::sync::Arc<dyn OrderedStore>, StoreError>;
    /// Removes a store; nothing where it is not there. It must be closed.
    fn remove_at(&self, id: StoreId) -> Result<(), StoreError>;
    /// Makes `to`, which must not exist, a copy of `from` as of now. What the copy holds is
    /// durable.
    fn copy(&self, from: &dyn OrderedStore, to: StoreId) -> Result<(), StoreError>;
    /// All stores there are, open or not.
    fn list(&self) -> Result<Vec<StoreId>, StoreError>;

    /// Opens the first store of `group`.
    fn open(&self, group: GroupId) -> Result<std::sync::Arc<dyn OrderedStore>, StoreError> {
        self.open_at(group.into())
    }
    /// Removes the first store of `group`.
    fn remove(&self, group: GroupId) -> Result<(), StoreError> {
        self.remove_at(group.into())
    }
}
