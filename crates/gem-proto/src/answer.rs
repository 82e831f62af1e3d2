//! Answers that write themselves: from where their bytes lie into the transport's buffer, once.
//!
//! The generated messages own every string and field. For a message that is delivered that would
//! be five allocations, and a buffer that grows by doubling copies its payload again; an
//! [`Encode`] says how long it is before it writes, and owns nothing.

use std::fmt;
use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, EncodeBuf, Encoder};
use tonic_prost::ProstDecoder;

/// What a server can answer with.
pub trait Encode: Send {
    /// How many bytes [`encode`](Self::encode) writes.
    fn encoded_len(&self) -> usize;
    /// Writes the protobuf message.
    fn encode(&self, out: &mut EncodeBuf<'_>);
}

impl<M: Message> Encode for M {
    fn encoded_len(&self) -> usize {
        Message::encoded_len(self)
    }

    fn encode(&self, out: &mut EncodeBuf<'_>) {
        self.encode_raw(out);
    }
}

/// Any answer.
pub struct Answer(Box<dyn Encode>);

impl Answer {
    /// Wraps `encode`.
    pub fn new(encode: impl Encode + 'static) -> Self {
        Answer(Box::new(encode))
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Answer").field(&self.0.encoded_len()).finish()
    }
}

impl Encode for Answer {
    fn encoded_len(&self) -> usize {
        self.0.encoded_len()
    }

    fn encode(&self, out: &mut EncodeBuf<'_>) {
        self.0.encode(out);
    }
}

/// The servers' codec: requests as prost has them, answers as they write themselves.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Codec(PhantomData)
    }
}

impl<T: Encode + 'static, U: Message + Default + Send + 'static> tonic::codec::Codec for Codec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = Writes<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Writes<T> {
        Writes(PhantomData)
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstDecoder::new(BufferSettings::default())
    }
}

/// Encodes `T`.
#[derive(Debug)]
pub struct Writes<T>(PhantomData<T>);

impl<T: Encode> Encoder for Writes<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(item.encoded_len());
        item.encode(out);
        Ok(())
    }
}
