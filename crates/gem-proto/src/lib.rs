//! GEM's wire contract in Rust. The normative part is `proto/gem/v1`; messages, clients and
//! servers are generated from it.
//!
//! What it is not: nothing here decides anything. The one thing written by hand is how servers
//! encode: [`answer`].

pub mod answer;

/// `gem.v1`: messages and clients.
pub mod v1 {
    #![allow(missing_docs, clippy::all, clippy::disallowed_types, clippy::disallowed_methods)]
    tonic::include_proto!("gem.v1");

    /// The descriptors of all files, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/gem.v1.bin"));
}

/// `gem.v1`: servers. Answers that carry stored messages are an [`answer::Answer`].
pub mod server {
    #![allow(missing_docs, clippy::all, clippy::disallowed_types, clippy::disallowed_methods)]
    include!(concat!(env!("OUT_DIR"), "/server/gem.v1.rs"));
}
