//! Storage.
pub mod disk;
pub mod index;

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Input or output failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}
