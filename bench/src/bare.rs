//! The bare limit: hyper on tokio, reading each request to its end and answering bytes that are there
//! already. HTTP/1.1 or HTTP/2, with TLS 1.3 or without.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use memchr::memmem;
use rustls::ServerConfig;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::tls;

/// What a bare server answers, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Bare {
    pub(crate) address: SocketAddr,
    /// The file with the body of every answer.
    pub(crate) body: PathBuf,
    pub(crate) content_type: String,
    pub(crate) http2: bool,
    /// The files of certificate and key.
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
}

impl Bare {
    /// Answers every request until it is killed.
    pub(crate) async fn serve(self) -> Result<()> {
        let body = Bytes::from(std::fs::read(&self.body)?);
        let content_type = header::HeaderValue::from_str(&self.content_type)?;
        let answer = Answer { body, content_type, events: self.content_type == EVENTS };
        let tls = match &self.tls {
            Some((certificate, key)) => Some(tls::server(certificate, key)?),
            None => None,
        };
        accept(self.address, tls, Answering { answer, http2: self.http2 }).await
    }
}

/// What serves a connection.
pub(crate) trait Serve: Clone + Send + 'static {
    fn serve<S>(self, stream: S) -> impl Future<Output = ()> + Send
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static;
}

/// Serves every connection until the process is killed.
pub(crate) async fn accept(address: SocketAddr, tls: Option<ServerConfig>, serve: impl Serve) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                // Without it a second small write would wait for the client's delayed ACK.
                let _ = stream.set_nodelay(true);
                let serve = serve.clone();
                match tls.clone() {
                    None => connections.spawn(serve.serve(stream)),
                    // Boxed: a handshake is over soon, and the room of its task would be counted as the limit's.
                    Some(tls) => connections.spawn(async move {
                        if let Ok(stream) = Box::pin(tls.accept(stream)).await {
                            serve.serve(stream).await;
                        }
                    }),
                };
            }
            Some(_) = connections.join_next() => {} // cancel-safe; only makes room
        }
    }
}

#[derive(Clone)]
struct Answering {
    answer: Answer,
    http2: bool,
}

#[derive(Clone)]
struct Answer {
    body: Bytes,
    content_type: header::HeaderValue,
    /// A chunk for each event, as a server sends them that learns of them one by one.
    events: bool,
}

/// A body on its way.
struct Sent {
    rest: Bytes,
    events: bool,
}

impl Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let end = if self.events { memmem::find(&self.rest, b"\n\n").map(|end| end + 2) } else { None };
        let end = end.unwrap_or(self.rest.len());
        Poll::Ready((end > 0).then(|| Ok(Frame::data(self.rest.split_to(end)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.events { SizeHint::default() } else { SizeHint::with_exact(self.rest.len() as u64) }
    }
}

impl Serve for Answering {
    async fn serve<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Answering { answer, http2 } = self;
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = answer.clone();
            async move {
                // A client that breaks off is not this server's concern.
                let _ = request.into_body().collect().await;
                let mut response = Response::new(Sent { rest: answer.body, events: answer.events });
                response.headers_mut().insert(header::CONTENT_TYPE, answer.content_type);
                Ok::<_, Infallible>(response)
            }
        });
        let stream = TokioIo::new(stream);
        let _ = if http2 {
            http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await
        } else {
            http1::Builder::new().serve_connection(stream, service).await
        };
    }
}

/// The type of a body that is a stream of events.
pub(crate) const EVENTS: &str = "text/event-stream";
