//! How the memory of a node is shared out, and what it really takes.

use gem_store::budget::{Budget, Class};
use gem_store::index::rocks::RocksConfig;
use gem_types::config::Memory;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

const MIB: u64 = 1 << 20;

/// The shares of a node's memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// All of it.
    pub total: u64,
    /// Requests, from the socket to the answer.
    pub requests: u64,
    /// Raft entries under way.
    pub raft: u64,
    /// Answers that clients have not taken.
    pub answers: u64,
    /// Recent batches; gives way.
    pub tail_cache: u64,
    /// RocksDB's block cache.
    pub index_cache: u64,
    /// RocksDB's write buffers.
    pub index_buffers: u64,
}

impl Shares {
    /// Shares out what `memory` means on this machine; `None` where it is a share of what the
    /// operating system does not tell.
    pub fn of(memory: Memory) -> Option<Shares> {
        let total = match memory {
            Memory::Size(bytes) => bytes,
            share => share.bytes(machine_bytes()?),
        };
        Some(Shares {
            total,
            requests: total / 4,
            raft: total / 4,
            answers: total / 8,
            tail_cache: total / 4,
            index_cache: (total / 32).clamp(2 * MIB, 1024 * MIB),
            index_buffers: (total / 32).clamp(4 * MIB, 256 * MIB),
        })
    }

    /// The budget with these bounds.
    pub fn budget(&self) -> Budget {
        Budget::new(
            self.total,
            &[
                (Class::Requests, self.requests),
                (Class::Raft, self.raft),
                (Class::Answers, self.answers),
                (Class::TailCache, self.tail_cache),
            ],
        )
    }

    /// The databases' settings.
    pub fn rocks(&self) -> RocksConfig {
        RocksConfig {
            cache_bytes: self.index_cache as usize,
            write_buffer_bytes: self.index_buffers as usize,
            ..RocksConfig::default()
        }
    }
}

/// The memory of this machine, or of the container that the node runs in.
fn machine_bytes() -> Option<u64> {
    let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::everything());
    let system = System::new_with_specifics(memory).ok()?;
    let machine = system.total_memory();
    Some(system.cgroup_limits().map_or(machine, |limits| limits.total_memory.min(machine)))
}

/// What this process has resident, in bytes; `None` where the operating system does not tell.
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_leave_room() {
        for total in [64 * MIB, 2048 * MIB, 64 * 1024 * MIB] {
            let s = Shares::of(Memory::Size(total)).unwrap();
            let shared = s.requests + s.raft + s.answers + s.tail_cache;
            assert!(shared + s.index_cache + s.index_buffers < total, "{s:?}");
        }
        assert!(Shares::of(Memory::Share(50)).unwrap().total > 0);
    }
}
