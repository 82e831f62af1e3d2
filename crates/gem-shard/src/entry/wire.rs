//! The small binary codec beneath entries and rows: varints, length-prefixed bytes, no surprises.
//!
//! Integers are LEB128 varints (signed ones zigzag first), lists begin with their count, byte
//! strings with their length. A reader never panics, whatever it is given, and never allocates
//! more than its input's size times a small constant: a count is checked against the bytes left.

use gem_types::{Offset, PartitionId, TopicName};

/// Bytes that are no valid encoding; says of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0}")]
pub struct Malformed(pub &'static str);

/// Appends values to a buffer.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty writer.
    pub fn new() -> Self {
        Writer::default()
    }

    /// What was written.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    /// How many bytes were written.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes.push(value);
        self
    }

    /// An unsigned varint.
    pub fn u64(&mut self, mut value: u64) -> &mut Self {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
        self
    }

    /// A signed varint.
    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.u64(((value << 1) ^ (value >> 63)) as u64)
    }

    /// Bytes whose length the reader knows.
    pub fn fixed(&mut self, value: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(value);
        self
    }

    /// Bytes with their length.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.u64(value.len() as u64).fixed(value)
    }

    /// An absent value, or a present one plus one: for values below `u64::MAX`.
    pub fn option(&mut self, value: Option<u64>) -> &mut Self {
        self.u64(value.map_or(0, |v| v.saturating_add(1)))
    }

    /// Rising numbers, each as its distance from the one before.
    pub fn rising(&mut self, values: impl ExactSizeIterator<Item = u64>) -> &mut Self {
        self.u64(values.len() as u64);
        let mut last = 0;
        for value in values {
            self.u64(value.wrapping_sub(last));
            last = value;
        }
        self
    }
}

/// Takes values from a buffer.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`; errors name `what` is being read.
    pub fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Reader { rest: bytes, what }
    }

    /// The error for what is being read.
    pub fn malformed(&self) -> Malformed {
        Malformed(self.what)
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        let (&first, rest) = self.rest.split_first().ok_or(Malformed(self.what))?;
        self.rest = rest;
        Ok(first)
    }

    /// An unsigned varint; refuses more than 64 bits.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.malformed())
    }

    /// An unsigned varint of at most 32 bits.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.u64()?).map_err(|_| self.malformed())
    }

    /// A signed varint.
    pub fn i64(&mut self) -> Result<i64, Malformed> {
        let value = self.u64()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// The next `N` bytes.
    pub fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (&first, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed(self.what))?;
        self.rest = rest;
        Ok(first)
    }

    /// The next `length` bytes.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (first, rest) = self.rest.split_at_checked(length).ok_or(Malformed(self.what))?;
        self.rest = rest;
        Ok(first)
    }

    /// Bytes with their length.
    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.u64()?).map_err(|_| self.malformed())?;
        self.take(length)
    }

    /// Text with its length.
    pub fn text(&mut self) -> Result<&'a str, Malformed> {
        let what = self.what;
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed(what))
    }

    /// A list's count, where every item takes at least `item_len_min` bytes.
    pub fn count(&mut self, item_len_min: usize) -> Result<usize, Malformed> {
        let count = usize::try_from(self.u64()?).map_err(|_| self.malformed())?;
        if count > self.rest.len() / item_len_min.max(1) {
            return Err(self.malformed());
        }
        Ok(count)
    }

    /// What [`Writer::option`] wrote.
    pub fn option(&mut self) -> Result<Option<u64>, Malformed> {
        Ok(self.u64()?.checked_sub(1))
    }

    /// What [`Writer::rising`] wrote.
    pub fn rising(&mut self) -> Result<Vec<u64>, Malformed> {
        let count = self.count(1)?;
        let mut values = Vec::with_capacity(count);
        let mut last = 0u64;
        for _ in 0..count {
            last = last.checked_add(self.u64()?).ok_or(Malformed(self.what))?;
            values.push(last);
        }
        Ok(values)
    }

    /// Refuses what is left over.
    pub fn end(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.malformed()) }
    }

    /// A topic's name.
    pub fn topic(&mut self) -> Result<TopicName, Malformed> {
        let what = self.what;
        TopicName::new(self.text()?).map_err(|_| Malformed(what))
    }

    /// A partition's id.
    pub fn partition(&mut self) -> Result<PartitionId, Malformed> {
        Ok(PartitionId(self.fixed()?))
    }

    /// A list of ranges `from..to` of offsets, none empty.
    pub fn ranges(&mut self) -> Result<Vec<(Offset, Offset)>, Malformed> {
        let count = self.count(2)?;
        let mut ranges = Vec::with_capacity(count);
        for _ in 0..count {
            let from = self.u64()?;
            let to = from.checked_add(self.u64()?).ok_or(Malformed(self.what))?;
            ranges.push((from, to));
        }
        Ok(ranges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn values_come_back(unsigned: u64, signed: i64, bytes: Vec<u8>, mut list: Vec<u64>) {
            list.sort_unstable();
            let mut writer = Writer::new();
            writer.u64(unsigned).i64(signed).bytes(&bytes).rising(list.iter().copied()).option(None).option(Some(7));
            let encoded = writer.finish();
            let mut reader = Reader::new(&encoded, "test");
            prop_assert_eq!(reader.u64().unwrap(), unsigned);
            prop_assert_eq!(reader.i64().unwrap(), signed);
            prop_assert_eq!(reader.bytes().unwrap(), &bytes[..]);
            prop_assert_eq!(reader.rising().unwrap(), list);
            prop_assert_eq!(reader.option().unwrap(), None);
            prop_assert_eq!(reader.option().unwrap(), Some(7));
            prop_assert!(reader.end().is_ok());
        }

        #[test]
        fn no_input_panics(bytes: Vec<u8>) {
            let mut reader = Reader::new(&bytes, "test");
            while reader.left() > 0 {
                let _ = reader.clone().rising();
                let _ = reader.clone().text();
                let _ = reader.clone().ranges();
                if reader.u64().is_err() {
                    break;
                }
            }
        }
    }
}
