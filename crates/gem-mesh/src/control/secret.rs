//! The join secret: what every node of a mesh knows and nobody else does.

use std::fmt;
use std::sync::Arc;

/// The join secret. It is compared by proof alone, never sent, and never printed.
#[derive(Clone)]
pub struct Secret(Arc<str>);

impl Secret {
    /// The secret as people copy it: white space around it doesn't count.
    pub fn new(text: &str) -> Self {
        Secret(text.trim().into())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
