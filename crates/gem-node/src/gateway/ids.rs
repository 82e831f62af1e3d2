//! The ids that the gateway makes: UUIDv7 (RFC 9562), one draw of randomness a batch.

use gem_types::seams::{Clock, Random};
use uuid::Uuid;

/// A run of UUIDv7: the first plus the index of the message in its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRun(u128);

impl IdRun {
    /// A fresh run. Bit 61 of the random part is zero, so that counting up never reaches the
    /// variant bits.
    pub fn draw(clock: &dyn Clock, random: &dyn Random) -> Self {
        let mut bytes = [0u8; 16];
        random.fill(&mut bytes[6..]);
        let ms = clock.wall_ms().max(0) as u64;
        bytes[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
        bytes[6] = 0x70 | bytes[6] & 0x0f;
        bytes[8] = 0x80 | bytes[8] & 0x1f;
        IdRun(u128::from_be_bytes(bytes))
    }

    /// The id of the batch's message `index`, written into `text`.
    pub fn write<'t>(&self, index: usize, text: &'t mut [u8; 36]) -> &'t str {
        Uuid::from_u128(self.0.wrapping_add(index as u128)).hyphenated().encode_lower(text)
    }

    /// The id of the batch's message `index`.
    pub fn text(&self, index: usize) -> String {
        self.write(index, &mut [0; 36]).to_owned()
    }

    /// The first id's bytes.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gem_types::seams::{OsRandom, SystemClock};

    #[test]
    fn a_run_is_of_uuid_v7_and_rises() {
        let run = IdRun::draw(&SystemClock::new(), &OsRandom);
        for index in [0, 1, 999, u32::MAX as usize] {
            let id = Uuid::parse_str(&run.text(index)).unwrap();
            assert_eq!((id.get_version_num(), id.get_variant()), (7, uuid::Variant::RFC4122));
        }
        assert!(run.text(0) < run.text(1));
    }
}
