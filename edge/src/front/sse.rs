//! Server-sent events: messages as events, and a comment when nothing happens for a while.
//!
//! Guarantees: the data of an event never contains a raw line break; an idle stream sends a comment often enough that
//! no proxy cuts it. What is not here: which messages are sent.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};

use http_body::{Body as HttpBody, Frame};
use tokio::time::{Instant, Sleep};
use wire::frame::one_line;
use wire::splice::Parts;

use super::body::Body;
use super::metrics::StreamCount;
use crate::call::StreamCredentials;
use crate::session::{Reader, Said, Source};

/// The messages of an event stream.
pub(super) enum Feed {
    /// Messages that are sent once.
    Plain(Box<dyn Source>),
    /// Messages that a client can resume from; they have ids.
    Kept(Reader),
}

impl Feed {
    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Parts>> {
        match self {
            Self::Plain(source) => source.poll_next(context).map(|next| match next {
                Said::Message(message, _) | Said::Last(message) => Some(event(&message)),
                Said::End => None,
            }),
            Self::Kept(reader) => reader.poll_next(context).map(|next| {
                let (id, message) = next?;
                let mut marked = Parts::from(Bytes::from(format!("id: {id}\n")));
                marked.extend(event(&message));
                Some(marked)
            }),
        }
    }
}

/// The event that makes a stream resumable before its first message: its position, and how long to wait before
/// reconnecting.
// MCP 2025-11-25 basic/transports, Sending Messages: an event id and an empty data field
pub(super) fn priming(reader: &Reader) -> Parts {
    Bytes::from(format!("id: {}\nretry: {}\ndata:\n\n", reader.position(), RETRY.as_millis())).into()
}

/// One message as an event.
// HTML Living Standard §9.2: a line break of any kind ends a field
fn event(message: &Parts) -> Parts {
    let mut event = Parts::from(Bytes::from_static(b"event: message\ndata: "));
    message.iter().for_each(|slice| event.push(one_line(slice.clone())));
    event.push(Bytes::from_static(b"\n\n"));
    event
}

/// A response that streams `first`, if there is one, and then the events of `feed`.
pub(super) fn response(
    first: Option<Parts>,
    feed: Feed,
    keep_alive: Duration,
    count: StreamCount,
) -> Response<Body> {
    with_headers(Body::stream(EventStream::new(first, feed, keep_alive, count)))
}

/// A response that streams what belongs to no call; it stays open as long as `validity` says.
pub(super) fn long_lived(
    validity: impl StreamValidity,
    (first, feed): (Option<Parts>, Feed),
    keep_alive: Duration,
    count: StreamCount,
) -> Response<Body> {
    let stream = EventStream::new(first, feed, keep_alive, count);
    with_headers(Body::stream(EventStream { validity: Some(Box::new(validity)), ..stream }))
}

/// A response that is one event.
pub(super) fn single(message: &Parts) -> Response<Body> {
    with_headers(Body::whole(event(message)))
}

/// A response without events: HTTP requires a response also to a request that its client has cancelled. A client that
/// takes nothing but JSON gets an error instead.
// MCP 2025-11-25 basic/utilities/cancellation: no response to a cancelled request
pub(super) fn empty() -> Response<Body> {
    with_headers(Body::whole(Parts::new()))
}

fn with_headers(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // MCP 2026-07-28 streamable-http, Sending Messages: proxies must not hold events back
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// Decides whether a stream may stay open: the credentials that opened it, say.
pub(super) trait StreamValidity: Send + Sync + 'static {
    /// Whether it has to end.
    fn is_over(&self) -> bool;
}

impl StreamValidity for StreamCredentials {
    fn is_over(&self) -> bool {
        StreamCredentials::is_over(self)
    }
}

struct EventStream {
    first: Option<Parts>,
    /// `None` once there is nothing more to come.
    feed: Option<Feed>,
    /// Runs out when nothing was sent for `keep_alive`.
    quiet: Pin<Box<Sleep>>,
    keep_alive: Duration,
    /// Checked with each event and each comment.
    validity: Option<Box<dyn StreamValidity>>,
    _count: StreamCount,
}

impl EventStream {
    fn new(first: Option<Parts>, feed: Feed, keep_alive: Duration, count: StreamCount) -> Self {
        let quiet = Box::pin(tokio::time::sleep(keep_alive));
        Self { first, feed: Some(feed), quiet, keep_alive, validity: None, _count: count }
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Parts>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        let Some(feed) = &mut self.feed else { return Poll::Ready(None) };
        let event = ready!(feed.poll_event(context));
        if event.is_none() {
            self.feed = None;
        }
        Poll::Ready(event)
    }
}

impl HttpBody for EventStream {
    type Data = Parts;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Parts>, Infallible>>> {
        let parts = match self.poll_event(context) {
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Ready(Some(parts)) => parts,
            Poll::Pending => {
                ready!(self.quiet.as_mut().poll(context));
                Parts::from(Bytes::from_static(KEEP_ALIVE))
            }
        };
        if self.validity.as_ref().is_some_and(|validity| validity.is_over()) {
            (self.feed, self.first) = (None, None);
            return Poll::Ready(None);
        }
        let next = Instant::now() + self.keep_alive;
        self.quiet.as_mut().reset(next);
        Poll::Ready(Some(Ok(Frame::data(parts))))
    }
}

/// A comment: receivers skip it.
const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";
/// How long a client waits before it reconnects. 1 s: the default of SDK clients, and no storm.
const RETRY: Duration = Duration::from_secs(1);
