//! Zigzag varints, as protobuf and Kafka's records have them: seven bits a byte, the least
//! significant first, the sign folded into bit 0.

use bytes::BufMut;

use super::error::BatchError;

/// Reads a 32-bit varint at `*at` and moves `*at` behind it.
#[inline]
pub(super) fn read_i32(bytes: &[u8], at: &mut usize) -> Result<i32, BatchError> {
    let raw = read(bytes, at, 5)?;
    let raw = u32::try_from(raw).map_err(|_| BatchError::Varint)?;
    Ok((raw >> 1) as i32 ^ -((raw & 1) as i32))
}

/// Reads a 64-bit varint at `*at` and moves `*at` behind it.
#[inline]
pub(super) fn read_i64(bytes: &[u8], at: &mut usize) -> Result<i64, BatchError> {
    let raw = read(bytes, at, 10)?;
    Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
}

#[inline]
fn read(bytes: &[u8], at: &mut usize, most: usize) -> Result<u64, BatchError> {
    match bytes.get(*at) {
        Some(&byte) if byte < 0x80 => {
            *at += 1;
            Ok(u64::from(byte))
        }
        Some(_) => read_long(bytes, at, most),
        None => Err(BatchError::Truncated),
    }
}

fn read_long(bytes: &[u8], at: &mut usize, most: usize) -> Result<u64, BatchError> {
    let mut value = 0u64;
    for (i, &byte) in bytes.get(*at..).unwrap_or_default().iter().take(most).enumerate() {
        // The tenth byte of a 64-bit varint has room for one bit.
        if i == 9 && byte > 1 {
            return Err(BatchError::Varint);
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            *at += i + 1;
            return Ok(value);
        }
    }
    Err(if bytes.len() - (*at).min(bytes.len()) < most { BatchError::Truncated } else { BatchError::Varint })
}

/// Appends `value`.
#[inline]
pub(super) fn put(out: &mut impl BufMut, value: i64) {
    let mut raw = zigzag(value);
    while raw >= 0x80 {
        out.put_u8(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.put_u8(raw as u8);
}

/// The bytes that `value` takes.
#[inline]
pub(super) fn len(value: i64) -> usize {
    (64 - (zigzag(value) | 1).leading_zeros() as usize).div_ceil(7)
}

#[inline]
fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_what_it_wrote(wide: i64, narrow: i32) {
            for value in [wide, wide >> 40, i64::from(narrow), i64::MIN, i64::MAX, 0, -1] {
                let mut out = Vec::new();
                put(&mut out, value);
                prop_assert_eq!(out.len(), len(value));
                let mut at = 0;
                prop_assert_eq!(read_i64(&out, &mut at).unwrap(), value);
                prop_assert_eq!(at, out.len());
            }
            let mut out = Vec::new();
            put(&mut out, i64::from(narrow));
            prop_assert_eq!(read_i32(&out, &mut 0).unwrap(), narrow);
        }
    }

    #[test]
    fn refuses_what_is_too_long_or_cut() {
        assert_eq!(read_i32(&[0xff, 0xff, 0xff, 0xff, 0x1f], &mut 0), Err(BatchError::Varint));
        assert_eq!(read_i32(&[0x80; 6], &mut 0), Err(BatchError::Varint));
        assert_eq!(read_i64(&[0xff; 10], &mut 0), Err(BatchError::Varint));
        assert_eq!(read_i64(&[0x80; 3], &mut 0), Err(BatchError::Truncated));
        assert_eq!(read_i32(&[], &mut 0), Err(BatchError::Truncated));
        assert_eq!(read_i32(&[], &mut 9), Err(BatchError::Truncated));
    }
}
