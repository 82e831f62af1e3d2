//! Both lists on disk.
//!
//! ```json
//! {"version":1,"crc32c":"1c291ca3","rows":{"number":7,"ids":["00f1…"]}}
//! {"version":1,"crc32c":"1c291ca3","rows":[{"node":"12D3…","number":7,"id":"00f1…"}]}
//! ```

use std::io;

use serde::{Deserialize, Serialize};

use super::notes::{NOTES_MAX, Note, Notes};
use super::past::Runs;
use crate::checked;

/// The most bytes of either file.
const FILE_BYTES_MAX: usize = 256 << 10;

/// Why a list of runs can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It was not read or written.
    #[error("the list of the node's runs, or of those it met, can't be read or written: {0}")]
    Io(#[from] io::Error),
    /// The node's own list is not what was saved.
    #[error(
        "the list of this node's runs is damaged ({0}): restore it from a copy of this very run, or start with an empty data directory as a new node"
    )]
    Own(String),
    /// The notes are not what was saved.
    #[error(
        "the notes of met nodes' runs are damaged ({0}): once no other node's data directory was set back, remove the file; they are noted again"
    )]
    Notes(String),
}

#[derive(Serialize, Deserialize)]
struct Own {
    number: u32,
    ids: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    node: String,
    number: u32,
    id: String,
}

fn hex(id: u64) -> String {
    format!("{id:016x}")
}

fn unhex(text: &str) -> Result<u64, String> {
    u64::from_str_radix(text, 16).map_err(|error| error.to_string())
}

pub(super) fn encode_runs(runs: &Runs) -> Vec<u8> {
    checked::encode(&Own { number: runs.number(), ids: runs.ids().iter().copied().map(hex).collect() })
}

pub(super) fn decode_runs(bytes: &[u8]) -> Result<Runs, FileError> {
    let decoded = checked::decode::<Own>(bytes, FILE_BYTES_MAX).and_then(|own| {
        let ids = own.ids.iter().map(|id| unhex(id)).collect::<Result<_, _>>()?;
        Runs::new(own.number, ids).ok_or_else(|| "it names more runs than there were".to_owned())
    });
    decoded.map_err(FileError::Own)
}

pub(super) fn encode_notes(notes: &Notes) -> Vec<u8> {
    let row = |note: &Note| Row { node: note.node.to_string(), number: note.number, id: hex(note.id) };
    checked::encode(&notes.all().iter().map(row).collect::<Vec<_>>())
}

pub(super) fn decode_notes(bytes: &[u8]) -> Result<Notes, FileError> {
    let decoded = checked::decode::<Vec<Row>>(bytes, FILE_BYTES_MAX).and_then(|rows| {
        if rows.len() > NOTES_MAX {
            return Err(format!("{} notes, the most is {NOTES_MAX}", rows.len()));
        }
        let note = |row: Row| Ok(Note { node: row.node.parse()?, number: row.number, id: unhex(&row.id)? });
        rows.into_iter().map(note).collect::<Result<_, String>>().map(Notes::new)
    });
    decoded.map_err(FileError::Notes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::past::tests::runs;
    use gem_types::NodeId;
    use proptest::prelude::*;

    fn notes() -> impl Strategy<Value = Notes> {
        let note = any::<([u8; 32], u32, u64)>().prop_map(|(node, number, id)| Note { node: NodeId(node), number, id });
        prop::collection::vec(note, 0..20).prop_map(Notes::new)
    }

    proptest! {
        #[test]
        fn both_survive(runs in runs(), notes in notes()) {
            prop_assert_eq!(decode_runs(&encode_runs(&runs)).unwrap(), runs);
            prop_assert_eq!(decode_notes(&encode_notes(&notes)).unwrap(), notes);
        }

        #[test]
        fn damage_is_found(runs in runs(), at: prop::sample::Index, bit in 0..8u8) {
            let mut bytes = encode_runs(&runs);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(decode_runs(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_a_list_or_an_error(bytes: Vec<u8>) {
            let _ = (decode_runs(&bytes), decode_notes(&bytes));
        }
    }

    #[test]
    fn full_notes_fit() {
        let note = Note { node: NodeId([255; 32]), number: u32::MAX, id: u64::MAX };
        let notes = Notes::new(vec![note; NOTES_MAX]);
        assert!(encode_notes(&notes).len() <= FILE_BYTES_MAX);
        assert_eq!(decode_notes(&encode_notes(&notes)).unwrap(), notes);
    }
}
