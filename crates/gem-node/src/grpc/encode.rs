//! Protobuf's encoding, for what is written without being owned: one description of a message
//! serves to measure and to write it.
//!
//! As the generated code does (and proto3 says), a field that has its default is left out.

use std::fmt::Arguments;
use std::io::Write as _;

use bytes::BufMut;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

/// Where fields go: to a count, or to a buffer.
pub trait Sink {
    /// A field's tag, before a varint.
    fn key(&mut self, tag: u32, wire: WireType);
    /// A varint.
    fn varint(&mut self, value: u64);
    /// Bytes as they are.
    fn bytes(&mut self, bytes: &[u8]);
    /// Text of `length` bytes, at most [`TEXT_MAX`].
    fn text(&mut self, length: usize, text: Arguments<'_>);
}

/// The longest text that [`Sink::text`] takes: two numbers and a colon.
pub const TEXT_MAX: usize = 41;

/// Counts.
#[derive(Debug, Default)]
pub struct Count(pub usize);

impl Sink for Count {
    fn key(&mut self, tag: u32, _: WireType) {
        self.0 += key_len(tag);
    }

    fn varint(&mut self, value: u64) {
        self.0 += encoded_len_varint(value);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }

    fn text(&mut self, length: usize, _: Arguments<'_>) {
        self.0 += length;
    }
}

/// Writes.
#[derive(Debug)]
pub struct Out<'a, B>(pub &'a mut B);

impl<B: BufMut> Sink for Out<'_, B> {
    fn key(&mut self, tag: u32, wire: WireType) {
        encode_key(tag, wire, self.0);
    }

    fn varint(&mut self, value: u64) {
        match value {
            0..0x80 => self.0.put_u8(value as u8),
            _ => encode_varint(value, self.0),
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.put_slice(bytes);
    }

    fn text(&mut self, length: usize, text: Arguments<'_>) {
        let mut buffer = [0; TEXT_MAX];
        // Text that does not fit is cut, so that the message stays whole: the length was said.
        let _ = buffer.as_mut_slice().write_fmt(text);
        self.0.put_slice(buffer.get(..length).unwrap_or(&buffer));
    }
}

/// A message, or a part of one.
pub trait Part {
    /// Puts its fields.
    fn put(&self, sink: &mut impl Sink);

    /// How long it is.
    fn length(&self) -> usize {
        let mut count = Count::default();
        self.put(&mut count);
        count.0
    }
}

/// A nested message of `length` bytes.
pub fn put_nested(sink: &mut impl Sink, tag: u32, length: usize, part: &impl Part) {
    sink.key(tag, WireType::LengthDelimited);
    sink.varint(length as u64);
    part.put(sink);
}

/// Bytes or text, even if empty.
pub fn put_present(sink: &mut impl Sink, tag: u32, bytes: &[u8]) {
    sink.key(tag, WireType::LengthDelimited);
    sink.varint(bytes.len() as u64);
    sink.bytes(bytes);
}

/// Bytes or text.
pub fn put_bytes(sink: &mut impl Sink, tag: u32, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_present(sink, tag, bytes);
    }
}

/// Text. Bytes that are none lose what is not UTF-8: protobuf's strings must be.
pub fn put_text(sink: &mut impl Sink, tag: u32, text: &[u8]) {
    match text.is_ascii() {
        true => put_bytes(sink, tag, text),
        false => put_bytes(sink, tag, String::from_utf8_lossy(text).as_bytes()),
    }
}

/// An integer.
pub fn put_number(sink: &mut impl Sink, tag: u32, value: u64) {
    if value != 0 {
        sink.key(tag, WireType::Varint);
        sink.varint(value);
    }
}
