//! The bodies of both directions: a request's, read once within its bounds, and a response's, in slices.
//!
//! Guarantees: bytes are counted before they are kept, a body over its bound is not read to its end, a body
//! that arrives in one piece is not copied, and a client that sends too slowly is timed out.

use std::convert::Infallible;
use std::fmt;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;

use hyper::body::Incoming;
use wire::splice::Parts;

use crate::call::Caller;
use crate::peer::Place;
use crate::permit::{Bound, CallPermit};

/// A response's body.
#[derive(Default)]
pub struct Body(Inner);

#[derive(Default)]
enum Inner {
    #[default]
    Empty,
    Whole(Parts),
    Stream(Pin<Box<dyn HttpBody<Data = Parts, Error = Infallible> + Send>>),
    Relayed(Box<Relayed>),
}

/// The response of another replica.
struct Relayed {
    incoming: Incoming,
    /// Resolves when this replica ends it.
    until: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// The caller, if the stream stays open only as long as the caller's credentials are valid.
    caller: Option<Caller>,
    _place: Place,
}

impl Body {
    /// A body whose length is known.
    pub(super) fn whole(parts: impl Into<Parts>) -> Self {
        Self(Inner::Whole(parts.into()))
    }

    /// The response of another replica, unchanged. It ends when `until` resolves, or when the credentials of `caller` are
    /// revoked.
    pub(super) fn relayed(
        (incoming, place): (Incoming, Place),
        until: impl Future<Output = ()> + Send + 'static,
        caller: Option<Caller>,
    ) -> Self {
        Self(Inner::Relayed(Box::new(Relayed { incoming, until: Box::pin(until), caller, _place: place })))
    }

    /// A body that is streamed.
    pub(super) fn stream(stream: impl HttpBody<Data = Parts, Error = Infallible> + Send + 'static) -> Self {
        Self(Inner::Stream(Box::pin(stream)))
    }
}

impl HttpBody for Body {
    type Data = Parts;
    // Only the response of another replica can break off, and then the client has to notice.
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Parts>, hyper::Error>>> {
        match &mut self.0 {
            Inner::Empty => Poll::Ready(None),
            Inner::Whole(parts) => {
                let parts = std::mem::take(parts);
                self.0 = Inner::Empty;
                Poll::Ready(Some(Ok(Frame::data(parts))))
            }
            Inner::Stream(stream) => {
                let next = std::task::ready!(stream.as_mut().poll_frame(context));
                Poll::Ready(next.map(|frame| frame.map_err(|never| match never {})))
            }
            Inner::Relayed(relayed) => {
                let Relayed { incoming, until, caller, .. } = &mut **relayed;
                if until.as_mut().poll(context).is_ready() {
                    self.0 = Inner::Empty;
                    return Poll::Ready(None);
                }
                let next = std::task::ready!(Pin::new(incoming).poll_frame(context));
                let next = next.filter(|_| !caller.as_ref().is_some_and(Caller::is_over));
                Poll::Ready(next.map(|frame| frame.map(|frame| frame.map_data(Parts::from))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Empty => true,
            Inner::Relayed(relayed) => relayed.incoming.is_end_stream(),
            Inner::Whole(_) | Inner::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Empty => SizeHint::with_exact(0),
            Inner::Whole(parts) => SizeHint::with_exact(parts.len_bytes() as u64),
            Inner::Stream(_) => SizeHint::default(),
            Inner::Relayed(relayed) => relayed.incoming.size_hint(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Inner::Empty => "Body(empty)",
            Inner::Whole(_) => "Body(whole)",
            Inner::Stream(_) => "Body(stream)",
            Inner::Relayed(_) => "Body(relayed)",
        })
    }
}

/// Why a request's body was not read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReadError {
    /// It is larger than this many bytes, by its declared length or as read.
    TooLarge(usize),
    /// A bound of the process is reached.
    Full(Bound),
    /// It did not come in time.
    Slow,
    /// The connection broke, or the framing of the body did.
    Broken,
}

/// Reads a body of at most `limit_bytes` within `timeout`.
///
/// `permit` is the call's, or the bound that refused one. Notifications and answers need no permit, and what a
/// body is turns out when it is read: so without a permit a small body is still read.
///
/// # Errors
/// See [`ReadError`].
pub(super) async fn read<B>(
    body: B,
    limit_bytes: usize,
    timeout: Duration,
    permit: &mut Result<CallPermit, Bound>,
) -> Result<Bytes, ReadError>
where
    B: HttpBody<Data = Bytes>,
{
    let reading = match permit {
        Ok(permit) => tokio::time::timeout(timeout, collect(body, limit_bytes, Some(permit))).await,
        Err(bound) => {
            match tokio::time::timeout(timeout, collect(body, SMALL_BYTES.min(limit_bytes), None)).await {
                Ok(Err(ReadError::TooLarge(_))) => Ok(Err(ReadError::Full(*bound))),
                other => other,
            }
        }
    };
    reading.unwrap_or(Err(ReadError::Slow))
}

async fn collect<B>(
    body: B,
    limit_bytes: usize,
    mut permit: Option<&mut CallPermit>,
) -> Result<Bytes, ReadError>
where
    B: HttpBody<Data = Bytes>,
{
    let declared = body.size_hint();
    if declared.lower() > limit_bytes as u64 {
        return Err(ReadError::TooLarge(limit_bytes));
    }
    let mut take = |more: usize| match permit.as_deref_mut() {
        Some(permit) => permit.hold_bytes(more).map_err(ReadError::Full),
        None => Ok(()),
    };
    let declared_bytes = usize::try_from(declared.lower()).unwrap_or_default();
    let mut body = pin!(body);
    let (mut first, mut rest) = (Bytes::new(), BytesMut::new());
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Err(ReadError::Broken) };
        let Ok(chunk) = frame.into_data() else { continue }; // trailers are ignored
        let read_bytes = first.len() + rest.len() + chunk.len();
        if read_bytes > limit_bytes {
            return Err(ReadError::TooLarge(limit_bytes));
        }
        // What is announced does not count, for announcing costs nothing. Until now the chunk is in its connection's own
        // buffer, which is bounded.
        take(chunk.len())?;
        if first.is_empty() && rest.is_empty() {
            first = chunk;
            continue;
        }
        if rest.is_empty() {
            // Of what is announced a part that grows with what has come: the memory is taken when it is reserved.
            rest.reserve(declared_bytes.min(4 * read_bytes).max(read_bytes));
            rest.extend_from_slice(&std::mem::take(&mut first));
        }
        rest.extend_from_slice(&chunk);
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

/// The bytes that are read of a body without a permit: enough for any notification, and 40 MB if all of 10,000
/// connections send one.
const SMALL_BYTES: usize = 4096;

#[cfg(test)]
mod tests;
