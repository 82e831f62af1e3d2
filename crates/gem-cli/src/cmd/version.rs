//! `gem --version`.

/// Version, commit and on-disk format.
pub const TEXT: &str = concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("GEM_COMMIT"), ", on-disk format 1)");
