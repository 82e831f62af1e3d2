//! What all links of a node share.

use std::sync::Arc;

use gem_types::seams::Random;
use tokio_util::sync::CancellationToken;

use super::Addresses;
use super::config::BulkLimits;
use super::counters::Counting;
use super::hello::Introduction;
use super::tls::Credentials;

/// What all links of a node share.
pub(super) struct Shared {
    pub(super) own: Introduction,
    pub(super) limits: BulkLimits,
    pub(super) credentials: Credentials,
    pub(super) addresses: Arc<dyn Addresses>,
    pub(super) random: Arc<dyn Random>,
    pub(super) counting: Counting,
    /// Set once, when the node stops.
    pub(super) stopping: CancellationToken,
}
