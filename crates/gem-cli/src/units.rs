//! Sizes and times as flags: thin readers over [`gem_types::config`].

use std::time::Duration;

use gem_types::config::{format_duration, parse_duration, parse_size};

/// A time, as 30s.
pub fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.detail)
}

/// A time in milliseconds, as 30s.
pub fn duration_ms(text: &str) -> Result<u64, String> {
    duration(text).map(|time| time.as_millis() as u64)
}

/// A size in bytes, as 512MiB.
pub fn size(text: &str) -> Result<u64, String> {
    parse_size(text).map_err(|error| error.detail)
}

/// A size, or none at all.
#[derive(Clone, Copy, Debug)]
pub struct SizeOrNone(pub Option<u64>);

/// A size, or `none`.
pub fn size_or_none(text: &str) -> Result<SizeOrNone, String> {
    if text == "none" { Ok(SizeOrNone(None)) } else { size(text).map(|bytes| SizeOrNone(Some(bytes))) }
}

/// Milliseconds as people write them.
pub fn show_ms(ms: u64) -> String {
    format_duration(Duration::from_millis(ms))
}
