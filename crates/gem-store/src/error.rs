//! Why the store failed: internal errors, which say what happened and where.

use std::io;
use std::sync::Arc;

/// Why the store failed. Cheap to clone: one failed flush answers many callers.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Input or output failed.
    #[error("{0}")]
    Io(Arc<io::Error>),
    /// The bytes are no longer at this location: look it up again.
    #[error("the bytes have moved: look their location up again")]
    Moved,
    /// Nothing is stored under that index.
    #[error("there is no entry {index} of group {group}")]
    Missing {
        /// The group.
        group: gem_types::GroupId,
        /// The index asked for.
        index: u64,
    },
    /// What is stored there does not read as it was written.
    #[error("{place} is damaged: {what}")]
    Damaged {
        /// The file or directory.
        place: String,
        /// What was found.
        what: String,
    },
    /// The journal is damaged below what is known to have been flushed: this replica has lost
    /// part of what it promised to keep, and must not go on as if it had not.
    #[error("journal file {file} is damaged at byte {position}: {what}")]
    Corrupt {
        /// The file's name.
        file: String,
        /// Where in it.
        position: u64,
        /// What was found, and which groups and indexes it concerns as far as that is known.
        what: String,
    },
    /// A bounded queue is full: try again later.
    #[error("too many reads are waiting")]
    Busy,
    /// An entry that is larger than a journal file can hold.
    #[error("an entry of {size} bytes is too large: a journal file takes {max}")]
    TooLarge {
        /// Its size in bytes.
        size: u64,
        /// The most that fits.
        max: u64,
    },
    /// An operation that contradicts the log: a fault of the caller's.
    #[error("refused to journal this: {0}")]
    Refused(String),
    /// An earlier write or flush failed: only a restart goes on from here.
    #[error("stopped after an earlier failure to write ({detail}): restart the node")]
    Poisoned {
        /// The first failure.
        detail: Arc<str>,
    },
    /// The data directory cannot be used as it stands.
    #[error("{0}")]
    Directory(String),
}

impl StoreError {
    /// [`StoreError::Poisoned`] by the failure that `detail` tells of.
    pub fn poisoned(detail: &str) -> Self {
        StoreError::Poisoned { detail: detail.into() }
    }

    /// Input or output failed at `place`.
    pub fn io_at(place: impl std::fmt::Display, error: io::Error) -> Self {
        io::Error::new(error.kind(), format!("{place}: {error}")).into()
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        StoreError::Io(Arc::new(error))
    }
}
