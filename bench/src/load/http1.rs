//! HTTP/1.1 as far as the sides speak it: a head, then a body with a length or in chunks (RFC 9112 §7.1).

use anyhow::{Context, Result, bail, ensure};
use memchr::memmem;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// One keep-alive connection.
pub(super) struct Http1<S> {
    stream: S,
    waiting: Vec<u8>,
}

/// The parsed head of a response.
struct Head {
    status: u16,
    bytes: usize,
    body: Body,
}

enum Body {
    Length(usize),
    Chunks,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Http1<S> {
    pub(super) fn new(stream: S) -> Self {
        Http1 { stream, waiting: Vec::with_capacity(READ_BYTES) }
    }

    /// Sends a request and reads its answer, which must hold a result.
    pub(super) async fn ask(&mut self, request: &[u8]) -> Result<usize> {
        self.stream.write_all(request).await?;
        let head = self.head().await?;
        ensure!(head.status == 200, "the answer is {}: {}", head.status, self.excerpt());
        let (body_bytes, holds_result) = self.body(&head).await?;
        ensure!(holds_result, "the answer holds no result: {}", self.excerpt());
        Ok(body_bytes)
    }

    /// Sends a request and reads its answer, whatever it is, and takes the session's id from its head.
    pub(super) async fn step(&mut self, request: &[u8]) -> Result<Option<String>> {
        self.stream.write_all(request).await?;
        let head = self.head().await?;
        ensure!(head.status < 300, "a step is answered {}: {}", head.status, self.excerpt());
        let text = String::from_utf8_lossy(self.waiting.get(..head.bytes).unwrap_or_default());
        let session = text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("mcp-session-id").then(|| value.trim().to_owned())
        });
        self.body(&head).await?;
        Ok(session)
    }

    async fn head(&mut self) -> Result<Head> {
        self.waiting.clear();
        loop {
            self.more().await?;
            if let Some(end) = memmem::find(&self.waiting, b"\r\n\r\n") {
                return parse_head(self.waiting.get(..end).unwrap_or_default());
            }
        }
    }

    /// Reads the body; its bytes, and whether a result is in it. Of a long body only the last read is kept.
    async fn body(&mut self, head: &Head) -> Result<(usize, bool)> {
        let mut found = false;
        match head.body {
            Body::Length(length) => {
                let mut missing = (head.bytes + length).saturating_sub(self.waiting.len());
                found |= holds_result(&self.waiting);
                while missing > 0 {
                    self.waiting.clear();
                    let read = self.more().await?;
                    found = found || holds_result(&self.waiting);
                    missing = missing.checked_sub(read).context("more than one answer came")?;
                }
                Ok((length, found))
            }
            Body::Chunks => {
                self.waiting.drain(..head.bytes);
                let mut body_bytes = 0;
                loop {
                    let (length, line) = self.chunk_line().await?;
                    while self.waiting.len() < line + length + 2 {
                        self.more().await?;
                    }
                    if length == 0 {
                        return Ok((body_bytes, found));
                    }
                    found = found || holds_result(self.waiting.get(line..line + length).unwrap_or_default());
                    self.waiting.drain(..line + length + 2);
                    body_bytes += length;
                }
            }
        }
    }

    /// The length of the next chunk, and that of its size line.
    async fn chunk_line(&mut self) -> Result<(usize, usize)> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.waiting) {
                let line = std::str::from_utf8(self.waiting.get(..end).unwrap_or_default())?;
                let length = usize::from_str_radix(line.trim(), 16).context("the length of a chunk")?;
                return Ok((length, end + 1));
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Result<usize> {
        self.waiting.reserve(READ_BYTES / 2);
        let read = self.stream.read_buf(&mut self.waiting).await?;
        ensure!(read > 0, "the connection ended");
        Ok(read)
    }

    fn excerpt(&self) -> String {
        String::from_utf8_lossy(self.waiting.get(..300.min(self.waiting.len())).unwrap_or_default())
            .into_owned()
    }
}

fn parse_head(bytes: &[u8]) -> Result<Head> {
    let text = std::str::from_utf8(bytes)?;
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status line")?;
    let mut body = None;
    for line in text.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            body = Some(Body::Length(value.trim().parse()?));
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            body = Some(Body::Chunks);
        }
    }
    let body = match body {
        Some(body) => body,
        None if status == 204 => Body::Length(0),
        None => bail!("the answer has neither length nor chunks"),
    };
    Ok(Head { status, bytes: bytes.len() + 4, body })
}

/// An error would have no such member.
pub(super) fn holds_result(bytes: &[u8]) -> bool {
    memmem::find(bytes, b"\"result\"").is_some()
}

const READ_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(answer: &str) -> Result<usize> {
        let (near, mut far) = tokio::io::duplex(64);
        let answer = answer.to_owned();
        tokio::spawn(async move {
            let mut request = [0; 4];
            far.read_exact(&mut request).await.unwrap();
            far.write_all(answer.as_bytes()).await.unwrap();
        });
        Http1::new(near).ask(b"ask\n").await
    }

    #[tokio::test]
    async fn reads_lengths_and_chunks_to_their_end() {
        let long = format!("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n\"result\"{}", "x".repeat(92));
        assert_eq!(ask(&long).await.unwrap(), 100);
        let chunks =
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\n \"result\"\r\n2\r\nab\r\n0\r\n\r\n";
        assert_eq!(ask(chunks).await.unwrap(), 11);
    }

    #[tokio::test]
    async fn refuses_what_is_no_result() {
        assert!(ask("HTTP/1.1 503 Busy\r\nContent-Length: 8\r\n\r\n\"result\"").await.is_err());
        assert!(ask("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n\"error\"").await.is_err());
        assert!(ask("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n\"result\"").await.is_err());
    }
}
