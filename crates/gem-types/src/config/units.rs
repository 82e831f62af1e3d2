//! Sizes and times as people write them: `512MiB`, `30s`.
//!
//! One reader and one writer for `gem.toml`, flags and command-line output. What the writer
//! writes, the reader reads to the same value.

use std::time::Duration;

use crate::error::{Error, Result};

const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// In milliseconds.
const TIMES: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads a size in bytes: a number and `B`, `kB`, `KiB`, `MB`, `MiB`, …, `TiB`, in either case;
/// a bare number is bytes. A fraction is rounded down to whole bytes.
pub fn parse_size(text: &str) -> Result<u64> {
    let wrong = || Error::invalid(format!("{text:?} is not a size: write a number and a unit, like 512MiB or 10GiB"));
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let unit = match unit {
        "" => 1,
        unit => SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(wrong)?.1,
    };
    scale(number, unit).ok_or_else(wrong)
}

/// Writes a size in the largest unit of 1024 that keeps it whole: `1MiB`, `1536KiB`, `1000B`.
pub fn format_size(bytes: u64) -> String {
    write(bytes, SIZES.iter().filter(|(name, _)| name.len() != 2), "B")
}

/// Reads a time, exact to a millisecond: a number and `ms`, `s`, `m`, `h` or `d`. Only zero goes
/// without a unit.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let wrong = || Error::invalid(format!("{text:?} is not a time: write a number and a unit, like 30s, 10m or 7d"));
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let unit = match unit {
        "" if number.0 == 0 && number.1.is_empty() => 1,
        unit => TIMES.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1,
    };
    Ok(Duration::from_millis(scale(number, unit).ok_or_else(wrong)?))
}

/// Writes a time in the largest unit that keeps it whole: `30s`, `90m`, `7d`, `1500ms`. What is
/// finer than a millisecond is dropped.
pub fn format_duration(time: Duration) -> String {
    write(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), TIMES.iter(), "s")
}

/// Reads a share: a whole number of per cent, `80%`. `None` where the text is no share.
pub fn parse_share(text: &str) -> Option<u8> {
    let number = text.trim().strip_suffix('%')?.trim_end();
    number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok())?.filter(|share| *share <= 100)
}

/// A whole number, the digits of its fraction, and what follows them.
fn split(text: &str) -> Option<((u64, &str), &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fits = fraction.len() <= 9 && !fraction.contains('.') && !(number.ends_with('.'));
    fits.then_some(())?;
    Some(((whole.parse().ok()?, fraction), unit.trim_start()))
}

fn scale((whole, fraction): (u64, &str), unit: u64) -> Option<u64> {
    let whole = whole.checked_mul(unit)?;
    if fraction.is_empty() {
        return Some(whole);
    }
    let digits: u128 = fraction.parse().ok()?;
    let part = digits * u128::from(unit) / 10u128.pow(fraction.len() as u32);
    whole.checked_add(u64::try_from(part).ok()?)
}

fn write<'a>(value: u64, units: impl Iterator<Item = &'a (&'a str, u64)>, zero: &str) -> String {
    if value == 0 {
        return format!("0{zero}");
    }
    let mut whole = units.filter(|(_, unit)| value.is_multiple_of(*unit));
    whole.next().map_or_else(|| value.to_string(), |(name, unit)| format!("{}{name}", value / unit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("512MiB", 512 << 20),
            ("512mib", 512 << 20),
            (" 1.5 GiB ", 3 << 29),
            ("2kB", 2000),
            ("0.5KiB", 512),
            ("16TiB", 16 << 40),
        ] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "MiB", "1M", "-1MiB", "1.MiB", "1..5MiB", ".", "1e3", "99999999TiB", "1 MiB x", "٣MiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert_eq!(format_size(1000), "1000B");
        assert_eq!(format_size(3 << 29), "1536MiB");
    }

    #[test]
    fn times() {
        for (text, ms) in [("30s", 30_000), ("7d", 604_800_000), ("1.5h", 5_400_000), ("250ms", 250), ("0", 0)] {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for text in ["", "30", "s", "30S", "1w", "-1s", "1s5", "999999999999999d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert_eq!(format_duration(Duration::from_secs(5400)), "90m");
        assert_eq!(format_duration(Duration::ZERO), "0s");
    }

    #[test]
    fn shares() {
        assert_eq!(parse_share("80%"), Some(80));
        for text in ["80", "101%", "-1%", "+1%", "%", "1.5%"] {
            assert_eq!(parse_share(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads(value: u64, shift in 0u32..64) {
            let value = value >> shift;
            prop_assert_eq!(parse_size(&format_size(value)).unwrap(), value);
            let time = Duration::from_millis(value);
            prop_assert_eq!(parse_duration(&format_duration(time)).unwrap(), time);
        }

        #[test]
        fn nothing_panics(text: String) {
            let _ = (parse_size(&text), parse_duration(&text), parse_share(&text));
        }
    }
}
