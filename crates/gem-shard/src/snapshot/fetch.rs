//! What a replica that takes in a snapshot asks of the one that offers it.

use bytes::Bytes;
use gem_types::batch::RecordBatch;
use gem_types::{Offset, PartitionId};

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetch {
    /// Freeze the state as of now.
    Open,
    /// Rows of the state, in order.
    Rows {
        /// Which frozen state.
        copy: u64,
        /// Those with keys above this one.
        after: Bytes,
        /// About so many bytes (one row at least).
        bytes_max: u32,
    },
    /// Batches of a partition, as they are read.
    Batches {
        /// Which frozen state they go with: it is in use.
        copy: u64,
        /// The partition.
        partition: PartitionId,
        /// The first offset.
        from: Offset,
        /// About so many bytes (one batch at least).
        bytes_max: u32,
    },
    /// The state is not needed any more.
    Close {
        /// Which.
        copy: u64,
    },
}

/// An answer.
#[derive(Clone, Debug)]
pub enum Fetched {
    /// The state is frozen.
    Opened {
        /// How it is asked for.
        copy: u64,
    },
    /// Rows of the state.
    Rows {
        /// In order.
        rows: Vec<(Bytes, Bytes)>,
        /// Whether none follows.
        is_end: bool,
    },
    /// Batches in order; none where all from there on was trimmed or the partition is gone.
    Batches {
        /// The batches.
        batches: Vec<RecordBatch>,
    },
    /// It is closed.
    Closed,
    /// There is no such state (any more), or none can be frozen now: begin anew, later.
    Gone {
        /// Why.
        why: String,
    },
}
