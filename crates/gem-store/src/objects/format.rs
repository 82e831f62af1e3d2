//! The layout of an object file, version 1. Numbers are big-endian, checksums CRC-32C.
//!
//! ```text
//! header, 72 bytes
//!   0  magic "GEMOBJ\r\n"   8  version u32   12  object number u64
//!  20  writer's node, 32    52  writer's group, 16 (zeros: of several groups)
//!  68  checksum u32 of bytes 0..68
//!
//! blocks, one a batch, in order of (group, partition, base offset), back to back
//!   0  group, 16   16  partition, 16   32  base offset u64   40  length u32
//!  44  checksum u32 of bytes 0..44 and the batch        48  the batch: a record batch as stored
//!
//! footer: runs, one a (group, partition), in order
//!   0  group, 16   16  partition, 16   32  count u32
//!  36  count times: base offset u64, position of the batch u64, its length u32
//!
//! trailer, the last 32 bytes
//!   0  position of the footer u64   8  batches u64   16  version u32
//!  20  checksum u32 of the footer and of bytes 0..20     24  magic "GEMOBJ\n\r"
//! ```
//!
//! The footer alone finds every batch; without it, the blocks can be walked.

use bytes::{Buf, BufMut};
use gem_types::{GroupId, NodeId, Offset, PartitionId};

/// The version that this code writes, and the only one that there is so far.
pub const VERSION: u32 = 1;
/// Bytes of the header.
pub const HEADER_LEN: usize = 72;
/// Bytes before each batch.
pub const BLOCK_HEAD_LEN: usize = 48;
/// Bytes of the trailer.
pub const TRAILER_LEN: usize = 32;

const MAGIC: &[u8; 8] = b"GEMOBJ\r\n";
const END_MAGIC: &[u8; 8] = b"GEMOBJ\n\r";
const RUN_HEAD_LEN: usize = 36;
const RUN_ENTRY_LEN: usize = 20;

/// Who wrote an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The node.
    pub node: NodeId,
    /// The group whose batches it holds; `None`: of several.
    pub group: Option<GroupId>,
}

/// Which batch: objects are sorted by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchKey {
    /// The group of the shard.
    pub group: GroupId,
    /// The partition.
    pub partition: PartitionId,
    /// The batch's base offset.
    pub base: Offset,
}

/// A batch in an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Which batch.
    pub key: BatchKey,
    /// Where in the object it begins, in bytes.
    pub position: u64,
    /// Its encoded length in bytes.
    pub length: u32,
}

/// Where a footer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Position of the footer.
    pub footer: u64,
    /// Batches in the object.
    pub batches: u64,
    checksum: u32,
}

/// The header of object `number`.
pub fn encode_header(number: u64, origin: &Origin) -> [u8; HEADER_LEN] {
    let mut out = Vec::with_capacity(HEADER_LEN);
    out.put_slice(MAGIC);
    out.put_u32(VERSION);
    out.put_u64(number);
    out.put_slice(&origin.node.0);
    out.put_slice(&origin.group.unwrap_or_default().0);
    out.put_u32(crc32c::crc32c(&out));
    fixed(&out)
}

/// Reads a header: the object's number, and who wrote it. The error says what was found.
pub fn decode_header(bytes: &[u8]) -> Result<(u64, Origin), String> {
    let bytes: &[u8; HEADER_LEN] =
        bytes.try_into().map_err(|_| format!("its header has {} bytes of {HEADER_LEN}", bytes.len()))?;
    let (mut head, mut sum) = bytes.split_at(HEADER_LEN - 4);
    let computed = crc32c::crc32c(head);
    check_magic(head, MAGIC)?;
    head.advance(MAGIC.len());
    check_version(head.get_u32())?;
    let stored = sum.get_u32();
    if stored != computed {
        return Err(format!("its header's checksum is {stored:08x}, computed {computed:08x}"));
    }
    let number = head.get_u64();
    let node = NodeId(take(&mut head));
    let group = GroupId(take(&mut head));
    Ok((number, Origin { node, group: (group != GroupId::default()).then_some(group) }))
}

/// What stands before a batch.
pub fn encode_block_head(key: &BatchKey, batch: &[u8]) -> [u8; BLOCK_HEAD_LEN] {
    let mut out = Vec::with_capacity(BLOCK_HEAD_LEN);
    put_key(&mut out, key);
    out.put_u32(u32::try_from(batch.len()).unwrap_or(u32::MAX));
    out.put_u32(crc32c::crc32c_append(crc32c::crc32c(&out), batch));
    fixed(&out)
}

/// Checks a block, head and batch together, and answers which batch it is.
pub fn decode_block(block: &[u8]) -> Result<BatchKey, String> {
    let Some((head, batch)) = block.split_first_chunk::<BLOCK_HEAD_LEN>() else {
        return Err(format!("a block has {} bytes", block.len()));
    };
    let (covered, mut rest) = head.split_at(BLOCK_HEAD_LEN - 4);
    let (stored, computed) = (rest.get_u32(), crc32c::crc32c_append(crc32c::crc32c(covered), batch));
    if stored != computed {
        return Err(format!("a block's checksum is {stored:08x}, computed {computed:08x}"));
    }
    let mut covered = covered;
    let key = take_key(&mut covered);
    let length = covered.get_u32();
    if u32::try_from(batch.len()) != Ok(length) {
        return Err(format!("a block holds {length} bytes where {} were looked for", batch.len()));
    }
    Ok(key)
}

/// The footer of `entries`, which are in order, and the trailer after it.
pub fn encode_footer(entries: &[IndexEntry], position: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * RUN_ENTRY_LEN + TRAILER_LEN);
    for run in entries.chunk_by(|a, b| a.key.group == b.key.group && a.key.partition == b.key.partition) {
        let [first, ..] = run else { continue };
        out.put_slice(&first.key.group.0);
        out.put_slice(&first.key.partition.0);
        out.put_u32(u32::try_from(run.len()).unwrap_or(u32::MAX));
        for entry in run {
            out.put_u64(entry.key.base);
            out.put_u64(entry.position);
            out.put_u32(entry.length);
        }
    }
    out.put_u64(position);
    out.put_u64(entries.len() as u64);
    out.put_u32(VERSION);
    out.put_u32(crc32c::crc32c(&out));
    out.put_slice(END_MAGIC);
    out
}

/// Reads a trailer.
pub fn decode_trailer(bytes: &[u8]) -> Result<Trailer, String> {
    let bytes: &[u8; TRAILER_LEN] =
        bytes.try_into().map_err(|_| format!("its trailer has {} bytes of {TRAILER_LEN}", bytes.len()))?;
    check_magic(&bytes[TRAILER_LEN - END_MAGIC.len()..], END_MAGIC)?;
    let mut bytes = bytes.as_slice();
    let (footer, batches) = (bytes.get_u64(), bytes.get_u64());
    check_version(bytes.get_u32())?;
    Ok(Trailer { footer, batches, checksum: bytes.get_u32() })
}

/// Reads a footer, `bytes` being everything from [`Trailer::footer`] to the object's end.
pub fn decode_footer(trailer: &Trailer, bytes: &[u8]) -> Result<Vec<IndexEntry>, String> {
    let runs = bytes.len().checked_sub(TRAILER_LEN).ok_or_else(|| format!("its footer has {} bytes", bytes.len()))?;
    let covered = bytes.get(..runs + 20).unwrap_or_default();
    let computed = crc32c::crc32c(covered);
    if computed != trailer.checksum {
        return Err(format!("its footer's checksum is {:08x}, computed {computed:08x}", trailer.checksum));
    }
    let mut rest = bytes.get(..runs).unwrap_or_default();
    let mut entries = Vec::with_capacity(runs / RUN_ENTRY_LEN);
    while !rest.is_empty() {
        if rest.len() < RUN_HEAD_LEN {
            return Err("its footer ends within a run's head".into());
        }
        let (group, partition) = (GroupId(take(&mut rest)), PartitionId(take(&mut rest)));
        let count = rest.get_u32() as usize;
        if count > rest.len() / RUN_ENTRY_LEN {
            return Err(format!("its footer has a run of {count} entries in {} bytes", rest.len()));
        }
        for _ in 0..count {
            let key = BatchKey { group, partition, base: rest.get_u64() };
            entries.push(IndexEntry { key, position: rest.get_u64(), length: rest.get_u32() });
        }
    }
    if entries.len() as u64 != trailer.batches {
        return Err(format!("its footer lists {} batches of {}", entries.len(), trailer.batches));
    }
    Ok(entries)
}

fn put_key(out: &mut Vec<u8>, key: &BatchKey) {
    out.put_slice(&key.group.0);
    out.put_slice(&key.partition.0);
    out.put_u64(key.base);
}

fn take_key(bytes: &mut &[u8]) -> BatchKey {
    BatchKey { group: GroupId(take(bytes)), partition: PartitionId(take(bytes)), base: bytes.get_u64() }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let mut out = [0; N];
    bytes.copy_to_slice(&mut out);
    out
}

/// Every caller has just written exactly `N` bytes.
fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(bytes);
    out
}

fn check_magic(bytes: &[u8], magic: &[u8; 8]) -> Result<(), String> {
    match bytes.starts_with(magic) {
        true => Ok(()),
        false => Err("it is not an object of GEM's, or was cut short".into()),
    }
}

fn check_version(version: u32) -> Result<(), String> {
    match version == VERSION {
        true => Ok(()),
        false => Err(format!("it has format version {version}; this binary reads version {VERSION}")),
    }
}
