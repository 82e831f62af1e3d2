//! Who lives, and how loaded they are.

pub mod member;

pub use member::{Load, Member};
