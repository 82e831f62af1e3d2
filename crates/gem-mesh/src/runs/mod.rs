//! Runs: by what a node's peers see that its disk is older than the one it ran on before.
//!
//! Every start of a node is a run with a number and a drawn id, written to the node's disk before
//! it speaks to anybody. Nodes tell each other their last runs as a link between them begins, and
//! each notes the other's newest, durably, before the link carries anything. A disk that was set
//! back (restored from a copy, a machine's snapshot, a volume attached anew) doesn't know of the
//! runs that came after: whoever noted one of those turns the node away, and it ends.
//!
//! What it is not: it doesn't see that a disk lost flushed data within one run; the journal's
//! checksums and frontiers are for that.
//!
//! Invariants:
//! - No peer that has noted a run of a node talks to that node without that run in its past; so a
//!   replica whose disk was set back takes part in no election together with such a peer.
//! - A note is on the disk before the link that brought it carries anything.
//! - At most [`NOTES_MAX`] notes are kept, those of the nodes met last.

mod file;
mod notes;
mod past;

use std::io;
use std::sync::{Mutex, PoisonError};

use gem_types::NodeId;
use gem_types::seams::Random;
use tokio::sync::watch;

pub use file::FileError;
pub use notes::NOTES_MAX;
pub use past::{RUNS_MAX, Runs};

use crate::control::Keeps;
use notes::Notes;
#[cfg(test)]
pub(crate) use past::tests as past_tests;

/// Why a node is not taken for the one that was met before.
#[derive(Debug, thiserror::Error)]
pub enum Stranger {
    /// It doesn't know of a run that this node has noted.
    #[error(
        "data directory is older than one that the node ran on before: run {noted} of it was met here, and it knows of none or another of that number"
    )]
    Older {
        /// The number of the run that was noted.
        noted: u32,
    },
    /// The note that it was met could not be written.
    #[error("runs can't be noted: {0}")]
    Io(#[from] io::Error),
}

/// A node's own runs, and what it noted of others'.
pub struct RunBook {
    own: Runs,
    notes: Mutex<Notes>,
    keeps: Box<dyn Keeps>,
    /// Who said that this node's own disk is the older one.
    outdated: watch::Sender<Option<NodeId>>,
}

impl RunBook {
    /// Begins a run: adds it to those in `own`, and reads the notes in `notes`. Blocks on the disk.
    ///
    /// # Errors
    /// Either can't be read or written, or is damaged.
    pub fn begin(own: &dyn Keeps, notes: Box<dyn Keeps>, random: &dyn Random) -> Result<RunBook, FileError> {
        let past = own.load()?.map(|bytes| file::decode_runs(&bytes)).transpose()?;
        let runs = past.unwrap_or_default().next(random.u64());
        own.save(&file::encode_runs(&runs))?;
        let noted = notes.load()?.map(|bytes| file::decode_notes(&bytes)).transpose()?;
        Ok(RunBook {
            own: runs,
            notes: Mutex::new(noted.unwrap_or_default()),
            keeps: notes,
            outdated: watch::Sender::new(None),
        })
    }

    /// This node's runs, the present one last.
    pub fn own(&self) -> &Runs {
        &self.own
    }

    /// Takes note that `node` has had these runs. Blocks on the disk where that is news, which is
    /// once for each run of each node met.
    ///
    /// # Errors
    /// It is not the node that was met before.
    pub fn meet(&self, node: NodeId, runs: &Runs) -> Result<(), Stranger> {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if !notes.check(node, runs)? {
            return Ok(());
        }
        let mut next = notes.clone();
        next.take(node, runs);
        self.keeps.save(&file::encode_notes(&next))?;
        *notes = next;
        Ok(())
    }

    /// A peer that has proved itself says that this node's disk is older than one it ran on before.
    pub fn is_outdated_says(&self, peer: NodeId) {
        self.outdated.send_if_modified(|said| said.is_none() && said.replace(peer).is_none());
    }

    /// Waits until a peer says that this node's disk is older than one it ran on before: who.
    pub async fn outdated(&self) -> NodeId {
        let mut said = self.outdated.subscribe();
        match said.wait_for(Option::is_some).await.map(|said| *said) {
            Ok(Some(peer)) => peer,
            // The sender lives in `self`.
            _ => std::future::pending().await,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Bytes that outlive their keeper, as a disk's do.
    #[derive(Clone, Default)]
    pub(crate) struct Memory(pub(crate) Arc<Mutex<Option<Vec<u8>>>>, pub(crate) Arc<AtomicU64>);

    impl Keeps for Memory {
        fn load(&self) -> io::Result<Option<Vec<u8>>> {
            Ok(self.0.lock().unwrap().clone())
        }

        fn save(&self, bytes: &[u8]) -> io::Result<()> {
            self.1.fetch_add(1, Ordering::Relaxed);
            *self.0.lock().unwrap() = Some(bytes.to_vec());
            Ok(())
        }
    }

    pub(crate) struct Counting(pub(crate) AtomicU64);

    impl Random for Counting {
        fn fill(&self, out: &mut [u8]) {
            let number = self.0.fetch_add(1, Ordering::Relaxed).to_le_bytes();
            out.iter_mut().zip(number.iter().cycle()).for_each(|(byte, number)| *byte = *number);
        }
    }

    /// A node with its disk: what it keeps of itself and of others.
    #[derive(Clone, Default)]
    pub(crate) struct Disk {
        own: Memory,
        notes: Memory,
    }

    impl Disk {
        /// A start of the node.
        pub(crate) fn start(&self, random: &Counting) -> RunBook {
            RunBook::begin(&self.own, Box::new(self.notes.clone()), random).unwrap()
        }

        /// A copy, as of now.
        pub(crate) fn copied(&self) -> Disk {
            let copy = |memory: &Memory| Memory(Arc::new(Mutex::new(memory.0.lock().unwrap().clone())), Arc::default());
            Disk { own: copy(&self.own), notes: copy(&self.notes) }
        }
    }

    /// A node that runs once, wherever its tests start it again.
    pub(crate) fn one_run() -> RunBook {
        Disk::default().start(&Counting(AtomicU64::new(1)))
    }

    const NODE: NodeId = NodeId([1; 32]);

    #[test]
    fn a_node_is_met_again_run_after_run() {
        let (random, disk, peer) = (Counting(AtomicU64::new(1)), Disk::default(), Disk::default());
        for run in 1..100u32 {
            let node = disk.start(&random);
            assert_eq!(node.own().number(), run);
            // The peer restarts too, and misses runs.
            if run % 7 != 0 {
                peer.start(&random).meet(NODE, node.own()).unwrap();
            }
        }
    }

    #[test]
    fn what_was_noted_is_not_written_again() {
        let (random, disk, peer) = (Counting(AtomicU64::new(1)), Disk::default(), Disk::default());
        let (node, meets) = (disk.start(&random), peer.start(&random));
        (0..5).for_each(|_| meets.meet(NODE, node.own()).unwrap());
        assert_eq!(peer.notes.1.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn an_older_disk_is_turned_away_by_all_who_met_a_run_that_it_lacks() {
        let (random, disk) = (Counting(AtomicU64::new(1)), Disk::default());
        let (peer, stranger) = (Disk::default(), Disk::default());
        peer.start(&random).meet(NODE, disk.start(&random).own()).unwrap();
        let older = disk.copied();
        for _ in 0..3 {
            peer.start(&random).meet(NODE, disk.start(&random).own()).unwrap();
        }
        // The set-back disk may even have been started oftener since than the lost one.
        for _ in 0..5 {
            let back = older.start(&random);
            let met = peer.start(&random).meet(NODE, back.own());
            assert!(matches!(met, Err(Stranger::Older { noted: 4 })), "{met:?}");
            stranger.start(&random).meet(NODE, back.own()).unwrap();
        }
        // The other disk, were it to return, is the stranger there.
        assert!(stranger.start(&random).meet(NODE, disk.start(&random).own()).is_err());
        peer.start(&random).meet(NODE, disk.start(&random).own()).unwrap();
    }

    #[test]
    fn an_emptied_disk_is_an_older_one() {
        let (random, peer) = (Counting(AtomicU64::new(1)), Disk::default());
        peer.start(&random).meet(NODE, Disk::default().start(&random).own()).unwrap();
        assert!(peer.start(&random).meet(NODE, Disk::default().start(&random).own()).is_err());
    }

    #[test]
    fn a_note_that_is_not_written_is_not_taken() {
        struct Full;
        impl Keeps for Full {
            fn load(&self) -> io::Result<Option<Vec<u8>>> {
                Ok(None)
            }
            fn save(&self, _: &[u8]) -> io::Result<()> {
                Err(io::ErrorKind::StorageFull.into())
            }
        }
        let random = Counting(AtomicU64::new(1));
        let node = Disk::default().start(&random);
        let peer = RunBook::begin(&Memory::default(), Box::new(Full), &random).unwrap();
        assert!(matches!(peer.meet(NODE, node.own()), Err(Stranger::Io(_))));
        assert!(matches!(peer.meet(NODE, node.own()), Err(Stranger::Io(_))), "it was not noted");
        assert!(RunBook::begin(&Full, Box::new(Memory::default()), &random).is_err(), "no run begins unwritten");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_told_that_it_is_outdated_hears_it() {
        let random = Counting(AtomicU64::new(1));
        let book = Disk::default().start(&random);
        let wait = std::time::Duration::from_secs(1);
        assert!(tokio::time::timeout(wait, book.outdated()).await.is_err());
        book.is_outdated_says(NodeId([7; 32]));
        book.is_outdated_says(NodeId([8; 32]));
        assert_eq!(book.outdated().await, NodeId([7; 32]));
    }
}
