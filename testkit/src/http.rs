//! One HTTP/1.1 exchange per connection, written and read by hand: every header is the test's, nothing is
//! followed, repaired or pooled, and dropping a [`Response`] closes its connection, which is what a client
//! that leaves does.

use std::io;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::GUARD;
use crate::sse::{Event, Events};

/// A request to be sent as it stands.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// A request without headers; `Host` and `Content-Length` are added when sent, unless they were set.
    pub fn new(method: &str, target: &str) -> Request {
        Request {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Adds a header, after others of the same name.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Removes all headers of this name.
    #[must_use]
    pub fn without(mut self, name: &str) -> Request {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self
    }

    /// Sets one value for this header, whatever was there.
    #[must_use]
    pub fn set(self, name: &str, value: &str) -> Request {
        self.without(name).header(name, value)
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Request {
        self.body = body.into();
        self
    }

    /// Sends it over a new TCP connection and reads the head of the answer.
    ///
    /// # Errors
    /// When the connection cannot be made or ends before the head is complete.
    pub async fn send(&self, address: SocketAddr) -> io::Result<Response> {
        let stream = within(TcpStream::connect(address)).await?;
        stream.set_nodelay(true)?;
        self.send_over(stream, &address.to_string()).await
    }

    /// Sends it over this connection, for a TLS stream or a keep-alive of the test's own.
    ///
    /// # Errors
    /// When the connection ends before the head of the answer is complete.
    pub async fn send_over(&self, stream: impl Stream, host: &str) -> io::Result<Response> {
        let mut stream: Box<dyn Stream> = Box::new(stream);
        within(stream.write_all(&self.bytes(host))).await?;
        within(stream.flush()).await?;
        Response::read(stream).await
    }

    /// The request as it goes over the wire.
    pub fn bytes(&self, host: &str) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        let has = |name: &str| self.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
        if !has("host") {
            head.push_str(&format!("Host: {host}\r\n"));
        }
        if !has("content-length") && (!self.body.is_empty() || self.method == "POST") {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        [head.as_bytes(), b"\r\n", &self.body].concat()
    }
}

/// What a request can be sent over.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// An answer whose head is read and whose body is on its way.
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    stream: Box<dyn Stream>,
    waiting: Vec<u8>,
    left: Left,
    events: Events,
}

/// How much of the body is still to come.
enum Left {
    Bytes(usize),
    Chunks,
    UntilClose,
    Nothing,
}

impl Response {
    async fn read(mut stream: Box<dyn Stream>) -> io::Result<Response> {
        let mut waiting = Vec::new();
        let end = loop {
            if let Some(end) = waiting.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            more(&mut stream, &mut waiting).await?;
        };
        let head = String::from_utf8(waiting[..end].to_vec()).map_err(io::Error::other)?;
        waiting.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| io::Error::other("no status line"))?;
        let headers: Vec<_> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut response =
            Response { status, headers, stream, waiting, left: Left::UntilClose, events: Events::default() };
        response.left = match (response.header("content-length"), response.header("transfer-encoding")) {
            _ if status == 204 || status == 304 => Left::Nothing,
            (Some(length), _) => Left::Bytes(length.parse().map_err(io::Error::other)?),
            (None, Some("chunked")) => Left::Chunks,
            _ => Left::UntilClose,
        };
        Ok(response)
    }

    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether the body is a stream of events.
    pub fn is_stream(&self) -> bool {
        self.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"))
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// When the connection ends before the body does, or nothing comes within [`GUARD`].
    pub async fn piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self.left {
            Left::Nothing | Left::Bytes(0) => Ok(None),
            Left::Bytes(left) => {
                if self.waiting.is_empty() {
                    more(&mut self.stream, &mut self.waiting).await?;
                }
                let piece: Vec<_> = self.waiting.drain(..left.min(self.waiting.len())).collect();
                self.left = Left::Bytes(left - piece.len());
                Ok(Some(piece))
            }
            Left::Chunks => self.chunk().await,
            Left::UntilClose => {
                if self.waiting.is_empty() && more(&mut self.stream, &mut self.waiting).await.is_err() {
                    self.left = Left::Nothing;
                    return Ok(None);
                }
                Ok(Some(std::mem::take(&mut self.waiting)))
            }
        }
    }

    /// The whole body.
    ///
    /// # Panics
    /// When the body does not come to its end.
    pub async fn bytes(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece().await.expect("the body comes to its end") {
            body.extend(piece);
        }
        body
    }

    /// The whole body as text.
    ///
    /// # Panics
    /// When it does not come to its end or is not UTF-8.
    pub async fn text(&mut self) -> String {
        String::from_utf8(self.bytes().await).expect("the body is UTF-8")
    }

    /// The whole body as JSON, `Null` when there is none.
    ///
    /// # Panics
    /// When it is something else.
    pub async fn json(&mut self) -> Value {
        let body = self.text().await;
        if body.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("the body is not JSON ({error}): {body:?}"))
    }

    /// The next event of a stream; `None` when the stream ended, properly or not.
    pub async fn event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.next_event() {
                return Some(event);
            }
            let piece = self.piece().await.ok()??;
            self.events.feed(&piece);
        }
    }

    /// The next JSON-RPC message of a stream, events without data skipped.
    ///
    /// # Panics
    /// When an event's data is not JSON.
    pub async fn message(&mut self) -> Option<Value> {
        loop {
            let event = self.event().await?;
            if !event.data.is_empty() {
                return Some(serde_json::from_str(&event.data).expect("an event's data is JSON"));
            }
        }
    }

    /// How many keep-alive comments came so far.
    pub fn comments(&self) -> usize {
        self.events.comments
    }

    // RFC 9112 §7.1
    async fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let size = loop {
            if let Some(end) = self.waiting.windows(2).position(|window| window == b"\r\n") {
                let line = String::from_utf8_lossy(&self.waiting[..end]).into_owned();
                self.waiting.drain(..end + 2);
                break usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            }
            more(&mut self.stream, &mut self.waiting).await?;
        };
        while self.waiting.len() < size + 2 {
            more(&mut self.stream, &mut self.waiting).await?;
        }
        let piece: Vec<_> = self.waiting.drain(..size).collect();
        self.waiting.drain(..2);
        if size == 0 {
            self.left = Left::Nothing;
            return Ok(None);
        }
        Ok(Some(piece))
    }
}

async fn more(stream: &mut Box<dyn Stream>, waiting: &mut Vec<u8>) -> io::Result<()> {
    match within(stream.read_buf(waiting)).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

async fn within<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(GUARD, step).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
