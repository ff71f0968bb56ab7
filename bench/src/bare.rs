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
        let acceptor = match &self.tls {
            Some((certificate, key)) => Some(TlsAcceptor::from(Arc::new(tls::server(certificate, key)?))),
            None => None,
        };
        let listener = TcpListener::bind(self.address).await?;
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (stream, _) = accepted?;
                    // Without it a second small write would wait for the client's delayed ACK.
                    let _ = stream.set_nodelay(true);
                    let (answer, acceptor, http2) = (answer.clone(), acceptor.clone(), self.http2);
                    connections.spawn(async move {
                        match acceptor {
                            None => connection(stream, answer, http2).await,
                            Some(acceptor) => if let Ok(stream) = acceptor.accept(stream).await {
                                connection(stream, answer, http2).await;
                            },
                        }
                    });
                }
                Some(_) = connections.join_next() => {} // cancel-safe; only makes room
            }
        }
    }
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

async fn connection<S>(stream: S, answer: Answer, http2: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
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

/// The type of a body that is a stream of events.
pub(crate) const EVENTS: &str = "text/event-stream";
