//! The steps that every request takes before its era is known: endpoint, authorization, body, and the choice of the
//! adapter that handles it. A request that another replica must answer is forwarded to it.
//!
//! Must not know what the adapters do with a message.

pub(super) mod classify;
mod forward;
pub(super) mod headers;
pub(super) mod inbound;
pub(super) mod media;
pub(super) mod metadata;
pub(super) mod origin;
pub(super) mod route;

use std::sync::Arc;

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Method, Response, StatusCode, Uri};
use http_body::Body as HttpBody;
use wire::envelope::is_batch;
use wire::error::{ScanError, ScanErrorKind};
use wire::{Kind, Message, code};

use self::classify::{Class, Clues};
use self::inbound::InboundMessage;
use self::media::Accepts;
use self::origin::Admission;
use self::route::EndpointKind;
use super::body::{self, Body};
use super::legacy::{self, batch, http_sse};
use super::refusal::Refusal;
use super::requester::Requester;
use super::{Front, modern, plain};
use crate::auth::Endpoint;
use crate::call::Caller;
use crate::peer::Peers;
use crate::permit::{Bound, CallPermit};

/// A request to one of the endpoints, before its body is read.
pub(super) struct InboundRequest<'a> {
    pub(super) endpoint: EndpointKind,
    pub(super) method: Method,
    pub(super) slug: Option<&'a str>,
    pub(super) uri: &'a Uri,
    pub(super) headers: HeaderMap,
}

/// A POST whose body was read and is one message.
pub(super) struct PostedMessage {
    pub(super) headers: HeaderMap,
    pub(super) accepts: Accepts,
    pub(super) inbound: InboundMessage,
}

/// A body that was read, and a permit for the call that it may be.
struct ReceivedBody {
    permit: Result<CallPermit, Bound>,
    bytes: Bytes,
}

impl Front {
    /// Answers a request to one of the endpoints, with the headers that let a page of another origin read the answer.
    pub(super) async fn serve<B>(
        self: &Arc<Self>,
        admission: Result<Admission, Refusal>,
        request: InboundRequest<'_>,
        body: B,
    ) -> Response<Body>
    where
        B: HttpBody<Data = Bytes>,
    {
        let admission = match admission {
            Ok(admission) => admission,
            Err(refusal) => return refused(refusal),
        };
        let answer = if request.method == Method::OPTIONS {
            admission.preflight(&request.headers)
        } else {
            self.authorize(request, body).await
        };
        let mut response = answer.unwrap_or_else(refused);
        admission.open_to_page(response.headers_mut());
        response
    }

    /// Checks method and credentials, then dispatches the request.
    async fn authorize<B>(
        self: &Arc<Self>,
        request: InboundRequest<'_>,
        body: B,
    ) -> Result<Response<Body>, Refusal>
    where
        B: HttpBody<Data = Bytes>,
    {
        let checked = request.endpoint.check_method(&request.method, &request.headers);
        // Where there is metadata to find, clients look for the challenge by GET, before they have a session.
        let may_look = request.method == Method::GET && self.rooms.auth.has_metadata();
        let checked = if may_look { checked } else { Ok(checked?) };
        let at = Endpoint { path: request.endpoint.path(request.uri.path()), server: request.slug };
        let caller = self.rooms.auth.authenticate(&request.headers, at).await?;
        checked?;
        self.dispatch(request, caller, self.rooms.peers.as_ref(), body).await
    }

    /// Answers an authorized request, or forwards it to the one of `peers` that holds what it is about.
    async fn dispatch<B>(
        self: &Arc<Self>,
        request: InboundRequest<'_>,
        caller: Caller,
        peers: Option<&Peers>,
        body: B,
    ) -> Result<Response<Body>, Refusal>
    where
        B: HttpBody<Data = Bytes>,
    {
        let InboundRequest { endpoint, method, slug, uri, headers } = request;
        let server = |slug| {
            self.rooms.gateway.server(&caller, slug).ok_or_else(|| not_found("no server of that name"))
        };
        let scope = slug.map(server).transpose()?;
        let requester = Requester { caller, scope };
        match endpoint {
            EndpointKind::Sse => {
                media::wants_events(&headers)?;
                http_sse::open(self, uri, requester)
            }
            EndpointKind::Messages => self.post_to_channel((headers, uri), requester, peers, body).await,
            EndpointKind::Call => self.plain(headers, requester, body).await,
            EndpointKind::Mcp if method == Method::GET || method == Method::DELETE => {
                if let Some(owner) = self.remote_session(peers, &headers, &requester.caller) {
                    return owner
                        .forward((method, uri.clone(), headers), Bytes::new(), requester.caller)
                        .await;
                }
                if method == Method::GET {
                    legacy::open_stream(self, &headers, &requester)
                } else {
                    legacy::end_session(self, &headers, &requester)
                }
            }
            EndpointKind::Mcp => self.post((headers, uri), requester, peers, body).await,
        }
    }

    /// Takes a message, or a batch, for a channel of HTTP+SSE; the answer goes to its stream.
    async fn post_to_channel<B>(
        self: &Arc<Self>,
        (headers, uri): (HeaderMap, &Uri),
        requester: Requester,
        peers: Option<&Peers>,
        body: B,
    ) -> Result<Response<Body>, Refusal>
    where
        B: HttpBody<Data = Bytes>,
    {
        if let Some(owner) = self.remote_channel(peers, uri) {
            let ReceivedBody { bytes, permit: _held } = self.receive(&requester.caller, body).await?;
            return owner.forward((Method::POST, uri.clone(), headers), bytes, requester.caller).await;
        }
        let to = http_sse::addressee(self, uri, &requester)?;
        media::is_json(&headers)?;
        let received = self.receive(&requester.caller, body).await?;
        if is_batch(&received.bytes)
            && let Some(session) = to.batching()?
        {
            drop(received.permit); // each call takes its own
            return http_sse::take_batch(self, &to, &session, &received.bytes);
        }
        http_sse::take(self, &to, self.inbound(requester, received)?)
    }

    async fn plain<B>(
        &self,
        headers: HeaderMap,
        requester: Requester,
        body: B,
    ) -> Result<Response<Body>, Refusal>
    where
        B: HttpBody<Data = Bytes>,
    {
        media::is_json(&headers)?;
        let ReceivedBody { permit, bytes } = self.receive(&requester.caller, body).await?;
        plain::call(self, requester, permit.map_err(Bound::refusal)?, &bytes).await
    }

    /// Takes what is posted to the MCP endpoint.
    async fn post<B>(
        &self,
        (headers, uri): (HeaderMap, &Uri),
        requester: Requester,
        peers: Option<&Peers>,
        body: B,
    ) -> Result<Response<Body>, Refusal>
    where
        B: HttpBody<Data = Bytes>,
    {
        media::is_json(&headers)?;
        let accepts = Accepts::of(&headers)?;
        let received = self.receive(&requester.caller, body).await?;
        if is_batch(&received.bytes) {
            if let Some(owner) = self.remote_session(peers, &headers, &requester.caller) {
                return owner
                    .forward((Method::POST, uri.clone(), headers), received.bytes, requester.caller)
                    .await;
            }
            if let Some(session) = legacy::batching(self, &headers, &requester) {
                drop(received.permit); // each call takes its own
                return batch::answer(self, &requester, &session, accepts, &received.bytes).await;
            }
        }
        let inbound = self.inbound(requester, received)?;
        let id = inbound.message.id().filter(|_| inbound.message.kind() == Kind::Request).cloned();
        let posted = PostedMessage { headers, accepts, inbound };
        self.post_message(uri, posted, peers).await.map_err(|refusal| refusal.answering(id.as_ref()))
    }

    /// Hands one message to the adapter of its era, or forwards it to the replica that holds what it is about.
    async fn post_message(
        &self,
        uri: &Uri,
        posted: PostedMessage,
        peers: Option<&Peers>,
    ) -> Result<Response<Body>, Refusal> {
        let PostedMessage { headers, inbound, .. } = &posted;
        let class = self.class(headers, &inbound.message)?;
        let owner = match class {
            Class::Legacy => self.remote_session(peers, headers, &inbound.requester.caller),
            Class::Modern => self.remote_holder(peers, &inbound.message),
            Class::Initialize | Class::ModernNotice => None,
        };
        if let Some(owner) = owner {
            let PostedMessage { headers, inbound, .. } = posted;
            let bytes = inbound.message.bytes().clone();
            return owner
                .forward((Method::POST, uri.clone(), headers), bytes, inbound.requester.caller)
                .await;
        }
        match class {
            Class::Modern => modern::request(self, posted).await,
            Class::ModernNotice => modern::notice(headers, &inbound.message),
            Class::Initialize => legacy::initialize(self, posted).await,
            Class::Legacy => legacy::message(self, posted).await,
        }
    }

    /// Reads a body. The permit is taken first, because the body's bytes count for it.
    async fn receive<B>(&self, caller: &Caller, body: B) -> Result<ReceivedBody, Refusal>
    where
        B: HttpBody<Data = Bytes>,
    {
        let mut permit = self.rooms.permits.call(caller.principal());
        let bytes = self.read(body, &mut permit).await?;
        Ok(ReceivedBody { permit, bytes })
    }

    fn inbound(
        &self,
        requester: Requester,
        ReceivedBody { permit, bytes }: ReceivedBody,
    ) -> Result<InboundMessage, Refusal> {
        let message = Message::scan(bytes, &self.config.limits).map_err(|error| self.unreadable(&error))?;
        Ok(InboundMessage { requester, permit, message })
    }

    /// The refusal of a body that is no valid message; counts the bound that it exceeds, if any.
    pub(super) fn unreadable(&self, error: &ScanError) -> Refusal {
        match error.kind {
            ScanErrorKind::TooDeep => self.rooms.permits.metrics().hit(Bound::Depth),
            ScanErrorKind::TooManyMembers => self.rooms.permits.metrics().hit(Bound::Members),
            _ => {}
        }
        classify::uncounted_refusal(error)
    }

    async fn read<B>(&self, body: B, permit: &mut Result<CallPermit, Bound>) -> Result<Bytes, Refusal>
    where
        B: HttpBody<Data = Bytes>,
    {
        let limit_bytes = self.config.limits.body_bytes;
        body::read(body, limit_bytes, self.config.body_timeout, permit).await.map_err(|error| {
            if matches!(error, body::ReadError::TooLarge(_)) {
                self.rooms.permits.metrics().hit(Bound::Body);
            }
            error.into()
        })
    }

    fn class(&self, headers: &HeaderMap, message: &Message) -> Result<Class, Refusal> {
        let clues =
            Clues { version: headers::version(headers), session: headers.contains_key(&headers::SESSION_ID) };
        classify::classify(message, clues)
    }
}

fn refused(refusal: Refusal) -> Response<Body> {
    tracing::debug!(status = refusal.status().as_u16(), "request refused");
    refusal.into_response()
}

pub(super) fn not_found(message: &'static str) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, code::INVALID_REQUEST, message)
}
