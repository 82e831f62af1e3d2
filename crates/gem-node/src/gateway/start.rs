//! Where reading starts: `earliest`, `latest`, an RFC 3339 time, or `partition:offset`.

use gem_shard::log::From;
use gem_types::{Error, Result};

/// Reads `text`.
pub fn parse(text: &str) -> Result<From> {
    match text {
        "earliest" => return Ok(From::Earliest),
        "latest" => return Ok(From::Latest),
        _ => {}
    }
    let place = text.split_once(':').and_then(|(partition, offset)| {
        let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        (digits(partition) && digits(offset)).then_some((partition, offset))
    });
    if let Some((partition, offset)) = place {
        return match (partition.parse(), offset.parse()) {
            (Ok(partition), Ok(offset)) => Ok(From::At(partition, offset)),
            _ => Err(Error::invalid(format!("{text:?} names no place: the numbers are too large"))),
        };
    }
    match text.parse::<jiff::Timestamp>() {
        // The first message at or after it: what is finer than a millisecond rounds up.
        Ok(time) => Ok(From::Time(time.as_millisecond() + i64::from(time.subsec_nanosecond() % 1_000_000 > 0))),
        Err(_) => Err(Error::invalid(format!(
            "{text:?} is no place to start: use earliest, latest, an RFC 3339 time, or <partition>:<offset>"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        assert_eq!(parse("earliest").unwrap(), From::Earliest);
        assert_eq!(parse("latest").unwrap(), From::Latest);
        assert_eq!(parse("3:17").unwrap(), From::At(3, 17));
        assert_eq!(parse("1970-01-01T00:00:01Z").unwrap(), From::Time(1000));
        assert_eq!(parse("1970-01-01T01:00:01.0005+01:00").unwrap(), From::Time(1001));
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in ["", "first", "0:", ":0", "-1:0", "99999999999:0", "0:99999999999999999999", "2024-01-01", "1 :2"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
