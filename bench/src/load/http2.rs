//! Streams of one HTTP/2 connection, by hyper's client.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use memchr::memmem;
use tokio::io::{AsyncRead, AsyncWrite};

use super::http1::holds_result;

/// One stream at a time.
pub(super) struct Http2(SendRequest<Full<Bytes>>);

impl Http2 {
    /// A connection for `count` streams at a time.
    pub(super) async fn open<S>(stream: S, count: usize) -> Result<impl Iterator<Item = Http2>>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let builder = http2::Builder::new(TokioExecutor::new());
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok((0..count).map(move |_| Http2(sender.clone())))
    }

    pub(super) async fn ask(&mut self, request: &[u8]) -> Result<usize> {
        let response = self.0.send_request(translated(request)?).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(status == 200 && holds_result(&body), "the answer is {status} without a result");
        Ok(body.len())
    }
}

/// A request as HTTP/1.1 has it on the wire.
fn translated(request: &[u8]) -> Result<Request<Full<Bytes>>> {
    let end = memmem::find(request, b"\r\n\r\n").context("a request without a head")?;
    let (head, body) = request.split_at(end);
    let mut lines = std::str::from_utf8(head)?.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut built = Request::builder().method(method).uri(format!("https://localhost{path}"));
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        if !name.eq_ignore_ascii_case("host") {
            built = built.header(name, value);
        }
    }
    let body = Bytes::copy_from_slice(body.get(4..).unwrap_or_default());
    Ok(built.body(Full::new(body))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_keeps_its_path_headers_and_body() {
        let request = translated(b"POST /mcp HTTP/1.1\r\nHost: x\r\nMcp-Name: t\r\n\r\n{}").unwrap();
        assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/mcp"));
        assert_eq!(request.headers().len(), 1);
        assert_eq!(request.headers()["mcp-name"], "t");
    }
}
