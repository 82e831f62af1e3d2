//! The digest of a shard's state: equal on replicas that applied the same entries.

use gem_store::StoreError;
use sha2::{Digest, Sha256};

use super::Machine;

impl Machine {
    /// SHA-256 over every row of the state family, in order. Reads all of them: for simulation,
    /// tests and comparing replicas, not for every day. Sees what is committed; locations are
    /// each replica's own and have no part in it.
    pub fn digest(&self) -> Result<[u8; 32], StoreError> {
        let mut hash = Sha256::new();
        self.rows.each(&[0], &[u8::MAX], |key, value| {
            for part in [key, value] {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
            Ok(true)
        })?;
        Ok(hash.finalize().into())
    }
}
