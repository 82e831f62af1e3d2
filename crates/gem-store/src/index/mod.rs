//! The index.
pub mod ordered;
