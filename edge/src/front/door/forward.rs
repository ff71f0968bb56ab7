//! Requests about what another replica holds. The token that the client carries names that replica; the request is
//! forwarded to it, and its answer is passed back unchanged.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts as Head;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body::Body as HttpBody;
use serde_json::json;
use wire::{Message, code};

use super::route::Route;
use super::{InboundRequest, headers, not_found, refused};
use crate::call::Caller;
use crate::front::Front;
use crate::front::body::Body;
use crate::front::legacy::{self, http_sse};
use crate::front::modern::tasks;
use crate::front::refusal::Refusal;
use crate::ops::drain::DrainWatch;
use crate::peer::{ForwardedRequest, Peers, Unanswered};
use crate::upstream;

/// The replica that must answer a request.
pub(in crate::front) struct RemoteOwner<'a> {
    peers: &'a Peers,
    address: SocketAddr,
    /// The token that names the replica; the proof of the forwarded request is sealed with its key.
    token: String,
    held: Held,
    drain: DrainWatch,
}

/// What the request is about.
#[derive(Clone, Copy)]
enum Held {
    Session,
    Call,
    Task,
}

impl Front {
    /// The replica that has the session of a request, if that is another one.
    pub(in crate::front) fn remote_session<'a>(
        &self,
        peers: Option<&'a Peers>,
        headers: &HeaderMap,
        caller: &Caller,
    ) -> Option<RemoteOwner<'a>> {
        let peers = peers?;
        let id = headers::single(headers, &headers::SESSION_ID).ok().flatten()?.to_str().ok()?;
        let address = self.rooms.sessions.elsewhere(id, caller)?.address()?;
        Some(self.remote_owner(peers, address, (id.to_owned(), Held::Session)))
    }

    /// The replica that has the HTTP+SSE channel of a message, if that is another one.
    pub(in crate::front) fn remote_channel<'a>(
        &self,
        peers: Option<&'a Peers>,
        uri: &Uri,
    ) -> Option<RemoteOwner<'a>> {
        let peers = peers?;
        let (home, token) = http_sse::elsewhere(self, uri)?;
        Some(self.remote_owner(peers, home.address()?, (token.to_owned(), Held::Session)))
    }

    /// The replica that has the parked call or the task, of its own or of a server, that a message of a client
    /// without sessions is about.
    pub(in crate::front) fn remote_holder<'a>(
        &self,
        peers: Option<&'a Peers>,
        message: &Message,
    ) -> Option<RemoteOwner<'a>> {
        let peers = peers?;
        let text = |key| message.param(key)?.as_str();
        let state =
            || text("requestState").and_then(|state| Some((self.park.elsewhere(&state)?, state, Held::Call)));
        let task = || {
            let id = text("taskId")?;
            if tasks::is_own(&id) {
                let home = self.tasks.elsewhere(&id)?;
                return Some((home, tasks::token(&id).to_owned().into(), Held::Task));
            }
            let (home, token) = upstream::replica_of(&self.sealer, &id)?;
            Some((home, token.to_owned().into(), Held::Task))
        };
        let (home, token, what) = state().or_else(task)?;
        Some(self.remote_owner(peers, home.address()?, (token.into_owned(), what)))
    }

    fn remote_owner<'a>(
        &self,
        peers: &'a Peers,
        address: SocketAddr,
        (token, held): (String, Held),
    ) -> RemoteOwner<'a> {
        RemoteOwner { peers, address, token, held, drain: self.rooms.drain.clone() }
    }
}

impl Front {
    /// Answers one request that another replica has forwarded. It is never forwarded again.
    pub async fn handle_forwarded<B>(self: Arc<Self>, request: Request<B>) -> Response<Body>
    where
        B: HttpBody<Data = Bytes>,
    {
        let (Head { method, uri, headers, .. }, body) = request.into_parts();
        let caller =
            self.rooms.peers.as_ref().and_then(|peers| peers.forwarded_caller(&method, &uri, &headers));
        let answer = match (caller, Route::of(uri.path())) {
            (None, _) => Err(Refusal::new(
                StatusCode::FORBIDDEN,
                code::INVALID_REQUEST,
                "only replicas with the same keys, and clocks within a minute, are served here",
            )),
            (Some(caller), Route::To(endpoint, slug)) if self.config.serves(endpoint) => {
                let request = InboundRequest { endpoint, method, slug, uri: &uri, headers };
                self.dispatch(request, caller, None, body).await
            }
            (Some(_), _) => Err(not_found("nothing is served at this path")),
        };
        answer.unwrap_or_else(refused)
    }
}

impl RemoteOwner<'_> {
    /// Forwards the request and returns the answer. A stream ends when the credentials of `caller` are revoked.
    ///
    /// # Errors
    /// `lost`, or an unknown session, when the replica is gone; otherwise why it did not answer.
    pub(in crate::front) async fn forward(
        self,
        (method, uri, headers): (Method, Uri, HeaderMap),
        body: Bytes,
        caller: Caller,
    ) -> Result<Response<Body>, Refusal> {
        let (is_stream, drain) = (method == Method::GET, self.drain);
        let request = ForwardedRequest { method, uri, headers, body, token: self.token };
        match self.peers.forward(self.address, request, &caller).await {
            // As streams and calls of this process end.
            Ok((response, place)) if is_stream => {
                let until = async move { drain.stopping().await };
                Ok(response.map(|body| Body::relayed((body, place), until, Some(caller))))
            }
            Ok((response, place)) => {
                let until = async move { drain.gone().await };
                Ok(response.map(|body| Body::relayed((body, place), until, None)))
            }
            Err(Unanswered::Gone) => Err(match self.held {
                Held::Session => legacy::unknown_session(),
                Held::Call => {
                    lost("the process that held this call is gone, and the call with it; make it again")
                }
                Held::Task => lost("the process that held this task is gone, and the task with it"),
            }),
            Err(Unanswered::Failed(error)) => Err(error.into()),
        }
    }
}

/// Status 200, because this is the outcome of a call and no mistake of the client's.
fn lost(message: &'static str) -> Refusal {
    Refusal::new(StatusCode::OK, code::INTERNAL_ERROR, message).with_data(json!({ "reason": "lost" }))
}
