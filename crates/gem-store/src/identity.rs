//! Who a node is, and the founding of a mesh.
//!
//! Founding runs in steps, each durable before the next, and a start resumes wherever a crash left
//! it: (1) the identity file, (2) the join secret for people to copy, (3) the shards, made by the
//! caller through idempotent journal operations, (4) the *founded* record. A directory without an
//! identity file but with data is refused: a node that forgot who it was must not pass for new.

mod file;

use std::fmt;
use std::path::Path;

use ed25519_dalek::SigningKey;
use gem_types::seams::Random;
use gem_types::{Incarnation, MeshId, NodeId, ReplicaId};

use crate::StoreError;
use crate::disk::{Disk, read_whole, write_atomically};

const IDENTITY: &str = "identity.json";
const FOUNDED: &str = "founded";
const SECRET: &str = "join-secret";
/// Directories whose contents are data: they may not be there without an identity.
const DATA: [&str; 3] = ["journal", "index", "objects"];
/// The most shards that a mesh is founded with: 2^8.
const K_MAX: u8 = 8;

/// A node's identity, and its mesh's.
#[derive(Clone)]
pub struct Identity {
    /// The node: its public key.
    pub node: NodeId,
    /// The mesh.
    pub mesh: MeshId,
    /// This life of the node's disk.
    pub incarnation: Incarnation,
    /// The mesh was founded with 2^k shards.
    pub k: u8,
    /// What a node needs to know to join.
    pub secret: String,
    /// The node's key.
    pub key: SigningKey,
}

impl fmt::Debug for Identity {
    /// Without the secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("node", &self.node)
            .field("mesh", &self.mesh)
            .field("incarnation", &self.incarnation)
            .field("k", &self.k)
            .finish_non_exhaustive()
    }
}

/// How far the founding has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Founding {
    /// The identity was made just now.
    Fresh,
    /// An earlier start made it and did not finish: make the shards again, idempotently.
    Resumed,
    /// Done.
    Founded,
}

/// What a founding may be given.
#[derive(Clone, Debug)]
pub struct FoundingConfig {
    /// The mesh starts with 2^k shards; at most 8.
    pub k: u8,
    /// The join secret; drawn where there is none.
    pub secret: Option<String>,
}

impl Default for FoundingConfig {
    fn default() -> Self {
        FoundingConfig { k: 4, secret: None }
    }
}

impl Identity {
    /// The identity in `dir`; where the directory is empty, one is made and written, durably, and
    /// with it a mesh. The join secret lies in `DIR/join-secret`.
    pub fn load_or_found(
        disk: &dyn Disk,
        dir: &Path,
        random: &dyn Random,
        config: &FoundingConfig,
    ) -> Result<(Identity, Founding), StoreError> {
        let path = dir.join(IDENTITY);
        let at = |error| StoreError::io_at(path.display(), error);
        disk.create_dir_all(dir).map_err(|error| StoreError::io_at(dir.display(), error))?;
        if disk.exists(&path) {
            let bytes = read_whole(disk, &path).map_err(at)?;
            let identity = file::decode(&bytes).map_err(|what| {
                StoreError::Directory(format!(
                    "{} can't be read ({what}): restore it from a copy; without it this node is another one",
                    path.display()
                ))
            })?;
            if disk.exists(&dir.join(FOUNDED)) {
                return Ok((identity, Founding::Founded));
            }
            identity.write_secret(disk, dir)?;
            return Ok((identity, Founding::Resumed));
        }
        refuse_data(disk, dir)?;
        if config.k > K_MAX {
            return Err(StoreError::Directory(format!(
                "a mesh starts with 2^k shards, k from 0 to {K_MAX}: not {}",
                config.k
            )));
        }
        let identity = Identity::draw(random, config);
        write_atomically(disk, &path, &file::encode(&identity)).map_err(at)?;
        identity.write_secret(disk, dir)?;
        Ok((identity, Founding::Fresh))
    }

    /// Whether there is an identity in `dir`.
    pub fn is_in(disk: &dyn Disk, dir: &Path) -> bool {
        disk.exists(&dir.join(IDENTITY))
    }

    /// A key for a node that is not in a mesh yet.
    pub fn draw_key(random: &dyn Random) -> SigningKey {
        let mut seed = [0; 32];
        random.fill(&mut seed);
        SigningKey::from_bytes(&seed)
    }

    /// Writes the identity of a node that was let into a mesh: it founds nothing. The directory
    /// must hold neither an identity nor data.
    pub fn adopt(
        disk: &dyn Disk,
        dir: &Path,
        random: &dyn Random,
        key: SigningKey,
        mesh: MeshId,
        k: u8,
        secret: String,
    ) -> Result<Identity, StoreError> {
        disk.create_dir_all(dir).map_err(|error| StoreError::io_at(dir.display(), error))?;
        refuse_data(disk, dir)?;
        let node = NodeId(key.verifying_key().to_bytes());
        let identity = Identity { node, mesh, incarnation: Incarnation(random.u64()), k, secret, key };
        // First that nothing is to be founded, then who it is: a crash between leaves no founder.
        identity.mark_founded(disk, dir)?;
        let path = dir.join(IDENTITY);
        let written = write_atomically(disk, &path, &file::encode(&identity));
        written.map_err(|error| StoreError::io_at(path.display(), error))?;
        identity.write_secret(disk, dir)?;
        Ok(identity)
    }

    /// Records that the shards are made: later starts find [`Founding::Founded`].
    pub fn mark_founded(&self, disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
        let path = dir.join(FOUNDED);
        let line = format!("mesh {}\n", self.mesh);
        write_atomically(disk, &path, line.as_bytes()).map_err(|error| StoreError::io_at(path.display(), error))
    }

    /// This node's replica in every shard.
    pub fn replica(&self) -> ReplicaId {
        ReplicaId { node: self.node, incarnation: self.incarnation }
    }

    fn draw(random: &dyn Random, config: &FoundingConfig) -> Identity {
        let mut seed = [0; 32];
        random.fill(&mut seed);
        let key = SigningKey::from_bytes(&seed);
        let mut mesh = [0; 16];
        random.fill(&mut mesh);
        let secret = config.secret.clone().unwrap_or_else(|| {
            let mut bytes = [0; 32];
            random.fill(&mut bytes);
            bytes.iter().map(|b| format!("{b:02x}")).collect()
        });
        Identity {
            node: NodeId(key.verifying_key().to_bytes()),
            mesh: MeshId(mesh),
            incarnation: Incarnation(random.u64()),
            k: config.k,
            secret,
            key,
        }
    }

    fn write_secret(&self, disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
        let path = dir.join(SECRET);
        let line = format!("{}\n", self.secret);
        write_atomically(disk, &path, line.as_bytes()).map_err(|error| StoreError::io_at(path.display(), error))
    }
}

/// A node that forgot who it was must not pass for new.
fn refuse_data(disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
    for name in DATA {
        if !disk.list(&dir.join(name))?.is_empty() {
            return Err(StoreError::Directory(format!(
                "{} holds {name}/ but no {IDENTITY}: restore that file, or start with an empty directory",
                dir.display()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{OsDisk, SimDisk};
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Counting(AtomicU64);

    impl Random for Counting {
        fn fill(&self, out: &mut [u8]) {
            out.iter_mut().for_each(|byte| *byte = self.0.fetch_add(1, Ordering::Relaxed) as u8);
        }
    }

    fn found(disk: &dyn Disk, dir: &Path, random: &Counting) -> Result<(Identity, Founding), StoreError> {
        Identity::load_or_found(disk, dir, random, &FoundingConfig::default())
    }

    #[test]
    fn a_founding_is_found_again() {
        let (disk, dir, random) = (SimDisk::new(), Path::new("/data"), Counting(AtomicU64::new(1)));
        let (made, state) = found(&disk, dir, &random).unwrap();
        assert_eq!(state, Founding::Fresh);
        let (again, state) = found(&disk, dir, &random).unwrap();
        assert_eq!(
            (again.node, again.mesh, again.incarnation, &again.secret),
            (made.node, made.mesh, made.incarnation, &made.secret)
        );
        assert_eq!(again.key.to_bytes(), made.key.to_bytes());
        assert_eq!(state, Founding::Resumed);
        made.mark_founded(&disk, dir).unwrap();
        assert_eq!(found(&disk, dir, &random).unwrap().1, Founding::Founded);
        let secret = read_whole(&disk, &dir.join(SECRET)).unwrap();
        assert_eq!(String::from_utf8(secret).unwrap().trim(), made.secret);
    }

    #[test]
    fn a_founding_resumes_after_a_crash_at_every_step() {
        for seed in 0..40 {
            for step in 0..40 {
                let (disk, dir, random) = (SimDisk::new(), Path::new("/data"), Counting(AtomicU64::new(seed)));
                disk.cut_power_after(step);
                let first = found(&disk, dir, &random).and_then(|(id, _)| id.mark_founded(&disk, dir).map(|()| id));
                disk.crash(seed);
                let (id, state) = found(&disk, dir, &random).unwrap();
                if let Ok(first) = first {
                    assert_eq!((first.node, state), (id.node, Founding::Founded));
                }
                id.mark_founded(&disk, dir).unwrap();
                disk.crash(seed + 1);
                let (again, state) = found(&disk, dir, &random).unwrap();
                assert_eq!((again.node, again.mesh, state), (id.node, id.mesh, Founding::Founded));
                assert!(disk.exists(&dir.join(SECRET)));
            }
        }
    }

    #[test]
    fn data_without_an_identity_is_refused() {
        let (disk, dir, random) = (SimDisk::new(), Path::new("/data"), Counting(AtomicU64::new(1)));
        disk.create_dir_all(&dir.join("journal")).unwrap();
        assert!(found(&disk, dir, &random).is_ok(), "an empty journal directory is no data");
        disk.remove(&dir.join(IDENTITY)).unwrap();
        disk.create(&dir.join("journal/00000000.journal"), 512).unwrap();
        let refusal = found(&disk, dir, &random).unwrap_err().to_string();
        assert!(refusal.contains("holds journal/ but no identity.json"), "{refusal}");
    }

    #[test]
    fn a_damaged_identity_is_refused() {
        let (disk, dir, random) = (SimDisk::new(), Path::new("/data"), Counting(AtomicU64::new(1)));
        found(&disk, dir, &random).unwrap();
        let size = disk.open(&dir.join(IDENTITY)).unwrap().size().unwrap();
        for offset in 0..size {
            disk.damage(&dir.join(IDENTITY), offset, 1);
            assert!(found(&disk, dir, &random).is_err(), "byte {offset}");
            disk.damage(&dir.join(IDENTITY), offset, 1);
        }
        found(&disk, dir, &random).unwrap();
    }

    #[test]
    fn secrets_are_readable_by_their_user_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        found(&OsDisk, dir.path(), &Counting(AtomicU64::new(9))).unwrap();
        for name in [IDENTITY, SECRET] {
            let mode = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }
}
