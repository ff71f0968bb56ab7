//! Server-sent events: messages as events, and a comment when nothing happens for a while.
//!
//! Guarantees: an event never holds a raw line break inside its data; an idle stream says something often
//! enough that no proxy in between cuts it. What is not here: what is sent.

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

/// What an event stream is made of.
pub(super) trait Feed: Send + Sized + 'static {
    /// The next message. Takes the feed and gives it back, so that a feed that ended cannot be asked.
    fn next(self) -> impl Future<Output = Fed<Self>> + Send;
}

/// What [`Feed::next`] yields.
pub(super) enum Fed<F> {
    /// A message; more may follow.
    More(Parts, F),
    /// The last message.
    Last(Parts),
    /// Nothing more.
    End,
}

/// One message as an event.
// HTML Living Standard §9.2: a line break of any kind ends a field
fn event(message: &Parts) -> Parts {
    let mut event = Parts::from(Bytes::from_static(b"event: message\ndata: "));
    message.iter().for_each(|slice| event.push(one_line(slice.clone())));
    event.push(Bytes::from_static(b"\n\n"));
    event
}

/// A response that streams `first` if there is one, then what `feed` yields.
pub(super) fn response<F: Feed>(
    first: Option<Parts>,
    feed: F,
    keep_alive: Duration,
    count: StreamCount,
) -> Response<Body> {
    with_headers(Body::stream(EventStream {
        first: first.as_ref().map(event),
        step: Step::More(Box::pin(feed.next())),
        quiet: Box::pin(tokio::time::sleep(keep_alive)),
        keep_alive,
        _count: count,
    }))
}

/// A response that is one event.
pub(super) fn single(message: &Parts) -> Response<Body> {
    with_headers(Body::whole(event(message)))
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

struct EventStream<F> {
    first: Option<Parts>,
    step: Step<F>,
    /// Runs out when nothing was sent for `keep_alive`.
    quiet: Pin<Box<Sleep>>,
    keep_alive: Duration,
    _count: StreamCount,
}

enum Step<F> {
    More(Pin<Box<dyn Future<Output = Fed<F>> + Send>>),
    /// Terminal.
    Over,
}

impl<F: Feed> EventStream<F> {
    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Parts>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        let Step::More(step) = &mut self.step else { return Poll::Ready(None) };
        Poll::Ready(match ready!(step.as_mut().poll(context)) {
            Fed::More(message, feed) => {
                self.step = Step::More(Box::pin(feed.next()));
                Some(event(&message))
            }
            Fed::Last(message) => {
                self.step = Step::Over;
                Some(event(&message))
            }
            Fed::End => {
                self.step = Step::Over;
                None
            }
        })
    }
}

impl<F: Feed> HttpBody for EventStream<F> {
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
        let next = Instant::now() + self.keep_alive;
        self.quiet.as_mut().reset(next);
        Poll::Ready(Some(Ok(Frame::data(parts))))
    }
}

/// A comment: receivers skip it.
const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";
