//! Framing over a byte stream: a reader and a writer. Both are cancel-safe: partial state stays in the struct, so a future
//! may be dropped while it waits, and the method called again.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::frame::{Frame, FrameDecoder};
use crate::splice::Parts;

/// Room made for each read: most messages arrive in one read, and an idle connection holds no more than this.
const READ_BYTES: usize = 16 << 10;

/// While the buffer has this much room left, a read uses it: a small answer fits, and dozens of them share a buffer.
const SPARE_BYTES: usize = 4 << 10;

/// The most room made at once; a longer line doubles its buffer.
const GROWTH_BYTES: usize = 1 << 20;

/// Reads lines from a byte stream.
#[derive(Debug)]
pub struct FrameReader<R> {
    reader: R,
    decoder: FrameDecoder,
    ended: bool,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Takes lines of up to `limit_bytes`.
    pub fn new(reader: R, limit_bytes: usize) -> Self {
        FrameReader { reader, decoder: FrameDecoder::new(limit_bytes), ended: false }
    }

    /// Reads the next line; `None` when the stream has ended. Cancel-safe: bytes that were read stay in the decoder.
    ///
    /// # Errors
    /// The stream's error.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.decoder.next() {
                return Ok(Some(frame));
            }
            if self.ended {
                return Ok(self.decoder.finish());
            }
            let buffer = self.decoder.buffer();
            // Lines are slices of the buffer, so the buffer cannot be reused while one of them is alive. A new buffer for each
            // line would cost as much as the line.
            if buffer.capacity() - buffer.len() < SPARE_BYTES {
                // A line that goes on is copied as its buffer grows: all of it by doubling, a third of it by fours. Room
                // that nothing was read into takes no memory.
                buffer.reserve((buffer.len() * 3).clamp(READ_BYTES, GROWTH_BYTES));
            }
            self.ended = self.reader.read_buf(buffer).await? == 0;
        }
    }
}

/// Writes messages to a byte stream, each on a line of its own.
#[derive(Debug)]
pub struct FrameWriter<W> {
    writer: W,
    /// What is queued and not written yet.
    pending: Parts,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Writes to `writer`.
    pub fn new(writer: W) -> Self {
        FrameWriter { writer, pending: Parts::new() }
    }

    /// Writes one message, which must hold no raw line break (see [`one_line`](crate::frame::one_line)). If this is
    /// dropped while it waits, the next call first writes what is left, so a line is never cut.
    ///
    /// # Errors
    /// The stream's error.
    pub async fn write(&mut self, message: Parts) -> io::Result<()> {
        self.write_all([message]).await
    }

    /// Writes many messages with as few writes as the stream allows.
    ///
    /// # Errors
    /// The stream's error.
    pub async fn write_all(&mut self, batch: impl IntoIterator<Item = Parts>) -> io::Result<()> {
        batch.into_iter().for_each(|message| self.put(message));
        self.write_put().await
    }

    /// Queues one message for [`write_put`](Self::write_put).
    pub fn put(&mut self, message: Parts) {
        self.pending.extend(message);
        self.pending.push(Bytes::from_static(b"\n"));
    }

    /// Writes what is queued, with as few writes as the stream allows.
    ///
    /// # Errors
    /// The stream's error.
    pub async fn write_put(&mut self) -> io::Result<()> {
        self.writer.write_all_buf(&mut self.pending).await?;
        self.writer.flush().await
    }

    /// Ends the stream: the peer sees its end after the last message.
    ///
    /// # Errors
    /// The stream's error.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.writer.write_all_buf(&mut self.pending).await?;
        self.writer.shutdown().await
    }
}
