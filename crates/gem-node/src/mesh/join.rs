//! Coming into a mesh: the identity of a node that joins, and the addresses that it listens on.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gem_mesh::control::{BookError, JoinConfig, JoinError, Joined, Keeps, Secret, StartError, join};
use gem_mesh::runs::{FileError, RunBook};
use gem_store::disk::{Disk, read_whole, write_atomically};
use gem_types::seams::Random;

/// How long a node that joins for the first time tries to reach the mesh.
const JOIN_WAIT: Duration = Duration::from_secs(60);

/// Why a node takes no part in a mesh.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// An address can't be listened on.
    #[error("cannot listen on {address}: {why}; choose another with --mesh or --mesh-bulk")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        why: String,
    },
    /// No mesh let it in.
    #[error("{0}")]
    Join(#[from] JoinError),
    /// The mesh is another.
    #[error("{0}")]
    Other(String),
    /// The addresses of the others are lost.
    #[error("{0}")]
    Book(#[from] BookError),
    /// Its runs, or those that it noted.
    #[error("{0}")]
    Runs(#[from] FileError),
    /// What it says of itself can't be said.
    #[error("{0}")]
    Member(#[from] gem_types::Error),
}

/// Why a plane was not bound.
pub enum BindError {
    /// Of the control swarm.
    Control(StartError),
    /// Of the links.
    Bulk(std::io::Error),
}

impl From<StartError> for BindError {
    fn from(error: StartError) -> Self {
        BindError::Control(error)
    }
}

impl From<std::io::Error> for BindError {
    fn from(error: std::io::Error) -> Self {
        BindError::Bulk(error)
    }
}

/// Binds `wanted`; where that is taken and `is_flexible`, any free port of the same address.
pub async fn bind<T, F: Future<Output = Result<(T, SocketAddr), BindError>>>(
    wanted: SocketAddr,
    is_flexible: bool,
    open: impl Fn(SocketAddr) -> F,
) -> Result<(T, SocketAddr), MeshError> {
    let why = match open(wanted).await {
        Ok(bound) => return Ok(bound),
        Err(BindError::Control(error)) => error.to_string(),
        Err(BindError::Bulk(error)) => error.to_string(),
    };
    if is_flexible && wanted.port() != 0 {
        tracing::warn!(address = %wanted, "the default port of the mesh is not free ({why}): takes another");
        if let Ok(bound) = open(SocketAddr::new(wanted.ip(), 0)).await {
            return Ok(bound);
        }
    }
    Err(MeshError::Listen { address: wanted, why })
}

/// Asks the nodes at `addresses` to be let into their mesh.
pub async fn first(
    addresses: &[SocketAddr],
    listen: Option<SocketAddr>,
    key: &ed25519_dalek::SigningKey,
    secret: &str,
    random: Arc<dyn Random>,
) -> Result<Joined, MeshError> {
    let config = JoinConfig {
        addresses: addresses.to_vec(),
        listen,
        key: key.clone(),
        secret: Secret::new(secret),
        random,
        deadline: JOIN_WAIT,
    };
    Ok(join(config).await?)
}

/// A small file of the node's that is replaced as a whole: its address book, its runs, its notes.
pub struct KeptFile {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// The file.
    pub path: PathBuf,
}

impl Keeps for KeptFile {
    fn load(&self) -> std::io::Result<Option<Vec<u8>>> {
        if self.disk.exists(&self.path) { read_whole(&*self.disk, &self.path).map(Some) } else { Ok(None) }
    }

    fn save(&self, book: &[u8]) -> std::io::Result<()> {
        write_atomically(&*self.disk, &self.path, book)
    }
}

/// Begins a run of the node in `dir`, durably: its peers will know whether the directory is the one
/// of its last run. The list lies in the journal's directory, so that it goes where that goes.
///
/// # Errors
/// The list of runs or the notes can't be read or written.
pub fn begin_run(disk: &Arc<dyn Disk>, dir: &Path, random: &dyn Random) -> Result<Arc<RunBook>, MeshError> {
    let journal = dir.join("journal");
    disk.create_dir_all(&journal).map_err(FileError::from)?;
    let own = KeptFile { disk: disk.clone(), path: journal.join("runs.json") };
    let notes = KeptFile { disk: disk.clone(), path: dir.join("mesh-notes.json") };
    Ok(Arc::new(RunBook::begin(&own, Box::new(notes), random)?))
}
