//! The codecs of Kafka's record batches, decoded within a bound.
//!
//! Compressed are the records, as one piece; the head stays as it is. Kafka's Java clients frame
//! snappy as the xerial library does, others send it raw; both are read, and xerial is written:
//!
//! ```text
//!   "\x82SNAPPY\0" │ version i32 │ compatible i32 │ ( block length i32 │ raw snappy block )…
//! ```

use std::fmt;
use std::io::{self, Read, Write};

use super::error::BatchError;
use super::layout;

const XERIAL_MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
const XERIAL_HEAD_LEN: usize = 16;
const XERIAL_BLOCK: usize = 32 << 10;
/// A zstd frame may ask for a window of at most 2^26 bytes: what the records may have in all.
const ZSTD_WINDOW_LOG_MAX: u32 = 26;
const ZSTD_LEVEL: i32 = 3;

/// How a batch's records are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Not at all.
    #[default]
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// Snappy.
    Snappy,
    /// An LZ4 frame.
    Lz4,
    /// Zstandard (RFC 8878).
    Zstd,
}

impl Codec {
    /// Every codec, for tables and tests.
    pub const ALL: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    /// The codec in a batch's attributes; `None` where the number has no meaning.
    pub(super) fn from_attributes(attributes: i16) -> Option<Codec> {
        Codec::ALL.get((attributes & layout::CODEC) as usize).copied()
    }

    /// The codec's bits in a batch's attributes.
    pub(super) fn attributes(self) -> i16 {
        self as i16
    }

    /// The codec's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Gzip => "gzip",
            Codec::Snappy => "snappy",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        }
    }

    /// Appends `input` decompressed to `out`: at most `limit` bytes, else `TooLarge`.
    pub(super) fn decompress(self, input: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), BatchError> {
        match self {
            Codec::None if input.len() > limit => return Err(BatchError::TooLarge { limit }),
            Codec::None => out.extend_from_slice(input),
            Codec::Gzip => self.drain(flate2::bufread::MultiGzDecoder::new(input), limit, out)?,
            Codec::Snappy => unsnap(input, limit, out)?,
            Codec::Lz4 => {
                let mut rest = input;
                self.drain(lz4_flex::frame::FrameDecoder::new(&mut rest), limit, out)?;
                if !rest.is_empty() {
                    return Err(self.failed("bytes after the frame"));
                }
            }
            Codec::Zstd => {
                let mut decoder =
                    zstd::stream::read::Decoder::with_buffer(input).map_err(|error| self.failed(error))?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(|error| self.failed(error))?;
                self.drain(decoder, limit, out)?;
            }
        }
        Ok(())
    }

    /// Compresses `input`.
    pub(super) fn compress(self, input: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Codec::None => Ok(input.to_vec()),
            Codec::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(input)?;
                encoder.finish()
            }
            Codec::Snappy => snap(input),
            Codec::Lz4 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
                encoder.write_all(input)?;
                Ok(encoder.finish()?)
            }
            Codec::Zstd => zstd::stream::encode_all(input, ZSTD_LEVEL),
        }
    }

    /// Reads `decoder` to its end, growing `out` only as bytes really arrive.
    fn drain(self, decoder: impl Read, limit: usize, out: &mut Vec<u8>) -> Result<(), BatchError> {
        let read = decoder.take(limit as u64 + 1).read_to_end(out).map_err(|error| self.failed(error))?;
        if read > limit { Err(BatchError::TooLarge { limit }) } else { Ok(()) }
    }

    fn failed(self, reason: impl ToString) -> BatchError {
        BatchError::Decompress { codec: self, reason: reason.to_string() }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn unsnap(input: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), BatchError> {
    let Some(mut rest) = input.strip_prefix(XERIAL_MAGIC).and_then(|rest| rest.get(8..)) else {
        return unsnap_block(input, limit, out);
    };
    let mut left = limit;
    while !rest.is_empty() {
        let block = rest
            .split_first_chunk::<4>()
            .and_then(|(length, rest)| rest.split_at_checked(usize::try_from(i32::from_be_bytes(*length)).ok()?));
        let Some((block, behind)) = block else {
            return Err(Codec::Snappy.failed("the xerial framing is cut"));
        };
        let before = out.len();
        unsnap_block(block, left, out).map_err(|error| match error {
            BatchError::TooLarge { .. } => BatchError::TooLarge { limit },
            other => other,
        })?;
        left -= out.len() - before;
        rest = behind;
    }
    Ok(())
}

fn unsnap_block(block: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), BatchError> {
    let length = snap::raw::decompress_len(block).map_err(|error| Codec::Snappy.failed(error))?;
    if length > limit {
        return Err(BatchError::TooLarge { limit });
    }
    let start = out.len();
    out.resize(start + length, 0);
    let written = snap::raw::Decoder::new()
        .decompress(block, out.get_mut(start..).unwrap_or_default())
        .map_err(|error| Codec::Snappy.failed(error))?;
    out.truncate(start + written);
    Ok(())
}

fn snap(input: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(XERIAL_HEAD_LEN + input.len() / 2);
    out.extend_from_slice(XERIAL_MAGIC);
    out.extend_from_slice(&1i32.to_be_bytes());
    out.extend_from_slice(&1i32.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for block in input.chunks(XERIAL_BLOCK) {
        let block = encoder.compress_vec(block)?;
        out.extend_from_slice(&(block.len() as i32).to_be_bytes());
        out.extend_from_slice(&block);
    }
    Ok(out)
}
