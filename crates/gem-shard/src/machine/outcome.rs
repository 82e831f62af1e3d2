//! What applying a command came to.

use gem_types::{Error, Offset, PartitionId, TopicName};

use crate::log::{GroupRef, TopicInfo};

/// What applying one command came to: the same on every replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A batch is stored at `base..next`.
    Appended {
        /// Where.
        partition: PartitionId,
        /// Its first offset.
        base: Offset,
        /// The offset after its last.
        next: Offset,
    },
    /// A batch did not continue its partition: nothing of it is stored. Within a term this can't
    /// happen; a leader that sees it steps down.
    Mismatch {
        /// Where.
        partition: PartitionId,
        /// The partition's next offset.
        expected: Offset,
        /// The batch's base offset.
        found: Offset,
    },
    /// Numbers of stored records are remembered.
    Numbered,
    /// A topic as it stands now.
    Topic {
        /// The topic.
        info: TopicInfo,
        /// Whether this command made it.
        new: bool,
    },
    /// A topic is gone, and with it these partitions and all in them.
    TopicDeleted {
        /// Its name.
        name: TopicName,
        /// The partitions that this shard held of it.
        partitions: Vec<PartitionId>,
    },
    /// A partition begins at `earliest` now.
    Trimmed {
        /// Which.
        partition: PartitionId,
        /// Its first offset.
        earliest: Offset,
    },
    /// A group stands.
    Group {
        /// Which.
        group: GroupRef,
        /// Whether this command made it.
        new: bool,
    },
    /// A group is gone.
    GroupDeleted {
        /// Which.
        group: GroupRef,
    },
    /// A group's floor was moved; whatever is out is no longer.
    Sought {
        /// Which.
        group: GroupRef,
        /// Its floor now.
        floor: Offset,
    },
    /// A group's progress is taken in.
    Progressed {
        /// Which.
        group: GroupRef,
        /// Its floor now.
        floor: Offset,
    },
    /// So many ids or producers were forgotten.
    Expired {
        /// Of which partition.
        partition: PartitionId,
        /// How many.
        count: u64,
    },
    /// Nothing was changed.
    Refused(Error),
}

impl Outcome {
    /// The refusal, if it is one.
    pub fn refusal(&self) -> Option<&Error> {
        match self {
            Outcome::Refused(error) => Some(error),
            _ => None,
        }
    }
}
