//! The generated code of GEM's wire contract. The normative part is `proto/gem/v1`.
//!
//! What it is not: nothing here is written by hand, and nothing here decides anything.

/// `gem.v1`.
pub mod v1 {
    #![allow(missing_docs, clippy::all, clippy::disallowed_types, clippy::disallowed_methods)]
    tonic::include_proto!("gem.v1");

    /// The descriptors of all files, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/gem.v1.bin"));
}
