//! Changing a checksum without reading what it covers.
//!
//! A CRC is linear: with `s(c, n)` for "the CRC `c` moved past `n` bytes of zeros",
//! `crc(A ‖ R) = s(crc(A), |R|) ^ crc(R)`. So when a head `A` becomes `B` in front of the same
//! records `R`, `crc(B ‖ R) = crc(A ‖ R) ^ s(crc(A) ^ crc(B), |R|)`: one move of 32 bits, whatever
//! the length of `R`.
//!
//! `s` multiplies by x^(8n) modulo the CRC's polynomial; squaring makes that `log n` products of
//! 32 steps (as zlib's `crc32_combine` does since 1.2.12). The `crc32c` crate's own combine
//! squares 32×32 matrices instead, which costs more than summing a batch of 64 KiB anew.

/// The Castagnoli polynomial, bits reversed: bit 31 is x^0.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// `POWERS[i]` = x^(8 · 2^i): moves past `2^i` bytes.
const POWERS: [u32; 32] = {
    let mut powers = [0; 32];
    // x^8, in reversed bits.
    powers[0] = 1 << (31 - 8);
    let mut i = 1;
    while i < 32 {
        powers[i] = multiply(powers[i - 1], powers[i - 1]);
        i += 1;
    }
    powers
};

/// `a · b` modulo the polynomial.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 1u32 << 31;
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        b = if b & 1 == 1 { (b >> 1) ^ POLYNOMIAL } else { b >> 1 };
        bit >>= 1;
    }
    product
}

/// The checksum of what `old` covered, after the head before the last `records_len` bytes changed
/// so that its own checksum went from `old_head` to `new_head`. The head's length is the same.
pub(super) fn replace_head(old: u32, old_head: u32, new_head: u32, records_len: usize) -> u32 {
    let mut moved = old_head ^ new_head;
    let mut length = records_len;
    for power in POWERS {
        if length & 1 == 1 {
            moved = multiply(power, moved);
        }
        length >>= 1;
    }
    old ^ moved
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn equals_the_checksum_computed_anew(old: [u8; 40], new: [u8; 40], records in prop::collection::vec(any::<u8>(), 0..5000)) {
            let whole = |head: &[u8]| crc32c::crc32c_append(crc32c::crc32c(head), &records);
            let replaced = replace_head(whole(&old), crc32c::crc32c(&old), crc32c::crc32c(&new), records.len());
            prop_assert_eq!(replaced, whole(&new));
        }

        #[test]
        fn equals_the_library_s_combine(head: u32, records: u32, length in 0usize..(1 << 30)) {
            let combined = crc32c::crc32c_combine(head, records, length);
            prop_assert_eq!(replace_head(crc32c::crc32c_combine(0, records, length), 0, head, length), combined);
        }
    }
}
