//! Direct writes (O_DIRECT): from memory to the device, past the page cache.
//!
//! A journal's large flushes are not read again from the page cache (the newest messages are in
//! GEM's own), so a copy of them there costs time and pushes out what others need. Direct I/O
//! takes whole aligned blocks from aligned memory: the bytes are copied once into a buffer that
//! each writing thread keeps. What lies before the first whole block and behind the last goes
//! through the page cache as ever; both ways are coherent on Linux, and one fdatasync covers both.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// The alignment of offset, length and memory: what no known device or filesystem exceeds. Where
/// one does, its first refusal ends direct writing for that file.
const BLOCK: usize = 4096;
/// The most of one write: enough to keep a device busy, and the size of each thread's buffer.
const CHUNK: usize = 1 << 20;
/// What is shorter is written through the page cache: there one call does it.
const DIRECT_MIN: u64 = 32 << 10;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A second descriptor of a file, for direct writes; opened when the first is wanted.
#[derive(Debug, Default)]
pub(super) struct Direct {
    file: OnceLock<Option<File>>,
    is_refused: AtomicBool,
}

/// The whole blocks of `length` bytes at `offset`, as (bytes before them, their bytes).
fn blocks(offset: u64, length: u64) -> Option<(usize, usize)> {
    let block = BLOCK as u64;
    let before = offset.next_multiple_of(block) - offset;
    let whole = length.checked_sub(before)? / block * block;
    (whole >= DIRECT_MIN).then_some((before as usize, whole as usize))
}

impl Direct {
    /// Writes the whole blocks of `parts` directly. Answers how many bytes lie before them and how
    /// many they are; `None` where nothing was written: the range is small, or the filesystem has
    /// no direct I/O.
    pub fn write(&self, file: &File, parts: &[IoSlice<'_>], offset: u64) -> io::Result<Option<(usize, usize)>> {
        let length = parts.iter().map(|part| part.len() as u64).sum();
        let Some((before, whole)) = blocks(offset, length) else { return Ok(None) };
        if self.is_refused.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let Some(direct) = self.file.get_or_init(|| reopen(file)) else { return Ok(None) };
        let mut parts = parts.to_vec();
        let mut parts = &mut parts[..];
        IoSlice::advance_slices(&mut parts, before);
        let at = offset + before as u64;
        match BUFFER.with_borrow_mut(|buffer| write_blocks(direct, buffer, parts, at, whole)) {
            // An alignment of its own, or a filesystem that takes the flag but not the call.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
                self.is_refused.store(true, Ordering::Relaxed);
                Ok(None)
            }
            other => other.map(|()| Some((before, whole))),
        }
    }
}

fn write_blocks(
    file: &File,
    buffer: &mut Vec<u8>,
    mut parts: &mut [IoSlice<'_>],
    at: u64,
    whole: usize,
) -> io::Result<()> {
    buffer.resize(CHUNK + BLOCK, 0);
    let start = buffer.as_ptr().align_offset(BLOCK);
    let mut done = 0;
    while done < whole {
        let length = CHUNK.min(whole - done);
        let Some(chunk) = buffer.get_mut(start..).and_then(|aligned| aligned.get_mut(..length)) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        fill(&mut parts, chunk);
        file.write_all_at(chunk, at + done as u64)?;
        done += length;
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "part of the module that owns real files")]
fn reopen(file: &File) -> Option<File> {
    let flags = rustix::fs::OFlags::DIRECT.bits() as i32;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let opened = OpenOptions::new().write(true).custom_flags(flags).open(&path);
    opened.inspect_err(|error| tracing::debug!(%error, "no direct I/O here: writing through the page cache")).ok()
}

/// Moves the next bytes of `parts` into all of `out`; there are as many.
fn fill(parts: &mut &mut [IoSlice<'_>], mut out: &mut [u8]) {
    while let Some(part) = parts.first().filter(|_| !out.is_empty()) {
        let step = part.len().min(out.len());
        let (now, later) = std::mem::take(&mut out).split_at_mut(step);
        now.copy_from_slice(&part[..step]);
        out = later;
        IoSlice::advance_slices(parts, step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_blocks_go_past_the_page_cache() {
        let enough = DIRECT_MIN;
        assert_eq!(blocks(0, enough), Some((0, enough as usize)));
        assert_eq!(blocks(0, enough - 1), None);
        assert_eq!(blocks(512, enough), None, "a block's rest is not whole");
        assert_eq!(blocks(512, enough + 4096), Some((3584, enough as usize)));
        assert_eq!(blocks(4095, enough + 4098), Some((1, enough as usize + 4096)));
        assert_eq!(blocks(1, 100), None);
    }
}
