//! The bare limit: answers the three requests of an idle session, and keeps the third one's stream alive, as the edge does.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Interval, interval_at};

use super::{INITIALIZE, KEEP_ALIVE, SESSION};
use crate::bare::Serve;

/// Keeps the streams of sessions alive.
#[derive(Clone)]
pub(super) struct Sessions;

impl Serve for Sessions {
    async fn serve<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // A client that breaks off is not this server's concern.
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await;
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Either<Full<Bytes>, Alive>>, Infallible> {
    if request.method() == Method::GET {
        let mut response = Response::new(Either::Right(Alive::new()));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        return Ok(response);
    }
    let first = !request.headers().contains_key(SESSION);
    let _ = request.into_body().collect().await;
    let mut response = Response::new(Either::Left(Full::from(if first { INITIALIZE } else { "" })));
    if first {
        response.headers_mut().insert(SESSION, HeaderValue::from_static("a-session"));
    } else {
        *response.status_mut() = hyper::StatusCode::ACCEPTED;
    }
    Ok(response)
}

/// A stream of comments.
struct Alive {
    ticks: Pin<Box<Interval>>,
    first: Option<&'static [u8]>,
}

impl Alive {
    fn new() -> Alive {
        let ticks = interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
        Alive { ticks: Box::pin(ticks), first: Some(b"id: 1-0-0\nretry: 1000\ndata:\n\n") }
    }
}

impl Body for Alive {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = match self.first.take() {
            Some(first) => first,
            None => {
                ready!(self.ticks.poll_tick(context));
                b": keep-alive\n\n"
            }
        };
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(bytes)))))
    }
}
