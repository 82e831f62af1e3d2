//! Length-prefixed messages on a byte stream.
//!
//! ```text
//! +----------------------+------------------+
//! | length u32 big-endian| length bytes     |
//! +----------------------+------------------+
//! ```
//!
//! Invariant: a length above the caller's most is refused before a byte of it is read or room for
//! it is made.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Reads one message of at most `max` bytes; `None` where the stream ended before it began.
pub(super) async fn read<R: AsyncRead + Unpin>(stream: &mut R, max: usize) -> io::Result<Option<Bytes>> {
    let Some(length) = read_length(stream, max).await? else { return Ok(None) };
    read_body(stream, length).await.map(Some)
}

/// The first half of [`read`]: where messages may be far apart, only the second has a deadline.
pub(super) async fn read_length<R: AsyncRead + Unpin>(stream: &mut R, max: usize) -> io::Result<Option<usize>> {
    let mut head = [0; 4];
    let first = stream.read(&mut head[..1]).await?;
    if first == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut head[1..]).await?;
    let length = u32::from_be_bytes(head) as usize;
    if length > max {
        let what = format!("a message of {length} bytes was announced, the most is {max}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(Some(length))
}

/// The second half of [`read`].
pub(super) async fn read_body<R: AsyncRead + Unpin>(stream: &mut R, length: usize) -> io::Result<Bytes> {
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(body.into())
}

/// Writes one message and flushes.
pub(super) async fn write<W: AsyncWrite + Unpin>(stream: &mut W, message: &[u8]) -> io::Result<()> {
    let mut out = BytesMut::with_capacity(4 + message.len());
    put(&mut out, message)?;
    stream.write_all(&out).await?;
    stream.flush().await
}

/// Appends one message to `out`.
pub(super) fn put(out: &mut BytesMut, message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a message of 4 GiB or more"))?;
    out.put_u32(length);
    out.put_slice(message);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use futures::io::Cursor;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(messages: Vec<Vec<u8>>) {
            let mut wire = BytesMut::new();
            messages.iter().for_each(|m| put(&mut wire, m).unwrap());
            let mut stream = Cursor::new(wire);
            for message in &messages {
                let read = block_on(read(&mut stream, 1 << 20)).unwrap();
                prop_assert_eq!(read.as_deref(), Some(&message[..]));
            }
            prop_assert_eq!(block_on(read(&mut stream, 1 << 20)).unwrap(), None);
        }

        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes: Vec<u8>, max in 0..64usize) {
            let mut stream = Cursor::new(&bytes);
            while let Ok(Some(message)) = block_on(read(&mut stream, max)) {
                prop_assert!(message.len() <= max);
            }
        }
    }

    #[test]
    fn a_cut_message_and_a_long_one_are_errors() {
        let mut cut = Cursor::new(&[0, 0, 0, 2, 7][..]);
        assert_eq!(block_on(read(&mut cut, 9)).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let mut cut = Cursor::new(&[0, 0][..]);
        assert_eq!(block_on(read(&mut cut, 9)).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let mut long = Cursor::new(&[0xff, 0xff, 0xff, 0xff][..]);
        assert_eq!(block_on(read(&mut long, 9)).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
