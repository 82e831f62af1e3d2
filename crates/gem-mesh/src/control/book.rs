//! The address book on disk: by it a node that restarts finds its mesh without `--join`.
//!
//! ```json
//! {"version":1,"crc32c":"1c291ca3","rows":[{"node":"12D3…","control":"10.0.0.7:7401","bulk":"10.0.0.7:7402"}]}
//! ```
//! The form is that of all small files: [`crate::checked`].
//!
//! What it is not: it touches no disk. Its owner keeps the bytes, durably and as a whole.
//!
//! Invariant: at most [`BOOK_MEMBERS_MAX`] members and [`BOOK_BYTES_MAX`] bytes; a damaged book is
//! an error, never fewer members.

use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::addresses::{Addresses, Known};
use crate::checked;

/// The most members in a book.
pub const BOOK_MEMBERS_MAX: usize = 64;
/// The most bytes of a book.
pub const BOOK_BYTES_MAX: usize = 64 << 10;

/// Who keeps the bytes of a book.
pub trait Keeps: Send + Sync + 'static {
    /// What was saved last; `None` where nothing ever was.
    fn load(&self) -> io::Result<Option<Vec<u8>>>;
    /// Replaces it as a whole: after a crash the old or the new is there.
    fn save(&self, book: &[u8]) -> io::Result<()>;
}

/// Members that were known, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Book {
    /// The members.
    pub members: Vec<Known>,
}

/// Why a book can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// It was not read or written.
    #[error("the address book can't be read or written: {0}")]
    Io(#[from] io::Error),
    /// It is not what was saved.
    #[error("the address book is damaged ({0}): remove it and start with --join ADDR of a living node")]
    Damaged(String),
}

#[derive(Serialize, Deserialize)]
struct Row {
    node: String,
    control: SocketAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bulk: Option<SocketAddr>,
}

impl Book {
    /// The newest of `addresses`.
    pub fn of(addresses: &Addresses) -> Book {
        Book { members: addresses.newest(BOOK_MEMBERS_MAX) }
    }

    /// Its bytes: the first [`BOOK_MEMBERS_MAX`] members.
    pub fn encode(&self) -> Vec<u8> {
        let rows: Vec<Row> = self.members.iter().take(BOOK_MEMBERS_MAX).map(Row::from).collect();
        checked::encode(&rows)
    }

    /// The book in `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Book, BookError> {
        let damaged = |what: String| BookError::Damaged(what);
        let rows: Vec<Row> = checked::decode(bytes, BOOK_BYTES_MAX).map_err(damaged)?;
        if rows.len() > BOOK_MEMBERS_MAX {
            return Err(damaged(format!("{} members, the most is {BOOK_MEMBERS_MAX}", rows.len())));
        }
        let members = rows.into_iter().map(Known::try_from).collect::<Result<_, _>>().map_err(damaged)?;
        Ok(Book { members })
    }
}

impl From<&Known> for Row {
    fn from(known: &Known) -> Row {
        Row { node: known.node.to_string(), control: known.control, bulk: known.bulk }
    }
}

impl TryFrom<Row> for Known {
    type Error = String;

    fn try_from(row: Row) -> Result<Known, String> {
        Ok(Known { node: row.node.parse()?, control: row.control, bulk: row.bulk })
    }
}

/// Saves a book when, and only when, it says something new.
pub struct Keeper {
    keeps: Box<dyn Keeps>,
    /// The members saved last, sorted: their order alone is not worth a write.
    saved: Mutex<Option<Vec<Known>>>,
}

impl Keeper {
    /// A keeper of what `keeps` keeps.
    pub fn new(keeps: Box<dyn Keeps>) -> Keeper {
        Keeper { keeps, saved: Mutex::new(None) }
    }

    /// What was saved last, taught to `addresses`; an empty book where nothing was. Blocks on the
    /// disk.
    pub fn load(&self, addresses: &Addresses) -> Result<Book, BookError> {
        let Some(bytes) = self.keeps.load()? else { return Ok(Book::default()) };
        let book = Book::decode(&bytes)?;
        // The newest is taught last, so that it is the newest again.
        book.members.iter().rev().for_each(|known| addresses.learn_known(*known));
        *self.saved.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(sorted(&book));
        Ok(book)
    }

    /// Saves what `addresses` know, if it differs from what was saved last; whether it did. Blocks
    /// on the disk. A node that knows of nobody keeps its old book: that is what it is for.
    pub fn save(&self, addresses: &Addresses) -> Result<bool, BookError> {
        let book = Book::of(addresses);
        let members = sorted(&book);
        let mut saved = self.saved.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if book.members.is_empty() || saved.as_ref() == Some(&members) {
            return Ok(false);
        }
        self.keeps.save(&book.encode())?;
        *saved = Some(members);
        Ok(true)
    }
}

fn sorted(book: &Book) -> Vec<Known> {
    let mut members = book.members.clone();
    members.sort_unstable();
    members
}

#[cfg(test)]
mod tests {
    use super::*;
    use gem_types::NodeId;
    use proptest::prelude::*;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<(Option<Vec<u8>>, u32)>>);

    impl Keeps for Memory {
        fn load(&self) -> io::Result<Option<Vec<u8>>> {
            Ok(self.0.lock().unwrap().0.clone())
        }

        fn save(&self, book: &[u8]) -> io::Result<()> {
            let mut kept = self.0.lock().unwrap();
            *kept = (Some(book.to_vec()), kept.1 + 1);
            Ok(())
        }
    }

    /// Scope and flow label of IPv6 have no place in a book's text.
    fn plain(address: SocketAddr) -> SocketAddr {
        SocketAddr::new(address.ip(), address.port())
    }

    fn knowns() -> impl Strategy<Value = Known> {
        any::<([u8; 32], SocketAddr, Option<SocketAddr>)>().prop_map(|(node, control, bulk)| Known {
            node: NodeId(node),
            control: plain(control),
            bulk: bulk.map(plain),
        })
    }

    proptest! {
        #[test]
        fn a_book_survives(members in prop::collection::vec(knowns(), 0..=BOOK_MEMBERS_MAX)) {
            let bytes = Book { members: members.clone() }.encode();
            prop_assert!(bytes.len() <= BOOK_BYTES_MAX);
            prop_assert_eq!(Book::decode(&bytes).unwrap().members, members);
        }

        #[test]
        fn damage_is_found(members in prop::collection::vec(knowns(), 1..4), at: prop::sample::Index, bit in 0..8u8) {
            let good = Book { members }.encode();
            let mut bytes = good.clone();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            // Nothing but the case of a hexadecimal digit could pass, and that is compared too.
            prop_assert!(Book::decode(&bytes).is_err(), "byte {} of {}", at, String::from_utf8_lossy(&good));
        }

        #[test]
        fn any_bytes_are_a_book_or_an_error(bytes: Vec<u8>) {
            let _ = Book::decode(&bytes);
        }
    }

    #[test]
    fn only_news_is_saved_and_a_restart_knows_it() {
        let known = |number: u8| Known {
            node: NodeId([number; 32]),
            control: SocketAddr::from(([127, 0, 0, 1], u16::from(number))),
            bulk: None,
        };
        let (memory, addresses) = (Memory::default(), Addresses::default());
        let keeper = Keeper::new(Box::new(memory.clone()));
        assert!(!keeper.save(&addresses).unwrap(), "nobody is known");
        [1, 2].into_iter().for_each(|number| addresses.learn_known(known(number)));
        assert!(keeper.save(&addresses).unwrap());
        addresses.learn_known(known(1));
        assert!(!keeper.save(&addresses).unwrap(), "the order alone is no news");

        let (restarted, again) = (Addresses::default(), Keeper::new(Box::new(memory.clone())));
        let book = again.load(&restarted).unwrap();
        assert_eq!(book.members, [known(2), known(1)]);
        assert_eq!(restarted.newest(9), book.members);
        assert!(!again.save(&restarted).unwrap());
        restarted.forget(known(1).node);
        assert!(again.save(&restarted).unwrap());
        assert_eq!(memory.0.lock().unwrap().1, 2);
    }

    #[test]
    fn a_full_book_fits() {
        let far: SocketAddr = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap();
        let known = |number| Known { node: NodeId([number; 32]), control: far, bulk: Some(far) };
        let book = Book { members: (0..200).map(known).collect() };
        let bytes = book.encode();
        assert!(bytes.len() <= BOOK_BYTES_MAX, "{}", bytes.len());
        assert_eq!(Book::decode(&bytes).unwrap().members.len(), BOOK_MEMBERS_MAX);
    }
}
