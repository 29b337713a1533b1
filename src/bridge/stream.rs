//! The socket to Redis, with the sieve on what comes in.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::sieve::Sieve;

/// Read at once.
const CHUNK: usize = 64 * 1024;

/// A socket whose incoming bytes pass a [`Sieve`].
#[derive(Debug)]
pub(super) struct Sieved<S> {
    socket: S,
    sieve: Sieve,
    raw: Box<[u8]>,
    /// Sifted and not yet read. At most a chunk and one line.
    ready: BytesMut,
}

impl<S> Sieved<S> {
    /// Strings of more than `limit` bytes come out empty.
    pub(super) fn new(socket: S, limit: u64) -> Sieved<S> {
        Sieved { socket, sieve: Sieve::new(limit), raw: vec![0; CHUNK].into(), ready: BytesMut::new() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Sieved<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.ready.is_empty() {
            let mut chunk = ReadBuf::new(&mut this.raw);
            ready!(Pin::new(&mut this.socket).poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.sieve.sift(chunk.filled(), &mut this.ready).map_err(io::Error::other)?;
        }
        let length = this.ready.len().min(into.remaining());
        into.put_slice(&this.ready[..length]);
        this.ready.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Sieved<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_reader_sees_the_sifted_stream_and_its_end() {
        let (near, mut far) = tokio::io::duplex(7);
        let writer = tokio::spawn(async move {
            far.write_all(b"$9\r\n123456789\r\n$2\r\nok\r\n").await.expect("read by the other end");
        });
        let mut seen = Vec::new();
        Sieved::new(near, 8).read_to_end(&mut seen).await.expect("sifted");
        assert_eq!(seen, b"$0\r\n\r\n$2\r\nok\r\n");
        writer.await.expect("wrote all");
    }
}
